"""Views in general: the strides that show another shape, and writes through a chain of views."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from lazytorch.errors import ShapeError
from lazytorch.ir import Builder, Node
from lazytorch.ops.base import View
from lazytorch.ops.copies import Clone, overlaps
from lazytorch.ops.writes import Put
from lazytorch.types import Shape, Strides, TensorType, contiguous_strides

OVERLAP = (
    "unsupported operation: more than one element of the written-to tensor refers to a single "
    "memory location. Please clone() the tensor before performing the operation."
)


@lru_cache(maxsize=8192)
def view_strides(shape: Shape, strides: Strides, new: Shape) -> Strides | None:
    """Strides with which the same memory shows `new`, None where a copy is needed.

    Runs of dimensions that lie evenly in memory are cut anew; none may be cut across two runs.
    Source: ATen/TensorUtils.cpp, `computeStride`.
    """
    if not prod(shape):
        return strides if shape == new else contiguous_strides(new)
    if not shape:
        return (1,) * len(new)
    result = [0] * len(new)
    at = len(new) - 1
    base, run, cut = strides[-1], 1, 1
    for dim in range(len(shape) - 1, -1, -1):
        run *= shape[dim]
        if dim and (shape[dim - 1] == 1 or strides[dim - 1] == run * base):
            continue
        while at >= 0 and (cut < run or new[at] == 1):
            result[at] = cut * base
            cut *= new[at]
            at -= 1
        if cut != run:
            return None
        if dim:
            base, run, cut = strides[dim - 1], 1, 1
    return tuple(result) if at == -1 else None


def restored(b: Builder, value: Node, base: Node) -> Node:
    """`value` with the strides of `base`: a write does not move what it writes into."""
    assert isinstance(base.type, TensorType)
    return value if value.type == base.type else b(Clone(base.type.strides), value)


def write_through(b: Builder, base: Node, steps: Sequence[View], value: Node) -> Node:
    """`base` after `value` was written into the window that `steps` lead to.

    `value` has the window's shape and dtype; the result has the type of `base`. Raises ShapeError
    in eager's words when the window shows a place in memory more than once.
    """
    bases = [base]
    for step in steps:
        bases.append(b(step, bases[-1]))
    return written(b, bases, steps, value)


def written(b: Builder, bases: Sequence[Node], steps: Sequence[View], value: Node) -> Node:
    """`write_through` where the views on the way are there: `bases[i + 1]` is step i's result."""
    types = [x.type for x in bases if isinstance(x.type, TensorType)]
    if overlaps(types[-1]):
        raise ShapeError(OVERLAP, {"written to": types[-1]}, b.where)
    if any(overlaps(x) for x in types):
        # Undone step by step, a write to one element of an expanded tensor would be lost.
        return b(Put(tuple(steps), types[0].strides), bases[0], value)
    value = restored(b, value, bases[-1]) if not steps else value
    for step, before in zip(reversed(steps), reversed(bases[:-1]), strict=True):
        value = step.put(b, before, value)
    return value


class Window(View, abstract=True):
    """A view whose inverse is the general one."""

    def put(self, b: Builder, base: Node, value: Node) -> Node:
        assert isinstance(base.type, TensorType)
        return b(Put((self,), base.type.strides), base, value)
