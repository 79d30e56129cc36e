"""Views: operations that show their operand's memory with another shape, strides or offset."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch

from lazytorch.errors import BoundsError, ShapeError
from lazytorch.ir import Builder, Node, Op
from lazytorch.ops.base import View
from lazytorch.ops.copies import (
    Cat,
    Clone,
    Flip,
    Pad,
    Repeat,
    Roll,
    ToDevice,
    format_strides,
    last_element,
    overlaps,
    relaid,
    suggested_format,
    wrapped,
)
from lazytorch.ops.reduction import tensor
from lazytorch.ops.through import Window, restored, view_strides, write_through, written
from lazytorch.ops.writes import Put, SelectScatter, SliceScatter
from lazytorch.types import Shape, Strides, TensorType, contiguous_strides

if TYPE_CHECKING:
    from lazytorch.ops.calculus import Calculus, Cotangents


class Reshape(View):
    """The same elements in row-major order under another shape; a copy where no view shows them.

    `strides` states what eager gives where it is not `view_strides` (squeeze and unsqueeze of
    operands with uncommon strides): it differs only for sizes of 1 or where there are no elements.
    """

    shape: Shape
    strides: Strides | None = None

    def infer(self, x: TensorType) -> TensorType:
        if prod(self.shape) != x.numel:
            raise ShapeError(f"shape '{list(self.shape)}' is invalid for input of size {x.numel}")
        strides = view_strides(x.shape, x.strides, self.shape)
        if strides is None:
            strides = contiguous_strides(self.shape)
        return TensorType(self.shape, x.dtype, x.device, self.stated(strides))

    def stated(self, strides: Strides) -> Strides:
        """What `strides` states, on an operand that lies as it did when that was recorded."""
        if self.strides is None:
            return strides
        pairs = zip(self.shape, strides, self.strides, strict=True)
        free = 0 in self.shape or all(size == 1 or a == b for size, a, b in pairs)
        return self.strides if free else strides

    def run(self, x: torch.Tensor) -> torch.Tensor:
        y = x.reshape(*self.shape) if self.shape else x.reshape(())  # sizes one by one: 0.5 us less
        if self.strides is None:
            return y
        strides = self.stated(tuple(y.stride()))
        return y if tuple(y.stride()) == strides else y.as_strided(self.shape, strides)

    def put(self, b: Builder, base: Node, value: Node) -> Node:
        assert isinstance(base.type, TensorType)
        return restored(b, b(Reshape(base.type.shape), value), base)

    def after(self, first: View, x: TensorType, typed: TensorType) -> View | None:
        if not isinstance(first, Reshape):
            return None
        same = view_strides(x.shape, x.strides, typed.shape) == typed.strides
        return Reshape(typed.shape) if same else None

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.reshape(g, tensor(x).shape),)


class Permute(View):
    """Reordered dimensions: result dimension i is operand dimension `perm[i]`."""

    perm: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        if sorted(self.perm) != list(range(x.rank)):
            raise ShapeError(f"permute: {self.perm} does not name each of {x.rank} dimensions once")
        return TensorType(
            tuple([x.shape[p] for p in self.perm]),
            x.dtype,
            x.device,
            tuple([x.strides[p] for p in self.perm]),
        )

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(*self.perm) if self.perm else x.permute(())  # as in Reshape

    def put(self, b: Builder, base: Node, value: Node) -> Node:
        inverse = sorted(range(len(self.perm)), key=self.perm.__getitem__)
        return restored(b, b(Permute(tuple(inverse)), value), base)

    def after(self, first: View, x: TensorType, typed: TensorType) -> View | None:
        if not isinstance(first, Permute):
            return None
        return Permute(tuple([first.perm[p] for p in self.perm]))

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.permute(g, tuple(sorted(range(len(self.perm)), key=self.perm.__getitem__))),)


def transposed(x: Node) -> Node:
    """The transpose of a matrix; of a transpose, the matrix itself."""
    match x:
        case Node(op=Permute(perm=(1, 0)), inputs=(whole,)):
            return whole
        case _:
            return Builder(x.where)(Permute((1, 0)), x)


class Expand(Window):
    """Dimensions of size 1 repeated without copying; missing dimensions lead."""

    shape: Shape

    def infer(self, x: TensorType) -> TensorType:
        missing = len(self.shape) - x.rank
        if missing < 0:
            raise ShapeError(
                f"expand: {list(self.shape)} has fewer dimensions than the operand {list(x.shape)}"
            )
        strides = [0] * len(self.shape)
        for i in range(len(self.shape) - 1, -1, -1):
            size = x.shape[i - missing] if i >= missing else 1
            if size != self.shape[i]:
                if size != 1:
                    raise ShapeError(
                        f"The expanded size of the tensor ({self.shape[i]}) must match the "
                        f"existing size ({size}) at non-singleton dimension {i}.  "
                        f"Target sizes: {list(self.shape)}.  Tensor sizes: {list(x.shape)}"
                    )
            elif i >= missing:
                strides[i] = x.strides[i - missing]
            elif x.rank:
                strides[i] = self.shape[i + 1] * strides[i + 1]
        return TensorType(self.shape, x.dtype, x.device, tuple(strides))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(*self.shape) if self.shape else x.expand(())

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (g,)


class Slice(View):
    """`[start:stop:step]` along `dim`, with 0 <= start <= stop <= size and step > 0."""

    dim: int
    start: int
    stop: int
    step: int = 1

    def infer(self, x: TensorType) -> TensorType:
        if not 0 <= self.start <= self.stop <= x.shape[self.dim] or self.step < 1:
            raise BoundsError(
                f"slice: {self.start}:{self.stop}:{self.step} is outside dimension {self.dim} "
                f"of {list(x.shape)}"
            )
        shape, strides = list(x.shape), list(x.strides)
        shape[self.dim] = -(-(self.stop - self.start) // self.step)
        strides[self.dim] *= self.step
        return TensorType(tuple(shape), x.dtype, x.device, tuple(strides))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.slice.Tensor(x, self.dim, self.start, self.stop, self.step)

    def offset(self, x: TensorType) -> int:
        return self.start * x.strides[self.dim]

    def put(self, b: Builder, base: Node, value: Node) -> Node:
        return b(SliceScatter(self.dim, self.start, self.stop, self.step), base, value)

    def after(self, first: View, x: TensorType, typed: TensorType) -> View | None:
        if not isinstance(first, Slice) or first.dim != self.dim or not typed.shape[self.dim]:
            return None
        start = first.start + self.start * first.step
        step = first.step * self.step
        stop = start + (typed.shape[self.dim] - 1) * step + 1
        return Slice(self.dim, start, stop, step)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        t = tensor(x)
        if self.step == 1:
            return (s.pad(g, self.dim, self.start, t.shape[self.dim] - self.stop),)
        return (s(SliceScatter(self.dim, self.start, self.stop, self.step), s.full(x, 0.0), g),)


class Select(View):
    """Entry `index` along `dim`, which disappears; 0 <= index < size."""

    dim: int
    index: int

    def infer(self, x: TensorType) -> TensorType:
        if not 0 <= self.index < x.shape[self.dim]:
            raise BoundsError(
                f"select(): index {self.index} out of range for tensor of size {list(x.shape)} "
                f"at dimension {self.dim}"
            )
        dim = self.dim
        return TensorType(
            x.shape[:dim] + x.shape[dim + 1 :],
            x.dtype,
            x.device,
            x.strides[:dim] + x.strides[dim + 1 :],
        )

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.select(self.dim, self.index)

    def offset(self, x: TensorType) -> int:
        return self.index * x.strides[self.dim]

    def put(self, b: Builder, base: Node, value: Node) -> Node:
        return b(SelectScatter(self.dim, self.index), base, value)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        t, dim = tensor(x), self.dim
        kept = s.reshape(g, (*t.shape[:dim], 1, *t.shape[dim + 1 :]))
        return (s.pad(kept, dim, self.index, t.shape[dim] - 1 - self.index),)


class AsStrided(Window):
    """Any strides over the operand's memory: element i lies at `start` + i . `strides`.

    `base` are the operand's strides, in which all of this is meant (row-major when None): an
    operand that lies otherwise by the time this runs is laid out so first. `start` counts from the
    operand's first element. The window must not leave the operand's elements.
    """

    shape: Shape
    strides: Strides
    start: int = 0
    base: Strides | None = None

    def infer(self, x: TensorType) -> TensorType:
        if len(self.shape) != len(self.strides):
            raise ShapeError("mismatch in length of strides and shape")
        if any(stride < 0 for stride in self.strides):
            raise ShapeError(
                "as_strided: Negative strides are not supported at the moment, "
                f"got strides: {list(self.strides)}"
            )
        base = self.laid_out(x.shape)
        end = self.start + last_element(self.shape, self.strides)
        if self.start < 0 or (end > last_element(x.shape, base) and 0 not in self.shape):
            raise ShapeError(
                f"setStorage: sizes {list(self.shape)}, strides {list(self.strides)}, storage "
                f"offset {self.start} are out of bounds for {x}"
            )
        if not x.with_strides(base).is_dense:
            self.check_holes(x.shape, base)
        return TensorType(self.shape, x.dtype, x.device, self.strides)

    def laid_out(self, shape: Shape) -> Strides:
        """The operand's strides."""
        return contiguous_strides(shape) if self.base is None else self.base

    def offset(self, x: TensorType) -> int:
        return self.start

    def check_holes(self, shape: Shape, base: Strides) -> None:
        """ShapeError if the window shows memory between the elements of a strided operand."""
        known = torch.zeros(last_element(shape, base) + 1, dtype=torch.bool)
        known.as_strided(shape, base).fill_(True)
        if not known.as_strided(self.shape, self.strides, self.start).all():
            raise ShapeError("as_strided: shows memory that is no element of its operand")

    def run(self, x: torch.Tensor) -> torch.Tensor:
        base = self.laid_out(tuple(x.shape))
        if tuple(x.stride()) != base:
            x = relaid(x, base)
        return x.as_strided(self.shape, self.strides, x.storage_offset() + self.start)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.shown(self, x, g),)


class Detach(View):
    """The operand itself, where gradients stop."""

    def infer(self, x: TensorType) -> TensorType:
        return x

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()

    def put(self, b: Builder, base: Node, value: Node) -> Node:
        return restored(b, value, base)


class Variable(View):
    """The operand itself, apart from every other value: what a derivative is taken by."""

    def infer(self, x: TensorType) -> TensorType:
        return x

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    def put(self, b: Builder, base: Node, value: Node) -> Node:
        return restored(b, value, base)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (g,)


class Kept(Op):
    """The second operand, with the history of the first: what eager makes of a write under no_grad
    to a tensor that requires grad."""

    def infer(self, old: TensorType, new: TensorType) -> TensorType:
        return new

    def run(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return relaid(new, tuple(new.stride()))

    def vjp(self, s: Calculus, g: Node, out: Node, old: Node, new: Node) -> Cotangents:
        return g, None


__all__ = [
    "AsStrided",
    "Cat",
    "Clone",
    "Detach",
    "Expand",
    "Flip",
    "Kept",
    "Pad",
    "Permute",
    "Put",
    "Repeat",
    "Reshape",
    "Roll",
    "Select",
    "SelectScatter",
    "Slice",
    "SliceScatter",
    "ToDevice",
    "Variable",
    "Window",
    "format_strides",
    "overlaps",
    "restored",
    "suggested_format",
    "view_strides",
    "wrapped",
    "write_through",
    "written",
]
