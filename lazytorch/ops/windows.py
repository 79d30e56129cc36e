"""The rarer views: diagonals, sliding windows, other readings of the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lazytorch.errors import DTypeError, ShapeError
from lazytorch.ir import Builder, Node
from lazytorch.ops.base import View
from lazytorch.ops.copies import relaid
from lazytorch.ops.layout import Window, restored
from lazytorch.ops.reduction import tensor
from lazytorch.ops.writes import Put
from lazytorch.types import TensorType

if TYPE_CHECKING:
    from lazytorch.ops.calculus import Calculus, Cotangents


class Diagonal(Window):
    """The diagonal of dimensions `dim1` and `dim2`, as the last dimension; `shift` as in torch."""

    shift: int = 0
    dim1: int = 0
    dim2: int = 1

    def infer(self, x: TensorType) -> TensorType:
        if self.dim1 == self.dim2:
            raise ShapeError(f"diagonal dimensions cannot be identical {self.dim1}, {self.dim2}")
        size = min(x.shape[self.dim1] + min(self.shift, 0), x.shape[self.dim2] - max(self.shift, 0))
        kept = [d for d in range(x.rank) if d not in (self.dim1, self.dim2)]
        return TensorType(
            (*[x.shape[d] for d in kept], max(size, 0)),
            x.dtype,
            x.device,
            (*[x.strides[d] for d in kept], x.strides[self.dim1] + x.strides[self.dim2]),
        )

    def offset(self, x: TensorType) -> int:
        if self.infer(x).shape[-1] == 0:
            return 0
        return x.strides[self.dim2 if self.shift > 0 else self.dim1] * abs(self.shift)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.diagonal(x, self.shift, self.dim1, self.dim2)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s(Put((self,), tensor(x).with_shape(tensor(x).shape).strides), s.full(x, 0.0), g),)


class Unfold(Window):
    """Windows of `size` elements every `step` along `dim`; each lies in a new last dimension."""

    dim: int
    size: int
    step: int

    def infer(self, x: TensorType) -> TensorType:
        length, stride = (x.shape[self.dim], x.strides[self.dim]) if x.rank else (1, 1)
        if not 0 <= self.size <= length:
            raise ShapeError(
                f"maximum size for tensor at dimension {self.dim} is {length} "
                f"but size is {self.size}"
            )
        if self.step < 1:
            raise ShapeError(f"step is {self.step} but must be > 0")
        shape, strides = list(x.shape), list(x.strides)
        if x.rank:
            shape[self.dim] = (length - self.size) // self.step + 1
            strides[self.dim] = stride * self.step
        return TensorType((*shape, self.size), x.dtype, x.device, (*strides, stride))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.unfold(self.dim, self.size, self.step)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.shown(self, x, g),)


class ViewDtype(Window):
    """The operand's bytes read as another dtype; the last dimension grows or shrinks."""

    dtype: torch.dtype

    def infer(self, x: TensorType) -> TensorType:
        old, new = x.dtype.itemsize, self.dtype.itemsize
        if old == new:
            return x.with_dtype(self.dtype)
        if not x.rank:
            raise ShapeError(
                "self.dim() cannot be 0 to view a tensor as another dtype of different size"
            )
        if x.strides[-1] != 1:
            raise ShapeError(
                "self.stride(-1) must be 1 to view the tensor as another dtype of different size, "
                f"but got {x.strides[-1]}"
            )
        scaled = [size * old for size in (x.shape[-1], *x.strides[:-1])]
        if any(nbytes % new for nbytes in scaled):
            raise ShapeError(
                f"{x} cannot be viewed as {self.dtype}: its bytes do not divide evenly"
            )
        last, *strides = [nbytes // new for nbytes in scaled]
        return TensorType((*x.shape[:-1], last), self.dtype, x.device, (*strides, 1))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(self.dtype)


class Conj(View):
    """Complex conjugates. Eager's is a view that negates when it is read; here it is computed.

    The operand's strides stay. A write through it stores conjugates.
    """

    def infer(self, x: TensorType) -> TensorType:
        return x

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return relaid(torch.conj_physical(x), tuple(x.stride()))

    def put(self, b: Builder, base: Node, value: Node) -> Node:
        return restored(b, b(Conj(), value), base)


class ViewAsReal(Window):
    """Complex numbers as pairs (real, imaginary) in a new last dimension."""

    def infer(self, x: TensorType) -> TensorType:
        if not x.dtype.is_complex:
            raise DTypeError(f"view_as_real is only supported for complex tensors, not {x.dtype}")
        strides = (*[2 * stride for stride in x.strides], 1)
        return TensorType((*x.shape, 2), x.dtype.to_real(), x.device, strides)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(x)


class ViewAsComplex(Window):
    """Pairs in the last dimension as complex numbers."""

    def infer(self, x: TensorType) -> TensorType:
        if not x.dtype.is_floating_point:
            raise DTypeError(
                f"view_as_complex is only supported for floating tensors, not {x.dtype}"
            )
        if x.shape[-1:] != (2,):
            raise ShapeError("Tensor must have a last dimension of size 2")
        if x.strides[-1] != 1 or any(stride % 2 for stride in x.strides[:-1]):
            raise ShapeError("Tensor must have a last dimension with stride 1, the others even")
        strides = tuple([stride // 2 for stride in x.strides[:-1]])
        return TensorType(x.shape[:-1], x.dtype.to_complex(), x.device, strides)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        if x.stride(-1) != 1 or any(stride % 2 for stride in x.stride()[:-1]):
            x = x.contiguous()
        return torch.view_as_complex(x)
