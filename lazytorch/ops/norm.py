"""Normalization: instance, layer, group and root mean square; batch has a file of its own.

Optional operands have flags: `weight=False` says that there is no such operand.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from lazytorch.errors import DTypeError, ShapeError
from lazytorch.ir import Node, Op
from lazytorch.ops.base import Rowwise
from lazytorch.ops.batch_norm import BatchNorm as BatchNorm
from lazytorch.ops.batch_norm import BatchNormTrain as BatchNormTrain
from lazytorch.ops.batch_norm import scale_and_shift as scale_and_shift
from lazytorch.ops.checks import check_channels, check_devices
from lazytorch.ops.checks import optional as optional
from lazytorch.ops.conv import suggested
from lazytorch.ops.emitter import RowEmitter, Value
from lazytorch.ops.reduce import Mean
from lazytorch.ops.reduction import tensor
from lazytorch.types import TensorType, TupleType

if TYPE_CHECKING:
    from lazytorch.ops.calculus import Calculus, Cotangents


class InstanceNorm(Op):
    """x (N, C, ...) normalized by image and channel, or, with `stats`, by running statistics.

    Operands: x, weight and bias where present, with `stats` the running mean and variance.
    """

    eps: float
    weight: bool = True
    bias: bool = True
    stats: bool = False

    def infer(self, x: TensorType, *xs: TensorType) -> TensorType:
        check_channels(self, x, xs)
        return x.with_shape(x.shape)

    def run(self, x: torch.Tensor, *xs: torch.Tensor) -> torch.Tensor:
        weight, bias, mean, var = optional(xs, self.weight, self.bias, self.stats, self.stats)
        return instance_norm(x, weight, bias, mean, var, not self.stats, 0.0, self.eps)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, *xs: Node) -> Cotangents:
        if self.stats:
            return BatchNorm(self.eps, self.weight, self.bias).vjp(s, g, out, x, *xs)
        each = GroupNorm(tensor(x).shape[1], self.eps, self.weight, self.bias)
        return each.vjp(s, g, out, x, *xs)


class InstanceNormTrain(Op):
    """x normalized by image and channel; a tuple of that and the new running mean and variance.

    Operands: x, weight and bias where present, running mean and variance.
    """

    momentum: float
    eps: float
    weight: bool = True
    bias: bool = True

    def infer(self, x: TensorType, *xs: TensorType) -> TupleType:
        check_channels(self, x, xs)
        return TupleType((x.with_shape(x.shape), *xs[-2:]))

    def run(self, x: torch.Tensor, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weight, bias, mean, var = optional(xs, self.weight, self.bias, True, True)
        stats = (mean.clone(), var.clone())
        result = instance_norm(x, weight, bias, *stats, True, self.momentum, self.eps)
        return (result, *stats)


def instance_norm(x: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """torch's composite; the functional form would refuse images of one element."""
    return torch.instance_norm(x, *arguments, cudnn_enabled=torch.backends.cudnn.enabled)


class LayerNorm(Rowwise):
    """x normalized over its last dimensions. Operands: x, weight and bias where present."""

    normalized_shape: tuple[int, ...]
    eps: float = 1e-5
    weight: bool = True
    bias: bool = True

    def infer(self, x: TensorType, *xs: TensorType) -> TensorType:
        check_normalized(self, x, self.normalized_shape, xs)
        return x.with_shape(x.shape)

    def along_rows(self, x: TensorType) -> bool:
        return len(self.normalized_shape) == 1

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        x, *rest = xs
        weight, bias = optional(rest, self.weight, self.bias)
        centered, variance = s.row_centered(x)
        y = centered * s.rsqrt(variance + self.eps)
        y = y if weight is None else y * weight
        return y if bias is None else y + bias

    def run(self, x: torch.Tensor, *xs: torch.Tensor) -> torch.Tensor:
        weight, bias = optional(xs, self.weight, self.bias)
        return functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, *xs: Node) -> Cotangents:
        weight, _ = optional(xs, self.weight, self.bias)
        shape = tensor(x).shape
        rows = (*shape[: -len(self.normalized_shape)], prod(self.normalized_shape))
        g, x = [s.reshape(y, rows) for y in s.wide(g, x)]
        last = (len(rows) - 1,)
        apart = s.sub(x, s(Mean(last, True), x))
        scale = s.rsqrt(s.add(s(Mean(last, True), s.mul(apart, apart)), self.eps))
        unit = s.mul(apart, scale)
        flat = None if weight is None else s.reshape(s.wide(weight)[0], rows[-1:])
        by_x = unscaled(s, g if flat is None else s.mul(g, flat), unit, scale, centered=True)
        found = [s.sum_to(s.mul(g, unit), rows[-1:])] * self.weight + [
            s.sum_to(g, rows[-1:])
        ] * self.bias
        return (s.reshape(by_x, shape), *[s.reshape(y, self.normalized_shape) for y in found])


def check_normalized(
    op: Op, x: TensorType, shape: tuple[int, ...], xs: Iterable[TensorType]
) -> None:
    """ShapeError unless x ends in `shape` and the other operands have it."""
    if not shape or x.shape[-len(shape) :] != shape:
        raise ShapeError(f"{op.name()}: expected an input ending in {shape}", {"input": x})
    check_devices(op, x, *xs)
    for other in xs:
        if other.shape != shape:
            raise ShapeError(f"{op.name()}: expected weights of shape {shape}", {"operand": other})


class GroupNorm(Op):
    """x (N, C, ...) normalized over groups of channels. Operands: x, weight, bias where present."""

    groups: int
    eps: float = 1e-5
    weight: bool = True
    bias: bool = True

    def infer(self, x: TensorType, *xs: TensorType) -> TensorType:
        check_channels(self, x, xs)
        if x.shape[1] % self.groups:
            message = f"{x.shape[1]} channels are not divisible into {self.groups} groups"
            raise ShapeError(f"group_norm: {message}", {"input": x})
        return suggested(x, x.shape) if x.device.type == "cpu" else x.with_shape(x.shape)

    def run(self, x: torch.Tensor, *xs: torch.Tensor) -> torch.Tensor:
        weight, bias = optional(xs, self.weight, self.bias)
        return functional.group_norm(x, self.groups, weight, bias, self.eps)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, *xs: Node) -> Cotangents:
        weight, _ = optional(xs, self.weight, self.bias)
        shape = tensor(x).shape
        across = (0, *range(2, len(shape)))
        rows = (shape[0] * self.groups, prod(shape[1:]) // self.groups)
        g, x = s.wide(g, x)
        flat = s.reshape(x, rows)
        apart = s.sub(flat, s(Mean((1,), True), flat))
        scale = s.rsqrt(s.add(s(Mean((1,), True), s.mul(apart, apart)), self.eps))
        unit = s.mul(apart, scale)
        each = g
        if weight is not None:
            each = s.mul(g, s.reshape(s.wide(weight)[0], (shape[1], *(1,) * (len(shape) - 2))))
        by_x = unscaled(s, s.reshape(each, rows), unit, scale, centered=True)
        by_weight = [s.sum(s.mul(g, s.reshape(unit, shape)), across)] * self.weight
        return (s.reshape(by_x, shape), *by_weight, *[s.sum(g, across)] * self.bias)


class RmsNorm(Rowwise):
    """x over its root mean square along the last dimensions, times a weight if there is one.

    An `eps` of None is the epsilon of the dtype that it is computed in.
    """

    normalized_shape: tuple[int, ...]
    eps: float | None = None

    def infer(self, x: TensorType, weight: TensorType | None = None) -> TensorType:
        operands = (x,) if weight is None else (x, weight)
        check_normalized(self, x, self.normalized_shape, operands[1:])
        if operands[-1].dtype is not x.dtype:
            raise DTypeError(
                "rms_norm: expected a weight of the input's dtype", {"operand": weight}
            )
        return suggested(x, x.shape) if x.device.type == "cpu" else x.with_shape(x.shape)

    def along_rows(self, x: TensorType) -> bool:
        return len(self.normalized_shape) == 1

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        x, *weight = xs
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        y = x * s.rsqrt(s.row_mean(x * x) + eps)
        return y * weight[0] if weight else y

    def run(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        return torch.rms_norm(x, self.normalized_shape, weight, self.eps)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, *weight: Node) -> Cotangents:
        shape = tensor(x).shape
        rows = (*shape[: -len(self.normalized_shape)], prod(self.normalized_shape))
        g, x = [s.reshape(y, rows) for y in s.wide(g, x)]
        eps = torch.finfo(tensor(x).dtype).eps if self.eps is None else self.eps
        scale = s.rsqrt(s.add(s(Mean((len(rows) - 1,), True), s.mul(x, x)), eps))
        unit = s.mul(x, scale)
        flat = [s.reshape(w, rows[-1:]) for w in s.wide(*weight)]
        by_x = unscaled(s, s.mul(g, flat[0]) if flat else g, unit, scale, centered=False)
        by_weight = [s.sum_to(s.mul(g, unit), rows[-1:]) for _ in weight]
        return (s.reshape(by_x, shape), *[s.reshape(y, self.normalized_shape) for y in by_weight])


def unscaled(s: Calculus, g: Node, unit: Node, scale: Node, centered: bool) -> Node:
    """What flows to rows from what flows to them normalized, `unit`, by the factor `scale`."""
    mean = Mean((tensor(unit).rank - 1,), True)
    along = s.mul(unit, s(mean, s.mul(g, unit)))
    g = s.sub(g, s(mean, g)) if centered else g
    return s.mul(scale, s.sub(g, along))
