"""Batch normalization: by running statistics, by its own, and its derivative.

Optional operands have flags: `weight=False` says that there is no such operand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from lazytorch.ir import Builder, Item, Node, Op
from lazytorch.ops.checks import check_channels, optional
from lazytorch.ops.conv import suggested
from lazytorch.ops.elementary import Rsqrt
from lazytorch.ops.layout import Detach
from lazytorch.ops.pointwise import Add, Mul, Neg, Sub
from lazytorch.ops.reduction import tensor
from lazytorch.types import TensorType, TupleType, tensor_type

if TYPE_CHECKING:
    from lazytorch.ops.calculus import Calculus, Cotangents


class BatchNorm(Op):
    """Inference: x (N, C, ...) normalized by the running mean and variance, the last operands.

    Operands: x, weight and bias where present, mean, variance.
    """

    eps: float
    weight: bool = True
    bias: bool = True

    def infer(self, x: TensorType, *xs: TensorType) -> TensorType:
        check_channels(self, x, xs)
        return suggested(x, x.shape)

    def run(self, x: torch.Tensor, *xs: torch.Tensor) -> torch.Tensor:
        weight, bias, mean, var = optional(xs, self.weight, self.bias, True, True)
        return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, *xs: Node) -> Cotangents:
        g, x, *parameters = s.wide(g, x, *xs)
        weight, _, mean, var = optional(parameters, self.weight, self.bias, True, True)
        rest = (1,) * (tensor(x).rank - 2)
        mean, var = (s.reshape(y, (*tensor(y).shape, *rest)) for y in (mean, var))
        scale = s.rsqrt(s.add(var, self.eps))
        across = (0, *range(2, tensor(x).rank))
        by_weight = s.sum(s.mul(g, s.mul(s.sub(x, mean), scale)), across) if weight else None
        by_x = s.mul(g, s.mul(s.reshape(weight, tensor(scale).shape), scale) if weight else scale)
        parts = [by_weight] * self.weight + [s.sum(g, across)] * self.bias
        return (by_x, *parts, None, None)


def scale_and_shift(
    b: Builder, op: BatchNorm, parameters: Sequence[Node], before: Node | None = None
) -> tuple[Node, Node]:
    """s and t for each channel, with which the norm of `x + before` is `x * s + t`.

    s = gamma / sqrt(var + eps) and t = beta - (mean - before) * s. `parameters` are the norm's
    operands after x, in the dtype that is computed in.
    """
    gamma, beta, mean, var = optional(parameters, op.weight, op.bias, True, True)
    scale = b(Rsqrt(), b(Add(), var, op.eps))
    if gamma is not None:
        scale = b(Mul(), gamma, scale)
    center = mean if before is None else b(Sub(), mean, before)
    shift = b(Mul(), center, scale)
    return scale, b(Sub(), beta, shift) if beta is not None else b(Neg(), shift)


class BatchNormTrain(Op):
    """Training: x normalized by its own statistics; a tuple of that and, with `stats`, the new
    running mean and variance.

    Operands: x, weight and bias where present, with `stats` the running mean and variance, and
    the momentum where `momentum` is None.
    """

    momentum: float | None
    eps: float
    weight: bool = True
    bias: bool = True
    stats: bool = True

    def infer(self, x: TensorType, *xs: TensorType) -> TupleType:
        check_channels(self, x, xs[:-1] if self.momentum is None else xs)
        _, _, mean, var, _ = self.given(xs)
        return TupleType((suggested(x, x.shape), *((mean, var) if self.stats else ())))

    def given(self, xs: Iterable[Any]) -> Iterator[Any]:
        """Weight, bias, mean, variance, momentum."""
        flags = (self.weight, self.bias, self.stats, self.stats, self.momentum is None)
        return optional(xs, *flags)

    def run(self, x: torch.Tensor, *xs: Any) -> tuple[torch.Tensor, ...]:
        weight, bias, mean, var, momentum = self.given(xs)
        momentum = float(momentum if self.momentum is None else self.momentum)
        stats = (mean.clone(), var.clone()) if self.stats else ()
        mean, var = stats or (None, None)
        result = functional.batch_norm(x, mean, var, weight, bias, True, momentum, self.eps)
        return (result, *stats)

    def saving(self, *xs: TensorType) -> Op | None:
        return self.keeping() if xs[0].numel else None

    def keeping(self) -> BatchNormSaving:
        """What also keeps the statistics that the derivative needs."""
        return BatchNormSaving(self.momentum, self.eps, self.weight, self.bias, self.stats)

    def vjp(self, s: Calculus, g: list[Node | None], out: Node, x: Node, *xs: Node) -> Cotangents:
        if g[0] is None:
            return [None for _ in (x, *xs)]
        if not tensor(x).numel:  # which the kernels that keep statistics refuse
            own = xs[: self.weight + self.bias]
            return [*s.zeros(x, *own), *[None for _ in xs[len(own) :]]]
        kept = s(self.keeping(), x, *xs)
        first = 3 if self.stats else 1
        weight = xs[:1] if self.weight else ()
        back = BatchNormBackward(self.eps, self.weight)
        # As torch has it: the statistics' own derivatives are in the second derivative's formula.
        saved = [s(Detach(), s(Item(first + i), kept)) for i in range(2)]
        pulled = s(back, g[0], x, *weight, *saved)
        found = [s(Item(i), pulled) for i in range(3)]
        parts = [found[1]] * self.weight + [found[2]] * self.bias
        return (found[0], *parts, *[None for _ in xs[len(parts) :]])


class BatchNormSaving(BatchNormTrain):
    """What `BatchNormTrain` gives, then the mean and the inverse standard deviation by channel."""

    def infer(self, x: TensorType, *xs: Any) -> TupleType:
        saved = tensor_type(
            x.shape[1:2], saved_dtype(x, [y for y in xs if isinstance(y, TensorType)]), x.device
        )
        return TupleType((*super().infer(x, *xs).items, saved, saved))

    def saving(self, *xs: TensorType) -> Op | None:
        return None

    def run(self, x: torch.Tensor, *xs: Any) -> tuple[torch.Tensor, ...]:
        weight, bias, mean, var, momentum = self.given(xs)
        momentum = float(momentum if self.momentum is None else self.momentum)
        stats = (mean.clone(), var.clone()) if self.stats else ()
        mean, var = stats or (None, None)
        y, *saved = torch.native_batch_norm(x, weight, bias, mean, var, True, momentum, self.eps)
        return (y, *stats, *saved)


class BatchNormBackward(Op):
    """The cotangents of x, weight and bias.

    Operands: the cotangent of the norm, x, the weight where present, what `BatchNormSaving` kept.
    """

    eps: float
    weight: bool = True

    def infer(self, g: TensorType, x: TensorType, *xs: TensorType) -> TupleType:
        each = xs[-1].with_dtype(xs[0].dtype if self.weight else xs[-1].dtype)
        return TupleType((suggested(x, x.shape), each, each))

    def run(self, g: torch.Tensor, x: torch.Tensor, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weight, mean, scale = optional(xs, self.weight, True, True)
        if weight is None and x.is_cuda:  # whose dtype torch's kernel gives all three
            weight = torch.ones_like(mean)
        return torch.ops.aten.native_batch_norm_backward(
            g, x, weight, None, None, mean, scale, True, self.eps, [True, True, True]
        )


def saved_dtype(x: TensorType, parameters: Sequence[TensorType]) -> torch.dtype:
    """The dtype of saved statistics: float32 at least on a GPU, the parameters' on the CPU."""
    if x.device.type == "cpu":
        return parameters[0].dtype if parameters else x.dtype
    return torch.promote_types(x.dtype, torch.float32)
