"""What reductions along dimensions have in common: their shapes, dtypes and refusals."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch

from lazytorch.errors import BoundsError, DTypeError, ShapeError
from lazytorch.ir import Node, Op
from lazytorch.ops.base import Rowwise
from lazytorch.types import Shape, TensorType, TupleType, tensor_type

if TYPE_CHECKING:
    from lazytorch.ops.calculus import Calculus


def normalized_dim(dim: int, rank: int) -> int:
    """`dim` counted from the front; BoundsError where a tensor of that rank has no such one."""
    bound = rank or 1
    if not -bound <= dim < bound:
        raise BoundsError(
            f"Dimension out of range (expected to be in range of [{-bound}, {bound - 1}], "
            f"but got {dim})"
        )
    return dim % bound


def reduced_shape(shape: Shape, dims: tuple[int, ...], keepdim: bool) -> Shape:
    """The shape that is left when `dims` are reduced; ShapeError when one is named twice."""
    for i, dim in enumerate(dims):
        normalized_dim(dim, len(shape))
        if dim in dims[:i]:
            raise ShapeError(f"dim {dim} appears multiple times in the list of dims")
    if keepdim:
        return tuple([1 if d in dims else size for d, size in enumerate(shape)])
    return tuple([size for d, size in enumerate(shape) if d not in dims])


def counted(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums and products of `dtype` come: integers and booleans widen to i64."""
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.int64


def need_float(op: Op, dtype: torch.dtype) -> torch.dtype:
    """`dtype`, or DTypeError for integers and booleans."""
    if not (dtype.is_floating_point or dtype.is_complex):
        raise DTypeError(f"{op.name()}: expected a floating point or complex dtype, got {dtype}")
    return dtype


def need_elements(op: Op, x: TensorType, dims: tuple[int, ...]) -> None:
    """ShapeError where there is nothing to take the extremum of."""
    for dim in dims if x.rank else ():
        if x.shape[dim] == 0:
            raise ShapeError(
                f"{op.name()}: dimension {dim} has size 0, and the operation has no identity"
            )


def tensor(x: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(x.type, TensorType)
    return x.type


class Reduction(Rowwise, abstract=True):
    """Reduces `dims` (counted from the front, ascending, each once; every one for a whole sum)."""

    dims: tuple[int, ...]
    keepdim: bool = False

    def along_rows(self, x: TensorType) -> bool:
        return self.keepdim and self.dims == (x.rank - 1,)

    def infer(self, x: TensorType) -> TensorType | TupleType:
        return tensor_type(
            reduced_shape(x.shape, self.dims, self.keepdim), self.result(x), x.device
        )

    def result(self, x: TensorType) -> torch.dtype:
        """The dtype of the result."""
        return x.dtype

    def count(self, x: TensorType) -> int:
        """How many elements are reduced to one."""
        return prod([x.shape[d] for d in self.dims])

    def again(self, s: Calculus, y: Node, x: Node) -> Node:
        """What belongs to the results, repeated to the shape of the operand."""
        return s.unreduced(y, self.dims, self.keepdim, tensor(x).shape)

    def shared(self, s: Calculus, g: Node, chosen: Node, x: Node) -> Node:
        """What flows to elements that equal their extremum: an equal share for each of them."""
        count = s.sum(s.cast(chosen, torch.float32), self.dims, True)
        return s.div(s.mul(self.again(s, g, x), chosen), count)
