"""Imports of padding, repetition, reversal and of writes into a part of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

from lazytorch.frontend.aten.layout import bounds, typed
from lazytorch.frontend.imports import imports
from lazytorch.ir import Builder, Node
from lazytorch.ops.base import View
from lazytorch.ops.layout import (
    AsStrided,
    Flip,
    Pad,
    Put,
    Repeat,
    Roll,
    SelectScatter,
    SliceScatter,
    overlaps,
    wrapped,
)
from lazytorch.ops.windows import Diagonal
from lazytorch.types import Number


@imports("constant_pad_nd.default")
def constant_pad_nd(b: Builder, self: Node, pad: Sequence[int], value: Number | Node = 0) -> Node:
    """Padding with one value."""
    if isinstance(value, Node):
        return NotImplemented
    return b(Pad(tuple(pad), value), self)


@imports("pad.default")
def pad(
    b: Builder, self: Node, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Node:
    """Only constant padding is ours."""
    if mode != "constant":
        return NotImplemented
    return constant_pad_nd(b, self, pad, 0.0 if value is None else value)


@imports("repeat.default")
def repeat(b: Builder, self: Node, repeats: Sequence[int]) -> Node:
    """Copies side by side."""
    return b(Repeat(tuple(repeats)), self)


@imports("flip.default")
def flip(b: Builder, self: Node, dims: Sequence[int]) -> Node:
    """Reversed along `dims`."""
    rank = typed(self).rank
    return b(Flip(tuple([wrapped(dim, rank) for dim in dims])), self)


@imports("roll.default")
def roll(b: Builder, self: Node, shifts: Sequence[int], dims: Sequence[int] = ()) -> Node:
    """Rotated along `dims`, or flat."""
    rank = typed(self).rank
    return b(Roll(tuple(shifts), tuple([wrapped(dim, rank) for dim in dims])), self)


@imports("slice_scatter.default")
def slice_scatter(
    b: Builder,
    self: Node,
    src: Node,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Node:
    """`self` with a slice replaced."""
    x = typed(self)
    if typed(src).dtype != x.dtype or not x.rank:
        return NotImplemented
    dim = wrapped(dim, x.rank)
    first, last = bounds(x.shape[dim], start, end)
    return b(SliceScatter(dim, first, last, step), self, src)


@imports("select_scatter.default")
def select_scatter(b: Builder, self: Node, src: Node, dim: int, index: int) -> Node:
    """`self` with one entry replaced."""
    x = typed(self)
    if typed(src).dtype != x.dtype or not x.rank:
        return NotImplemented
    dim = wrapped(dim, x.rank)
    return b(SelectScatter(dim, index + x.shape[dim] if index < 0 else index), self, src)


@imports("diagonal_scatter.default")
def diagonal_scatter(
    b: Builder, self: Node, src: Node, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Node:
    """`self` with a diagonal replaced."""
    rank = typed(self).rank
    return scatter(b, self, src, Diagonal(offset, wrapped(dim1, rank), wrapped(dim2, rank)))


@imports("as_strided_scatter.default")
def as_strided_scatter(
    b: Builder,
    self: Node,
    src: Node,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Node:
    """Without an offset, which would count from the start of a storage that values do not have."""
    if storage_offset is not None:
        return NotImplemented
    return scatter(b, self, src, AsStrided(tuple(size), tuple(stride), 0, typed(self).strides))


def scatter(b: Builder, x: Node, src: Node, view: View) -> Node:
    """A write through any view, where the result keeps the base's strides."""
    if typed(src).dtype != typed(x).dtype or overlaps(typed(x)):
        return NotImplemented
    return b(Put((view,), typed(x).strides), x, src)
