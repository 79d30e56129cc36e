"""What a chain of views and copies shows, as a map of indices, and the views that show it.

A map splits the shapes on the way into common factors: reshapes that merge factors and later split
them again cancel, whatever was permuted in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from lazytorch.ir import Builder, Node, Op
from lazytorch.ops.copies import Clone
from lazytorch.ops.layout import (
    Detach,
    Expand,
    Permute,
    Reshape,
    Select,
    Slice,
    view_strides,
)
from lazytorch.types import Shape, TensorType


@dataclass(frozen=True, slots=True)
class Factor:
    """A run of `size` steps along dimension `dim` of the source, `step` elements of it each.

    `dim` None: the same element again, whatever the step.
    """

    size: int
    dim: int | None
    step: int = 1


Group = tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class IndexMap:
    """Which element of the source an element of the result is.

    `groups` has the factors of each result dimension in row-major order, none of size 1; `starts`
    the first element's index in the source.
    """

    groups: tuple[Group, ...]
    starts: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        """The result's shape."""
        return tuple(prod(factor.size for factor in group) for group in self.groups)

    @property
    def factors(self) -> Group:
        """Those of all dimensions."""
        return tuple(factor for group in self.groups for factor in group)


def identity(shape: Shape) -> IndexMap:
    """The map of a tensor to itself."""
    groups = tuple((Factor(size, d),) if size != 1 else () for d, size in enumerate(shape))
    return IndexMap(groups, (0,) * len(shape))


def is_link(node: Node) -> bool:
    """Whether a node only shows or copies elements, in a way that a map can follow."""
    kinds = Clone | Detach | Expand | Permute | Reshape | Select | Slice
    return isinstance(node.op, kinds) and isinstance(node.type, TensorType) and node.type.numel > 0


def is_copy(node: Node) -> bool:
    """Whether a node moves elements into memory of its own: a clone, a reshape that no view is."""
    if isinstance(node.op, Clone):
        return True
    if not isinstance(node.op, Reshape):
        return False
    x = node.inputs[0].type
    assert isinstance(x, TensorType)
    return view_strides(x.shape, x.strides, node.op.shape) is None


def memory(node: Node) -> Node:
    """The node whose memory a value is, or may be, a window on."""
    while node.op.view and node.inputs:
        node = node.inputs[0]
    return node


def follow(found: IndexMap, op: Op) -> IndexMap | None:
    """The map of `op` behind a map; None where factors do not tell it."""
    groups, starts = found.groups, found.starts
    match op:
        case Clone() | Detach():
            return found
        case Permute(perm):
            return IndexMap(tuple(groups[p] for p in perm), starts)
        case Expand(shape):
            old = (((),) * (len(shape) - len(groups))) + groups
            wide = zip(old, shape, strict=True)
            return IndexMap(
                tuple(g if g or n == 1 else (Factor(n, None),) for g, n in wide), starts
            )
        case Reshape(shape):
            cut = regrouped(found.factors, shape)
            return None if cut is None else IndexMap(cut, starts)
        case Select(dim, index):
            starts = moved(starts, groups[dim], index)
            return IndexMap(groups[:dim] + groups[dim + 1 :], starts)
        case Slice(dim, start, stop, step):
            size = len(range(start, stop, step))
            part = sliced(groups[dim], start, size, step)
            if part is None:
                return None
            starts = moved(starts, groups[dim], start)
            return IndexMap((*groups[:dim], part, *groups[dim + 1 :]), starts)
        case _:
            return None


def regrouped(factors: Iterable[Factor], shape: Shape) -> tuple[Group, ...] | None:
    """The factors dealt out to the dimensions of `shape`, split where a dimension ends in one."""
    rest = list(factors)[::-1]
    groups: list[Group] = []
    for size in shape:
        group: list[Factor] = []
        while size > 1:
            factor = rest.pop()
            if factor.size > size:  # its inner part is left for the next dimension
                inner, over = divmod(factor.size, size)
                if over:
                    return None
                rest.append(Factor(inner, factor.dim, factor.step))
                factor = Factor(
                    size, factor.dim, factor.step * inner if factor.dim is not None else 1
                )
            elif size % factor.size:
                return None
            group.append(factor)
            size //= factor.size
        groups.append(merged(group))
    return tuple(groups)


def merged(group: list[Factor]) -> Group:
    """Neighbours that are one run along a dimension of the source, as one."""
    found: list[Factor] = []
    for factor in group:
        last = found[-1] if found else None
        if (
            last
            and last.dim == factor.dim
            and (factor.dim is None or last.step == factor.step * factor.size)
        ):
            found[-1] = Factor(last.size * factor.size, factor.dim, factor.step)
        else:
            found.append(factor)
    return tuple(found)


def moved(starts: tuple[int, ...], group: Group, index: int) -> tuple[int, ...]:
    """Where the first element lies when a dimension begins at `index`."""
    found = list(starts)
    for factor in reversed(group):
        index, digit = divmod(index, factor.size)
        if factor.dim is not None:
            found[factor.dim] += digit * factor.step
    return tuple(found)


def sliced(group: Group, start: int, size: int, step: int) -> Group | None:
    """The factors of `size` entries from `start` of a dimension."""
    whole = prod(factor.size for factor in group)
    if size == whole:
        return group
    if size == 1:
        return ()
    outer, *inner = group
    block = prod(factor.size for factor in inner)
    if inner and (step != 1 or start % block or size % block):
        return None
    first = Factor(size // block, outer.dim, outer.step * step)
    return merged([first, *inner] if first.size > 1 else inner)


def shown(b: Builder, source: Node, found: IndexMap, copy: bool = False) -> Node | None:
    """The shortest chain of views of `source` that shows a map; None if there is no such chain.

    With `copy`, the last reshape may be one that copies.
    """
    assert isinstance(source.type, TensorType)
    value, sizes, order = source, list[int](), list[Factor]()
    for dim, size in enumerate(source.type.shape):
        mine = sorted((f for f in found.factors if f.dim == dim), key=lambda f: -f.step)
        inner = mine[-1].step if mine else 1
        for outer, below in pairwise(mine):
            if outer.step != below.size * below.step:
                return None  # a hole between factors: no slice of this dimension alone
        count, start = prod(f.size for f in mine), found.starts[dim]
        if count != size:
            value = b(Slice(dim, start, start + (count - 1) * inner + 1, inner), value)
        order += mine
        sizes += [f.size for f in mine]
    positions = [order.index(f) for f in found.factors if f.dim is not None]
    if len(positions) != len(order):
        return None
    small: list[int] = []
    for group in found.groups:
        repeats = any(f.dim is None for f in group)
        if repeats and len(group) > 1:
            return None  # repeated and other elements in one dimension: that is no view
        small.append(1 if repeats else prod(f.size for f in group))
    steps: list[Op] = [Reshape(tuple(sizes)), Permute(tuple(positions)), Reshape(tuple(small))]
    if order == [f for f in found.factors if f.dim is not None]:
        steps = [Reshape(tuple(small))]  # nothing changes places
    for step in (*steps, Expand(found.shape)):
        value = applied(b, step, value)
        if is_copy(value) and value.op is step and not (copy and step is steps[-1]):
            return None
    return value


def applied(b: Builder, op: Op, x: Node) -> Node:
    """`op` of a value; the value itself where that changes nothing."""
    assert isinstance(x.type, TensorType)
    shape = x.type.shape
    idle = (
        op.perm == tuple(range(len(shape)))
        if isinstance(op, Permute)
        else isinstance(op, Reshape | Expand) and op.shape == shape
    )
    return x if idle else b(op, x)


def aligned(x: TensorType, first: int) -> bool:
    """Whether every row starts on a 16-byte boundary, as the fast kernels need; the first element
    lies `first` elements into memory that does."""
    apart = [s for n, s in zip(x.shape, x.strides, strict=True) if n > 1 and s != 1]
    return all(step * x.dtype.itemsize % 16 == 0 for step in (first, *apart))


def offset(found: IndexMap, source: TensorType) -> int:
    """Elements in memory between the source's first element and the result's."""
    return sum(a * b for a, b in zip(found.starts, source.strides, strict=True))
