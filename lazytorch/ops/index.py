"""Operations that read or write elements at positions held in tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lazytorch.errors import BoundsError, DTypeError, ShapeError
from lazytorch.ir import Op, Operand
from lazytorch.ops.aten import Aten
from lazytorch.ops.base import elementwise_strides
from lazytorch.ops.copies import ToDevice
from lazytorch.ops.create import Full
from lazytorch.ops.layout import Expand, Reshape
from lazytorch.ops.reduction import tensor
from lazytorch.types import ScalarType, Shape, TensorType, broadcast

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents

Places = tuple[bool, ...]
INDICES = (torch.int64, torch.int32)


class Gather(Op):
    """Element i of the result is the operand at i, with i[dim] replaced by index[i]."""

    dim: int

    def infer(self, x: TensorType, index: TensorType) -> TensorType:
        check_indexing(self, x, index, self.dim)
        return TensorType(index.shape, x.dtype, x.device, x.with_shape(index.shape).strides)

    def run(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return torch.gather(x, self.dim, index)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, index: Node) -> Cotangents:
        return (s(ScatterAdd(self.dim), s.full(x, 0.0), index, g), None)


class Scatter(Op):
    """The first operand after element i of the source, a tensor or a number, went to index[i]."""

    dim: int

    def infer(
        self, x: TensorType, index: TensorType, source: TensorType | ScalarType
    ) -> TensorType:
        check_indexing(self, x, index, self.dim)
        if isinstance(source, TensorType) and source.dtype is not x.dtype:
            raise DTypeError("scatter(): Expected self.dtype to be equal to src.dtype")
        return x.with_shape(x.shape)

    def run(self, x: torch.Tensor, index: torch.Tensor, source: Any) -> torch.Tensor:
        return torch.scatter(x, self.dim, index, source)

    def vjp(
        self, s: Calculus, g: Node, out: Node, x: Node, index: Node, source: Node
    ) -> Cotangents:
        if isinstance(source.type, TensorType) and source.type.shape != tensor(index).shape:
            return NotImplemented
        return (s(self, g, index, 0.0), None, s(Gather(self.dim), g, index))


class ScatterAdd(Op):
    """As `Scatter`, but what goes to an element is added to it."""

    dim: int

    def infer(self, x: TensorType, index: TensorType, source: TensorType) -> TensorType:
        check_indexing(self, x, index, self.dim)
        if source.dtype is not x.dtype:
            raise DTypeError("scatter(): Expected self.dtype to be equal to src.dtype")
        return x.with_shape(x.shape)

    def run(self, x: torch.Tensor, index: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return torch.scatter_add(x, self.dim, index, source)

    def vjp(
        self, s: Calculus, g: Node, out: Node, x: Node, index: Node, source: Node
    ) -> Cotangents:
        if tensor(source).shape != tensor(index).shape:
            return NotImplemented
        return (g, None, s(Gather(self.dim), g, index))


def check_indexing(op: Op, x: TensorType, index: TensorType, dim: int) -> None:
    """ShapeError or DTypeError where an index does not fit `gather` or `scatter` along `dim`."""
    if index.dtype not in INDICES:
        raise DTypeError(f"{op.name()}(): Expected dtype int32/int64 for index")
    if not index.numel:
        return
    if max(x.rank, 1) != max(index.rank, 1):
        raise ShapeError(
            "Index tensor must have the same number of dimensions as input tensor: "
            f"{index.rank} and {x.rank}"
        )
    for d, (size, limit) in enumerate(zip(index.shape, x.shape, strict=False)):
        if d != dim and size > limit:
            raise ShapeError(
                f"Size does not match at dimension {d} expected index {list(index.shape)} "
                f"to be no larger than self {list(x.shape)} apart from dimension {dim}"
            )


class IndexSelect(Op):
    """The entries along `dim` that a vector of positions names."""

    dim: int

    def infer(self, x: TensorType, index: TensorType) -> TensorType:
        if index.rank > 1:
            raise BoundsError("index_select(): Index is supposed to be a vector")
        if index.dtype not in INDICES:
            raise DTypeError("index_select(): Expected dtype int32 or int64 for index")
        if not x.rank:
            return x
        return x.with_shape((*x.shape[: self.dim], index.numel, *x.shape[self.dim + 1 :]))

    def run(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return torch.index_select(x, self.dim, index)


class Embedding(Op):
    """Rows of a table. Shape: indices' shape and the row's length.

    `padding_idx` and `scale_grad_by_freq` only concern the gradient.
    """

    padding_idx: int = -1
    scale_grad_by_freq: bool = False

    def infer(self, weight: TensorType, indices: TensorType) -> TensorType:
        if weight.rank != 2:
            raise ShapeError("'weight' must be 2-D")
        if indices.dtype not in INDICES:
            raise DTypeError(
                "Expected tensor for argument #1 'indices' to have one of the following scalar "
                f"types: Long, Int; but got {indices.dtype} instead"
            )
        return weight.with_shape((*indices.shape, weight.shape[1]))

    def run(self, weight: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return torch.embedding(weight, indices, self.padding_idx, self.scale_grad_by_freq, False)


class Index(Op):
    """`x[i, :, j]`: `which[d]` says whether dimension d has an index, an integer operand.

    Indices broadcast to one shape, which replaces their dimensions where these are adjacent and
    leads the result otherwise.
    """

    which: tuple[bool, ...]

    def infer(self, x: TensorType, *indices: TensorType) -> TensorType:
        check_indices(self.which, x, indices)
        if any(i.dtype not in INDICES for i in indices):
            raise DTypeError("tensors used as indices must be long, int, byte or bool tensors")
        shape = indices_shape(indices)
        named = [d for d, has in enumerate(self.which) if has]
        others = [d for d in range(x.rank) if d not in named]
        adjacent = named == list(range(named[0], named[-1] + 1))
        before = [d for d in others if d < named[0]] if adjacent else []
        after = others[len(before) :]
        sizes = tuple([x.shape[d] for d in before]) + shape + tuple([x.shape[d] for d in after])
        # Strides as TensorIterator finds them: it walks over the source, whose indexed dimensions
        # stand still, and over the indices. Source: ATen/native/TensorAdvancedIndexing.cpp.
        source = TensorType(
            sizes,
            x.dtype,
            x.device,
            (
                *[x.strides[d] for d in before],
                *[0] * len(shape),
                *[x.strides[d] for d in after],
            ),
        )
        spread = [Expand(shape).infer(i) for i in indices]
        if x.device.type == "cuda" and len({i.strides for i in spread}) > 1:
            spread = [i.with_shape(shape) for i in spread]
        padded = Reshape((1,) * len(before) + shape + (1,) * len(after))
        walked = [source, *[padded.infer(i) for i in spread]]
        operands = tuple([(t.shape, t.strides) for t in walked])
        return TensorType(sizes, x.dtype, x.device, elementwise_strides(sizes, operands, False))

    def run(self, x: torch.Tensor, *indices: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.index.Tensor(x, placed(self.which, indices))

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, *indices: Node) -> Cotangents:
        added = s(IndexPut(self.which, True), s.full(x, 0.0), g, *indices)
        return (added, *[None for _ in indices])


class IndexPut(Op):
    """The first operand after `x[i, :, j] = value`; operands: x, value, the indices.

    Integer or boolean indices. With `accumulate`, values are added to what is there.
    """

    which: tuple[bool, ...]
    accumulate: bool = False

    def infer(self, x: TensorType, value: TensorType, *indices: TensorType) -> TensorType:
        check_indices(self.which, x, indices)
        if value.dtype is not x.dtype:
            raise DTypeError(
                "Index put requires the source and destination dtypes match, "
                f"got {x.dtype} for the destination and {value.dtype} for the source."
            )
        return x.dense()

    def run(self, x: torch.Tensor, value: torch.Tensor, *indices: torch.Tensor) -> torch.Tensor:
        found = placed(self.which, indices)
        return torch.ops.aten.index_put.default(x, found, value, self.accumulate)

    def vjp(
        self, s: Calculus, g: Node, out: Node, x: Node, value: Node, *indices: Node
    ) -> Cotangents:
        rest = [None for _ in indices]
        nothing = s(Full((), 0.0, tensor(x).dtype, tensor(x).device))
        base = g if self.accumulate else s(self, g, nothing, *indices)
        if all([tensor(i).dtype in INDICES for i in indices]):
            return (base, s(Index(self.which), g, *indices), *rest)
        if len(indices) > 1:
            return NotImplemented
        return (base, by_mask(s, g, tensor(value), self.which.index(True), *indices), *rest)


def by_mask(s: Calculus, g: Node, value: TensorType, before: int, mask: Node) -> Node:
    """What flows to values that were put where a mask from dimension `before` on says so."""
    t, covered = tensor(g), tensor(mask).rank
    after = t.rank - before - covered
    along = value.rank - 1 - after  # the dimension of the chosen elements
    if along >= 0 and value.shape[along] != 1:
        count = TensorType((value.shape[along],), torch.int64, t.device, (1,))
        places = (False,) * before + (True,) * covered
        typed = Index(places).infer(t, *[count] * covered)
        args = (Operand(0), (*[None] * before, Operand(1)))
        return s(Aten("aten.index.Tensor", args, observed=typed), g, mask)
    # One value for all that are chosen, whose number is not known.
    here = mask if tensor(mask).device == t.device else s(ToDevice(t.device), mask)
    spread = s.reshape(here, (1,) * before + tensor(mask).shape + (1,) * after)
    total = s.sum(s.choose(spread, g, 0.0), tuple(range(before, before + covered)))
    return s.reshape(total, (*t.shape[:before], 1, *t.shape[before + covered :]))


def check_indices(which: Places, x: TensorType, indices: tuple[TensorType, ...]) -> None:
    """BoundsError for more indices than dimensions."""
    if sum(which) != len(indices) or not indices:
        raise ShapeError(f"index: {len(indices)} indices for the places {which}")
    if len(which) > x.rank:
        raise BoundsError(f"too many indices for tensor of dimension {x.rank} (got {len(which)})")


def indices_shape(indices: tuple[TensorType, ...]) -> Shape:
    """The shape to which indices broadcast."""
    try:
        return broadcast([i.shape for i in indices])
    except ValueError:
        shapes = ", ".join(str(list(i.shape)) for i in indices)
        raise BoundsError(
            f"shape mismatch: indexing tensors could not be broadcast together with shapes {shapes}"
        ) from None


def placed(which: tuple[bool, ...], indices: tuple[torch.Tensor, ...]) -> list[torch.Tensor | None]:
    """The indices in their dimensions' places, None elsewhere."""
    rest = iter(indices)
    return [next(rest) if has else None for has in which]
