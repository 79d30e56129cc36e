"""Writes without mutation: an operand with a part of it replaced, in fresh memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from lazytorch.errors import BoundsError, ShapeError, UnsupportedError
from lazytorch.ir import Op
from lazytorch.ops.copies import Clone, overlaps, relaid
from lazytorch.types import Shape, Strides, TensorType

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents


batched: Callable[[torch.Tensor], bool] = torch._C._functorch.is_batchedtensor  # type: ignore[attr-defined]
"""Whether a tensor is an element of a batch of `torch.func.vmap`."""


class SliceScatter(Op):
    """The first operand with `[start:stop:step]` along `dim` replaced by the second."""

    dim: int
    start: int
    stop: int
    step: int = 1

    def infer(self, x: TensorType, value: TensorType) -> TensorType:
        if not 0 <= self.start <= self.stop <= x.shape[self.dim] or self.step < 1:
            raise BoundsError(
                f"slice_scatter: {self.start}:{self.stop}:{self.step} is outside dimension "
                f"{self.dim} of {list(x.shape)}"
            )
        size = -(-(self.stop - self.start) // self.step)
        return scattered(self, x, value, (*x.shape[: self.dim], size, *x.shape[self.dim + 1 :]))

    def run(self, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.slice_scatter(x, value, self.dim, self.start, self.stop, self.step)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, value: Node) -> Cotangents:
        part = Op.registry["slice"](self.dim, self.start, self.stop, self.step)
        return (s(self, g, s.full(value, 0.0)), s(part, g))


class SelectScatter(Op):
    """The first operand with entry `index` along `dim` replaced by the second."""

    dim: int
    index: int

    def infer(self, x: TensorType, value: TensorType) -> TensorType:
        if not 0 <= self.index < x.shape[self.dim]:
            raise BoundsError(
                f"select_scatter: index {self.index} is outside dimension {self.dim} "
                f"of {list(x.shape)}"
            )
        return scattered(self, x, value, (*x.shape[: self.dim], *x.shape[self.dim + 1 :]))

    def run(self, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.select_scatter(x, value, self.dim, self.index)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, value: Node) -> Cotangents:
        part = Op.registry["select"](self.dim, self.index)
        return (s(self, g, s.full(value, 0.0)), s(part, g))


class Put(Op):
    """The first operand, laid out with `strides`, after a write of the second through `steps`.

    The inverse of every view: a copy is made, the steps lead to a view of it, and the view is
    written. `steps` are View operations with one operand each.
    """

    steps: tuple[Any, ...]
    strides: Strides

    def infer(self, x: TensorType, value: TensorType) -> TensorType:
        window: Any = x.with_strides(self.strides)
        for step in self.steps:
            window = step.infer(window)
        typed = x.with_strides(self.strides)
        if (value.shape, value.dtype) != (window.shape, window.dtype):
            raise ShapeError(f"put: {value} does not fit the window {window}")
        return typed

    def run(self, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        alone = batched(value) and not batched(x)
        result = window = relaid(x, self.strides, value if alone else None)
        for step in self.steps:
            window = step.run(window)
        # What has no memory shares none; in a batch every view is one.
        real = type(window) is torch.Tensor and not batched(window)
        if real and window.untyped_storage().data_ptr() != result.untyped_storage().data_ptr():
            raise UnsupportedError(f"put: {self.steps} lead to a copy, a write to it would be lost")
        window.copy_(value)
        return result

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, value: Node) -> Cotangents:
        window = s(Clone(self.strides), g)
        for step in self.steps:
            window = s(step, window)
        return (s(self, g, s.full(value, 0.0)), window)


def scattered(op: Op, x: TensorType, value: TensorType, window: Shape) -> TensorType:
    """Type of a scatter: the base's, strides included, in fresh memory."""
    if value.shape != window or value.dtype != x.dtype:
        raise ShapeError(f"{op.name()}: {value} does not fit the window {list(window)} of {x}")
    return x.dense() if overlaps(x) else x
