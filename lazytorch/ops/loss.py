"""Losses. `reduction` is torch's number: 0 none, 1 mean, 2 sum."""

from __future__ import annotations

import math
from math import prod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from lazytorch.errors import ShapeError
from lazytorch.ir import Op
from lazytorch.ops.activation import Hardtanh
from lazytorch.ops.base import Rowwise, elementwise_strides
from lazytorch.ops.checks import check_devices
from lazytorch.ops.emitter import RowEmitter, Value
from lazytorch.ops.norm import optional
from lazytorch.ops.reduce import LogSoftmax, Softmax
from lazytorch.ops.reduction import tensor
from lazytorch.types import TensorType, Type, broadcast, promote, tensor_type

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents

REDUCTIONS = ("none", "mean", "sum")


class ElementwiseLoss(Op, abstract=True):
    """A loss of each element of (input, target), reduced."""

    reduction: int = 1

    def infer(self, x: TensorType, target: TensorType, *more: TensorType) -> TensorType:
        operands = (x, target, *more)
        dtype = promote(operands)
        check_devices(self, *[t for t in operands if t.shape or t.device.type != "cpu"])
        try:
            shape = broadcast([t.shape for t in operands])
        except ValueError as error:
            raise ShapeError(f"{self.name()}: {error}", {"input": x, "target": target}) from None
        if self.reduction:
            return tensor_type((), dtype, x.device)
        layouts = tuple([(t.shape, t.strides) for t in operands])
        return tensor_type(shape, dtype, x.device, elementwise_strides(shape, layouts, False))

    def how(self) -> str:
        """The reduction by name."""
        return REDUCTIONS[self.reduction]

    def each(self, s: Calculus, g: Node, *xs: Node) -> Node:
        """What flows to the loss of each element of the operands."""
        count = prod(broadcast([tensor(x).shape for x in xs]))
        return s.scaled(g, 1 / count) if self.reduction == 1 and count else g


class MseLoss(ElementwiseLoss):
    """Squared error."""

    def run(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.mse_loss(x, target, self.reduction)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, target: Node) -> Cotangents:
        found = s.mul(self.each(s, s.scaled(g, 2.0), x, target), s.sub(x, target))
        return (found, s.neg(found))


class SmoothL1Loss(ElementwiseLoss):
    """Squared error below `beta`, absolute error above."""

    beta: float = 1.0

    def run(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.smooth_l1_loss(x, target, self.reduction, self.beta)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, target: Node) -> Cotangents:
        apart = s.sub(x, target)
        slope = s(Hardtanh(), s.div(apart, self.beta)) if self.beta else s.sign(apart)
        found = s.mul(self.each(s, g, x, target), slope)
        return (found, s.neg(found))


class HuberLoss(ElementwiseLoss):
    """Squared error below `delta`, `delta` times absolute error above."""

    delta: float = 1.0

    def run(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.huber_loss(x, target, self.reduction, self.delta)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, target: Node) -> Cotangents:
        slope = s(Hardtanh(-self.delta, self.delta), s.sub(x, target))
        found = s.mul(self.each(s, g, x, target), slope)
        return (found, s.neg(found))


class BinaryCrossEntropy(ElementwiseLoss):
    """Cross entropy of probabilities; a third operand weighs the elements."""

    def run(
        self, x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.ops.aten.binary_cross_entropy(x, target, weight, self.reduction)


class BinaryCrossEntropyWithLogits(ElementwiseLoss):
    """Cross entropy of sigmoid(x). Operands: x, target, weight and pos_weight where present."""

    weight: bool = False
    pos_weight: bool = False

    def run(self, x: torch.Tensor, target: torch.Tensor, *xs: torch.Tensor) -> torch.Tensor:
        weight, pos_weight = optional(xs, self.weight, self.pos_weight)
        return torch.ops.aten.binary_cross_entropy_with_logits(
            x, target, weight, pos_weight, self.reduction
        )

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, target: Node, *xs: Node) -> Cotangents:
        weight, pos_weight = optional(xs, self.weight, self.pos_weight)
        g = self.each(s, g, x, target, *xs)
        g = g if weight is None else s.mul(g, weight)
        rest = [None for _ in xs]
        if pos_weight is None:
            return (s.mul(g, s.sub(s.sigmoid(x), target)), s.mul(g, s.neg(x)), *rest)
        hit = s.mul(pos_weight, target)
        slope = s.sub(s.mul(s.sub(s.add(hit, 1.0), target), s.sigmoid(x)), hit)
        by_target = s.sub(s.log_sigmoid(s.neg(x)), s.mul(pos_weight, s.log_sigmoid(x)))
        return (s.mul(g, slope), s.mul(g, by_target), *rest)


class CheckedClasses(Op):
    """The numbers of classes, once each is one of 0 to `classes` or ignored; IndexError, as torch's
    losses on the CPU raise it, where one is not."""

    classes: int
    ignore_index: int = -100

    def infer(self, target: TensorType) -> TensorType:
        return target.dense()

    def run(self, target: torch.Tensor) -> torch.Tensor:
        if target.numel():
            lowest, highest = [int(x) for x in torch.aminmax(target)]
            if lowest < 0 or highest >= self.classes:
                wrong = ((target < 0) | (target >= self.classes)) & (target != self.ignore_index)
                if wrong.any():
                    raise IndexError(f"Target {int(target[wrong][0])} is out of bounds.")
        return target.clone()


class RowCrossEntropy(Rowwise):
    """Negative log likelihood of softmax over the last dimension, for each row; 0 if ignored.

    Operands: x (..., C), and the number of each row's class (..., 1), NaN where there is no such
    class. The result is of float32 at least.
    """

    once: ClassVar[bool] = True
    extreme: ClassVar[bool] = True
    ignore_index: int = -100

    def infer(self, x: TensorType, target: TensorType) -> TensorType:
        check_devices(self, x, target)
        if target.shape != (*x.shape[:-1], 1) or target.dtype is not torch.int64:
            raise ShapeError(f"{self.name()}: target does not fit", {"input": x, "target": target})
        dtype = torch.promote_types(x.dtype, torch.float32)
        return tensor_type(target.shape, dtype, x.device)

    def along_rows(self, x: TensorType) -> bool:
        return True

    def operand_dtypes(self, *xs: Type) -> tuple[torch.dtype, ...]:
        return (super().operand_dtypes(xs[0], xs[1])[0], torch.int64)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        x, target = xs
        there = s.logical_and(s.ge(target, 0), s.lt(target, s.row_size()))
        chosen = s.where(there, target, -1).to(torch.int32)
        found = s.row_pick(x, chosen)  # first: what it reads is on its way while others are read
        largest, total = s.row_exp_sum(x)
        loss = s.where(there, (largest - found) + s.log(total), math.nan)
        return s.where(s.eq(target, self.ignore_index), 0.0, loss)

    def run(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        there = (target >= 0) & (target < x.shape[-1])
        loss = -torch.log_softmax(x, -1).gather(-1, target.where(there, 0)).where(there, math.nan)
        return loss.where(target != self.ignore_index, 0.0)


class CrossEntropyLoss(Op):
    """Negative log likelihood of softmax over the classes: dimension 1, or 0 of a single sample.

    The target holds class indices, or probabilities in the shape of x. A third operand weighs the
    classes.
    """

    reduction: int = 1
    ignore_index: int = -100
    label_smoothing: float = 0.0

    def infer(
        self, x: TensorType, target: TensorType, weight: TensorType | None = None
    ) -> TensorType:
        check_devices(self, x, target, *(() if weight is None else (weight,)))
        shape = without_classes(self, x)
        if target.shape not in (shape, x.shape):
            raise ShapeError(f"{self.name()}: target does not fit", {"input": x, "target": target})
        return tensor_type(() if self.reduction else shape, x.dtype, x.device)

    def scratch(self, x: TensorType, *others: TensorType) -> int:
        return x.nbytes  # the logarithms of the softmax

    def run(
        self, x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        return functional.cross_entropy(
            x,
            target,
            weight,
            ignore_index=self.ignore_index,
            reduction=REDUCTIONS[self.reduction],
            label_smoothing=self.label_smoothing,
        )

    def vjp(
        self, s: Calculus, g: Node, out: Node, x: Node, target: Node, *weight: Node
    ) -> Cotangents:
        t, dim = tensor(x), 1 if tensor(x).rank > 1 else 0
        flat = 1.0 - self.label_smoothing
        g, x = s.wide(g, x)
        weights = by_class(s, t.shape, dim, *weight)
        rest = [None for _ in weight]
        if tensor(target).dtype.is_floating_point:
            if weight:
                return NotImplemented  # here a weight has a derivative too
            chosen = s.add(s.scaled(target, flat), self.label_smoothing / t.shape[dim])
            g = s.div(g, t.numel / t.shape[dim]) if self.reduction == 1 else g
            g = s.reshape(g, (1,) * t.rank) if self.reduction else s.unsqueeze(g, dim)
            total = s.sum(chosen, (dim,), True)
            by_x = s.mul(g, s.sub(s.mul(s(Softmax(dim), x), total), chosen))
            return (by_x, s.mul(g, s.scaled(s(LogSoftmax(dim), x), -flat)))
        hit, here, g = targets(s, g, t, target, weights, self.reduction, self.ignore_index)
        chosen = s.scaled(hit, flat)
        if self.label_smoothing:
            even = self.label_smoothing / t.shape[dim]
            chosen = s.add(chosen, even if weights is None else s.mul(weights, even))
        p = s(Softmax(dim), x)
        p = s.mul(p, s.sum(chosen, (dim,), True)) if weight else p
        return (s.mul(s.choose(here, g, 0.0), s.sub(p, chosen)), None, *rest)


class NllLoss(Op):
    """Minus the log probability, given in x, of each target class; a third operand weighs them."""

    reduction: int = 1
    ignore_index: int = -100

    def infer(
        self, x: TensorType, target: TensorType, weight: TensorType | None = None
    ) -> TensorType:
        check_devices(self, x, target, *(() if weight is None else (weight,)))
        shape = without_classes(self, x)
        if target.shape != shape:
            raise ShapeError(f"{self.name()}: target does not fit", {"input": x, "target": target})
        return tensor_type(() if self.reduction else shape, x.dtype, x.device)

    def run(
        self, x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        return functional.nll_loss(
            x, target, weight, ignore_index=self.ignore_index, reduction=REDUCTIONS[self.reduction]
        )

    def vjp(
        self, s: Calculus, g: Node, out: Node, x: Node, target: Node, *weight: Node
    ) -> Cotangents:
        t, dim = tensor(x), 1 if tensor(x).rank > 1 else 0
        weights = by_class(s, t.shape, dim, *weight)
        hit, here, g = targets(s, g, t, target, weights, self.reduction, self.ignore_index)
        found = s.mul(s.neg(s.choose(here, g, 0.0)), hit)
        return (found, None, *[None for _ in weight])


def without_classes(op: Op, x: TensorType) -> tuple[int, ...]:
    """The shape of one loss per sample."""
    if not x.rank:
        raise ShapeError(f"{op.name()}: expected at least 1 dimension", {"input": x})
    return () if x.rank == 1 else (x.shape[0], *x.shape[2:])


def by_class(s: Calculus, shape: tuple[int, ...], dim: int, *weight: Node) -> Node | None:
    """The weights of the classes along dimension `dim`; None where all are 1."""
    if not weight:
        return None
    return s.reshape(weight[0], tuple([n if d == dim else 1 for d, n in enumerate(shape)]))


def targets(
    s: Calculus,
    g: Node,
    x: TensorType,
    target: Node,
    weights: Node | None,
    reduction: int,
    ignore_index: int,
) -> tuple[Node, Node, Node]:
    """In the shape of `x`: the weight of each target class where the class is, whether a sample is
    counted, and what flows to its loss."""
    dim = 1 if x.rank > 1 else 0
    target = s.unsqueeze(target, dim)
    here = s.ne(target, ignore_index)
    places = s.arange(x.shape[dim], x.device, (-1,) + (1,) * (x.rank - 1 - dim))
    hit = s.choose(s.eq(places, target), 1.0 if weights is None else weights, 0.0)
    hit = s.cast(hit, tensor(g).dtype)
    if not reduction:
        return hit, here, s.unsqueeze(g, dim)
    if reduction == 1:
        counted = s.cast(here, tensor(g).dtype)
        counted = counted if weights is None else s.choose(here, s.sum(hit, (dim,), True), 0.0)
        g = s.div(g, s.sum(counted, tuple(range(x.rank))))
    return hit, here, s.reshape(g, (1,) * x.rank)
