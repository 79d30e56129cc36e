"""Imports of views, copies and joins."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from lazytorch.errors import BoundsError, ShapeError
from lazytorch.frontend.imports import imports, views
from lazytorch.ir import Builder, Node
from lazytorch.ops.base import View
from lazytorch.ops.create import full
from lazytorch.ops.layout import (
    AsStrided,
    Cat,
    Clone,
    Detach,
    Expand,
    Permute,
    Reshape,
    Select,
    Slice,
    ToDevice,
    format_strides,
    view_strides,
    wrapped,
)
from lazytorch.ops.pointwise import Cast
from lazytorch.ops.windows import Conj, Diagonal, Unfold, ViewAsComplex, ViewAsReal, ViewDtype
from lazytorch.types import Number, Shape, Strides, TensorType, contiguous_strides

Steps = tuple[View, ...]


def resolved(size: Sequence[int], numel: int) -> Shape:
    """`size` with its -1 worked out; ShapeError in torch's words."""
    shape = tuple(size)
    if -1 not in shape:
        if prod(shape) != numel or any(n < 0 for n in shape):
            raise ShapeError(f"shape '{list(shape)}' is invalid for input of size {numel}")
        return shape
    if shape.count(-1) > 1:
        raise ShapeError("only one dimension can be inferred")
    rest = -prod(shape)
    if rest == 0:
        raise ShapeError(
            f"cannot reshape tensor of 0 elements into shape {list(shape)} because the "
            "unspecified dimension size -1 can be any value and is ambiguous"
        )
    if rest < 0 or numel % rest:
        raise ShapeError(f"shape '{list(shape)}' is invalid for input of size {numel}")
    return tuple([numel // rest if n == -1 else n for n in shape])


def reshaped(x: TensorType, shape: Shape, strides: Strides) -> Steps:
    """The step to exactly these strides, which differ from `view`'s at sizes of 1 at most."""
    if shape == x.shape and strides == x.strides:
        return ()
    same = view_strides(x.shape, x.strides, shape) == strides
    return (Reshape(shape, None if same else strides),)


@views("view.default", "_unsafe_view.default")
def view(x: TensorType, size: Sequence[int]) -> Steps:
    """Refuses what needs a copy, in eager's words."""
    shape = resolved(size, x.numel)
    strides = view_strides(x.shape, x.strides, shape)
    if strides is None:
        raise ShapeError(
            "view size is not compatible with input tensor's size and stride (at least one "
            "dimension spans across two contiguous subspaces). Use .reshape(...) instead."
        )
    return () if shape == x.shape and strides == x.strides else (Reshape(shape),)


def typed(x: Node) -> TensorType:
    """The type of a node that is a tensor by torch's schema."""
    assert isinstance(x.type, TensorType)
    return x.type


@views("detach.default")
def detach(x: TensorType) -> Steps:
    """A view through which no gradient flows."""
    return (Detach(),)


@views("alias.default", "lift_fresh.default")
def alias(x: TensorType) -> Steps:
    """The same view again."""
    return ()


@views("permute.default")
def permute(x: TensorType, dims: Sequence[int]) -> Steps:
    """Negative dimensions count from the end."""
    if len(dims) != x.rank:
        raise ShapeError(
            "permute(sparse_coo): number of dimensions in the tensor input does not match the "
            f"length of the desired ordering of dimensions i.e. input.dim() = {x.rank} is not "
            f"equal to len(dims) = {len(dims)}"
        )
    perm = tuple([wrapped(dim, x.rank) for dim in dims])
    if len(set(perm)) != len(perm):
        raise ShapeError("permute(): duplicate dims are not allowed.")
    return (Permute(perm),)


@views("transpose.int")
def transpose(x: TensorType, dim0: int, dim1: int) -> Steps:
    """Two dimensions change places."""
    dim0, dim1 = wrapped(dim0, x.rank), wrapped(dim1, x.rank)
    if dim0 == dim1:
        return ()
    perm = list(range(x.rank))
    perm[dim0], perm[dim1] = dim1, dim0
    return (Permute(tuple(perm)),)


@views("t.default")
def t(x: TensorType) -> Steps:
    """A matrix transposed; vectors and scalars stay."""
    if x.rank > 2:
        raise ShapeError(f"t() expects a tensor with <= 2 dimensions, but self is {x.rank}D")
    return (Permute((1, 0)),) if x.rank == 2 else ()


@views("unsqueeze.default")
def unsqueeze(x: TensorType, dim: int) -> Steps:
    """A dimension of size 1 before `dim`."""
    dim = wrapped(dim, x.rank + 1)
    stride = x.shape[dim] * x.strides[dim] if dim < x.rank else 1
    shape = (*x.shape[:dim], 1, *x.shape[dim:])
    return reshaped(x, shape, (*x.strides[:dim], stride, *x.strides[dim:]))


@views("squeeze.default")
def squeeze(x: TensorType) -> Steps:
    """Without its dimensions of size 1."""
    return squeeze_dims(x, range(x.rank))


@views("squeeze.dim")
def squeeze_dim(x: TensorType, dim: int) -> Steps:
    """Without `dim` where its size is 1."""
    return squeeze_dims(x, (dim,))


@views("squeeze.dims")
def squeeze_dims(x: TensorType, dim: Sequence[int]) -> Steps:
    """Without those of the named dimensions whose size is 1."""
    named = {wrapped(d, x.rank) for d in dim}
    kept = [d for d in range(x.rank) if d not in named or x.shape[d] != 1]
    return reshaped(x, tuple([x.shape[d] for d in kept]), tuple([x.strides[d] for d in kept]))


@views("expand.default")
def expand(x: TensorType, size: Sequence[int], implicit: bool = False) -> Steps:
    """-1 keeps a size."""
    missing = len(size) - x.rank
    if missing < 0:
        raise ShapeError(
            f"expand({x}, size={list(size)}): the number of sizes provided ({len(size)}) must be "
            f"greater or equal to the number of dimensions in the tensor ({x.rank})"
        )
    shape: list[int] = []
    for i, n in enumerate(size):
        if n < -1 or (n == -1 and i < missing):
            raise ShapeError(
                f"The expanded size of the tensor ({n}) isn't allowed in a leading, "
                f"non-existing dimension {i}"
            )
        shape.append(x.shape[i - missing] if n == -1 else n)
    return () if tuple(shape) == x.shape else (Expand(tuple(shape)),)


def bounds(size: int, start: int | None, end: int | None) -> tuple[int, int]:
    """Python's slice bounds for a dimension of `size` elements: 0 <= start <= stop <= size."""
    first = 0 if start is None else start
    last = size if end is None else end
    first = min(max(first + size if first < 0 else first, 0), size)
    last = last + size if last < 0 else last
    return first, min(max(last, first), size)


@views("slice.Tensor")
def slice_(
    x: TensorType, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Steps:
    """Python's slice along one dimension."""
    if not x.rank:
        raise ShapeError("slice() cannot be applied to a 0-dim tensor.")
    if step < 1:
        raise ShapeError("slice step must be positive")
    dim = wrapped(dim, x.rank)
    first, last = bounds(x.shape[dim], start, end)
    if (first, last, step) == (0, x.shape[dim], 1):
        return ()
    return (Slice(dim, first, last, step),)


@views("select.int")
def select(x: TensorType, dim: int, index: int) -> Steps:
    """Negative indices count from the end."""
    if not x.rank:
        raise BoundsError("select() cannot be applied to a 0-dim tensor.")
    dim = wrapped(dim, x.rank)
    size = x.shape[dim]
    if not -size <= index < size:
        raise BoundsError(
            f"select(): index {index} out of range for tensor of size {list(x.shape)} "
            f"at dimension {dim}"
        )
    return (Select(dim, index % size),)


@views("unbind.int")
def unbind(x: TensorType, dim: int = 0) -> list[Steps]:
    """Every entry along `dim`."""
    if not x.rank:
        raise ShapeError("Dimension specified as 0 but tensor has no dimensions")
    dim = wrapped(dim, x.rank)
    return [(Select(dim, i),) for i in range(x.shape[dim])]


@views("split.Tensor", "unsafe_split.Tensor")
def split(x: TensorType, split_size: int, dim: int = 0) -> list[Steps]:
    """Pieces of one size, the last one smaller."""
    if not x.rank:
        raise ShapeError("split expects at least a 1-dimensional tensor")
    dim = wrapped(dim, x.rank)
    size = x.shape[dim]
    if split_size < 0 or (split_size == 0 and size):
        raise ShapeError(
            f"split_size can only be 0 if dimension size is 0, but got dimension size of {size}"
            if split_size == 0
            else f"split expects split_size be non-negative, but got split_size={split_size}"
        )
    count = max(-(-size // split_size), 1) if split_size else 1
    return split_with_sizes(x, [min(split_size, size - i * split_size) for i in range(count)], dim)


@views("split_with_sizes.default", "unsafe_split_with_sizes.default")
def split_with_sizes(x: TensorType, split_sizes: Sequence[int], dim: int = 0) -> list[Steps]:
    """Pieces of the given sizes."""
    if not x.rank:
        raise ShapeError("split expects at least a 1-dimensional tensor")
    dim = wrapped(dim, x.rank)
    if any(size < 0 for size in split_sizes) or sum(split_sizes) != x.shape[dim]:
        raise ShapeError(
            f"split_with_sizes expects split_sizes to sum exactly to {x.shape[dim]} (input "
            f"tensor's size at dimension {dim}), but got split_sizes={list(split_sizes)}"
        )
    ends = [sum(split_sizes[: i + 1]) for i in range(len(split_sizes))]
    return [(Slice(dim, end - n, end),) for n, end in zip(split_sizes, ends, strict=True)]


@views("as_strided.default")
def as_strided(
    x: TensorType, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Steps:
    """`storage_offset` counts from x's first element here: a recorder that knows where in its
    storage x begins passes the difference, or the whole storage as x."""
    base = None if x.strides == contiguous_strides(x.shape) else x.strides
    return (AsStrided(tuple(size), tuple(stride), storage_offset or 0, base),)


@views("diagonal.default")
def diagonal(x: TensorType, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Steps:
    """The diagonal of two dimensions."""
    return (Diagonal(offset, wrapped(dim1, x.rank), wrapped(dim2, x.rank)),)


@views("unfold.default")
def unfold(x: TensorType, dimension: int, size: int, step: int) -> Steps:
    """Sliding windows."""
    return (Unfold(wrapped(dimension, x.rank), size, step),)


@views("view.dtype")
def view_dtype(x: TensorType, dtype: torch.dtype) -> Steps:
    """The same bytes as another dtype."""
    return () if dtype is x.dtype else (ViewDtype(dtype),)


@views("_conj.default")
def conj(x: TensorType) -> Steps:
    """Complex conjugates; torch asks for them of complex numbers only."""
    return (Conj(),) if x.dtype.is_complex else ()


@views("view_as_real.default")
def view_as_real(x: TensorType) -> Steps:
    """Complex numbers as pairs."""
    return (ViewAsReal(),)


@views("view_as_complex.default")
def view_as_complex(x: TensorType) -> Steps:
    """Pairs as complex numbers."""
    return (ViewAsComplex(),)


def laid_out(x: TensorType, memory_format: torch.memory_format | None) -> Strides:
    """Strides of a fresh tensor like `x` in a memory format (None preserves)."""
    if memory_format is None or memory_format == torch.preserve_format:
        return x.dense().strides
    return format_strides(x.shape, memory_format)


@imports("clone.default")
def clone(b: Builder, self: Node, memory_format: torch.memory_format | None = None) -> Node:
    """A copy; its layout is worked out now."""
    return b(Clone(laid_out(typed(self), memory_format)), self)


@imports("_to_copy.default")
def to_copy(
    b: Builder,
    self: Node | Number,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    non_blocking: bool = False,
    memory_format: torch.memory_format | None = None,
) -> Node:
    """Another dtype, device or layout; a plain copy when none of them changes.

    torch's batching rules convert plain numbers too, which become tensors without dimensions.
    """
    if pin_memory or layout not in (None, torch.strided):
        return NotImplemented
    if not (isinstance(self, Node) and isinstance(self.type, TensorType)):
        place = torch.device("cpu" if device is None else device)
        return NotImplemented if dtype is None else full(b, (), self, dtype, place)
    x = typed(self)
    result = self
    # Narrowing first and widening last moves the fewest bytes between devices.
    dtype = x.dtype if dtype is None else dtype
    widens = dtype.itemsize > x.dtype.itemsize
    if dtype is not x.dtype and not widens:
        result = b(Cast(dtype), result)
    if device is not None and torch.device(device) != x.device:
        result = b(ToDevice(torch.device(device)), result)
    if widens:
        result = b(Cast(dtype), result)
    strides = laid_out(x, memory_format)
    if result is self or typed(result).strides != strides:
        result = b(Clone(strides), result)
    return result


@imports("cat.default")
def cat(b: Builder, tensors: Sequence[Node], dim: int = 0) -> Node:
    """Joined along `dim`."""
    ranks = [typed(x).rank for x in tensors if typed(x).shape != (0,)]
    return b(Cat(wrapped(dim, ranks[0]) if ranks and ranks[0] else dim), *tensors)


@imports("stack.default")
def stack(b: Builder, tensors: Sequence[Node], dim: int = 0) -> Node:
    """Joined along a new dimension, by `cat` and a view as torch does it (its strides follow)."""
    if not tensors:
        raise ShapeError("stack expects a non-empty TensorList")
    shape = typed(tensors[0]).shape
    for i, x in enumerate(tensors):
        if typed(x).shape != shape:
            raise ShapeError(
                f"stack expects each tensor to be equal size, but got {list(shape)} at entry 0 "
                f"and {list(typed(x).shape)} at entry {i}"
            )
    dim = wrapped(dim, len(shape) + 1)
    if dim < len(shape):
        joined = b(Cat(dim), *tensors)
        return b(Reshape((*shape[:dim], len(tensors), *shape[dim:])), joined)
    columns: list[Node] = []
    for x in tensors:
        for step in unsqueeze(typed(x), dim):
            x = b(step, x)
        columns.append(x)
    return b(Cat(dim), *columns)
