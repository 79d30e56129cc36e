"""Where a tensor lies: its cell, what it shows of it, and how views lead from there to others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from lazytorch.errors import ShapeError, UnsupportedError
from lazytorch.frontend.alias import Cell, Window, chain
from lazytorch.ir import Alias
from lazytorch.ops.base import View
from lazytorch.ops.layout import AsStrided, Detach, Expand, Permute, Reshape, Select, Slice
from lazytorch.ops.windows import Conj, Diagonal, Unfold, ViewAsReal, ViewDtype
from lazytorch.types import Shape, Strides, TensorType, dtype_name

if TYPE_CHECKING:
    from lazytorch.frontend.tensor import LazyTensor

DEPTH = 32  # views after which a chain is written as one `as_strided`

STRIDED = (AsStrided, Detach, Diagonal, Expand, Permute, Reshape, Select, Slice, Unfold)
"""Views that shape, strides and offset say all about, and where gradients stop."""


class Place(NamedTuple):
    """A cell, the window on it, the type that it shows, and the offset in the storage."""

    cell: Cell
    window: Window | None
    typed: TensorType
    offset: int

    def has(self, kind: type[View]) -> bool:
        """Whether a view of this kind leads here."""
        return any(isinstance(one.step, kind) for one in chain(self.window))

    @property
    def conjugated(self) -> bool:
        """Whether what lies in memory is conjugated when it is read."""
        return sum(isinstance(one.step, Conj) for one in chain(self.window)) % 2 == 1

    def through(self, steps: Sequence[View]) -> Place:
        """The place that views lead to; ShapeError where one does not fit."""
        cell, window, typed, offset = self
        for step in steps:
            offset += step.offset(typed)
            inferred = step.infer(typed)
            assert isinstance(inferred, TensorType)
            old, new = typed.dtype.itemsize, inferred.dtype.itemsize
            if offset * old % new:
                raise ShapeError(
                    f"self.storage_offset() must be divisible by {new // old} to view "
                    f"{dtype_name(typed.dtype)} as {dtype_name(inferred.dtype)} (different "
                    f"element sizes), but got {offset}"
                )
            offset = offset * old // new
            window = extended(cell, window, step, inferred, offset)
            typed = inferred
        return Place(cell, window, typed, offset)

    def strided(self, shape: Shape, strides: Strides, offset: int) -> Place:
        """Any geometry on the whole storage, whatever view of it this one is.

        Raises ShapeError where it leaves the cell's elements, UnsupportedError where the bytes
        are read in a way that cannot be carried over.
        """
        cell = self.cell
        base = Place(cell, None, cell.typed, cell.offset)
        before: list[View] = [Detach()] if self.has(Detach) else []
        conjugate = self.conjugated
        if self.typed.dtype is not cell.typed.dtype:
            if conjugate:
                raise UnsupportedError("as_strided of a part of conjugated numbers")
            real = cell.typed.dtype.is_complex and cell.typed.dtype.to_real() is self.typed.dtype
            before.append(ViewAsReal() if real else ViewDtype(self.typed.dtype))
        base = base.through(before)
        step = AsStrided(shape, strides, offset - base.offset, base.typed.strides)
        return base.through([step, Conj()] if conjugate else [step])

    def alias(self, source: Literal["input", "output"], index: int) -> Alias:
        """This place as a view of an input or output that holds the cell's value."""
        have, want = self.cell.typed.dtype, self.typed.dtype
        conj = self.conjugated
        if conj and want is not have:
            raise UnsupportedError(
                "a function cannot return a part of conjugated numbers that shares their memory",
                {"result": self.typed},
                hint="return a clone of it",
            )
        offset, dtype = self.offset - self.cell.offset, None
        if want is not have:
            offset = self.offset * want.itemsize - self.cell.offset * have.itemsize
            dtype = want
        return Alias(source, index, self.typed.shape, self.typed.strides, offset, dtype, conj)


def place(x: LazyTensor) -> Place:
    """Where a lazy tensor lies."""
    return Place(x.cell, x.window, x.typed, int(x.storage_offset()))


def extended(
    cell: Cell, window: Window | None, step: View, typed: TensorType, offset: int
) -> Window:
    """One view more: joined with the last one where they are one, so that chains stay short."""
    if window is None:
        return Window(None, step, typed)
    before = cell.typed if window.parent is None else window.parent.typed
    joined = step.after(window.step, before, typed)
    if joined is not None:
        return Window(window.parent, joined, typed)
    if window.depth < DEPTH or not cell.typed.is_dense:
        return Window(window, step, typed)
    steps = [*[one.step for one in chain(window)], step]
    if not all(isinstance(x, STRIDED) for x in steps):
        return Window(window, step, typed)
    start: Window | None = None
    if any(isinstance(x, Detach) for x in steps):
        start = Window(None, Detach(), cell.typed)
    whole = AsStrided(typed.shape, typed.strides, offset - cell.offset, cell.typed.strides)
    return Window(start, whole, typed)
