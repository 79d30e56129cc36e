"""Operations that make tensors from numbers: constants, fills, ranges, triangles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from lazytorch.data import Data
from lazytorch.errors import ShapeError
from lazytorch.ir import Builder, Node, Op
from lazytorch.ops.copies import last_element
from lazytorch.types import (
    Number,
    ScalarType,
    Shape,
    Strides,
    TensorType,
    contiguous_strides,
    kind_of,
    tensor_type,
)

if TYPE_CHECKING:
    from lazytorch.ops.calculus import Calculus, Cotangents

CPU = torch.device("cpu")


class Literal(Op):
    """A tensor whose content was known when the graph was recorded."""

    data: Data

    def infer(self) -> TensorType:
        return self.data.type

    def run(self) -> torch.Tensor:
        return self.data.tensor


class Full(Op):
    """A tensor filled with `value`, or with the operand where `value` is None: a number, or a
    tensor without dimensions."""

    shape: Shape
    value: Number | None
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU
    strides: Strides | None = None

    def infer(self, *value: ScalarType | TensorType) -> TensorType:
        if len(value) != (self.value is None):
            raise ShapeError("full: takes an operand exactly where it has no value")
        if any(size < 0 for size in self.shape):
            raise ShapeError(
                "Trying to create tensor with negative dimension "
                f"{min(self.shape)}: {list(self.shape)}"
            )
        return tensor_type(self.shape, self.dtype, self.device, self.strides)

    def run(self, *value: Any) -> torch.Tensor:
        number: Any = value[0] if value else self.value
        if self.strides is None:
            return self.filled(self.shape, number)
        # Filled flat: strides may have holes, or show one element twice.
        count = last_element(self.shape, self.strides) + 1
        return self.filled((count,), number).as_strided(self.shape, self.strides)

    def filled(self, shape: Shape, number: Any) -> torch.Tensor:
        """Row-major; a tensor's number is not asked for, which would wait for its device."""
        if isinstance(number, torch.Tensor):
            return torch.empty(shape, dtype=self.dtype, device=self.device).fill_(number)
        return torch.full(shape, number, dtype=self.dtype, device=self.device)


def full(
    b: Builder,
    shape: Shape,
    value: Number | Node,
    dtype: torch.dtype,
    device: torch.device,
    strides: Strides | None = None,
) -> Node:
    """A `Full` node in the one form that equal tensors have: row-major strides are left out."""
    if strides == contiguous_strides(shape):
        strides = None
    if isinstance(value, Node):
        return b(Full(shape, None, dtype, device, strides), value)
    return b(Full(shape, converted(value, dtype), dtype, device, strides))


def converted(value: Number, dtype: torch.dtype) -> Number:
    """`value` as the kind of number that a tensor of `dtype` holds, where that loses nothing."""
    kind = kind_of(dtype)
    if kind == 3:
        return complex(value)
    if isinstance(value, complex):
        return value
    if kind == 2:
        return float(value)
    if not math.isfinite(value):
        return value
    return bool(value) if kind == 0 else int(value)


def arange_length(start: Number, end: Number, step: Number, dtype: torch.dtype) -> int:
    """Number of elements, rounded as torch does it for the result's dtype."""
    assert not isinstance(start, complex) and not isinstance(end, complex)
    assert not isinstance(step, complex)
    if step == 0:
        raise ShapeError("step must be nonzero")
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ShapeError(f"unsupported range: {start} -> {end}")
    if dtype is torch.int64:
        start, end, step = int(start), int(end), int(step)
        if step == 0:
            raise ShapeError("step must be nonzero")
        length = -((start - end) // step)
    else:
        length = math.ceil((end - start) / step)
    if length < 0 or ((step > 0) != (end >= start) and end != start):
        raise ShapeError("upper bound and lower bound inconsistent with step sign")
    return length


class Arange(Op):
    """start, start + step, ... below `end`. Shape: (ceil((end - start) / step),)."""

    start: Number
    end: Number
    step: Number = 1
    dtype: torch.dtype = torch.int64
    device: torch.device = CPU

    def infer(self) -> TensorType:
        length = arange_length(self.start, self.end, self.step, self.dtype)
        return tensor_type((length,), self.dtype, self.device)

    def run(self) -> torch.Tensor:
        return torch.arange(self.start, self.end, self.step, dtype=self.dtype, device=self.device)


class Linspace(Op):
    """`steps` values from `start` to `end`, both included."""

    start: Number
    end: Number
    steps: int
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    def infer(self) -> TensorType:
        if self.steps < 0:
            raise ShapeError("number of steps must be non-negative")
        return tensor_type((self.steps,), self.dtype, self.device)

    def run(self) -> torch.Tensor:
        return torch.linspace(
            self.start, self.end, self.steps, dtype=self.dtype, device=self.device
        )


class Eye(Op):
    """Ones on the diagonal of an n by m matrix, zeros elsewhere."""

    n: int
    m: int
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    def infer(self) -> TensorType:
        for name, size in (("n", self.n), ("m", self.m)):
            if size < 0:
                raise ShapeError(f"{name} must be greater or equal to 0, got {size}")
        return tensor_type((self.n, self.m), self.dtype, self.device)

    def run(self) -> torch.Tensor:
        return torch.eye(self.n, self.m, dtype=self.dtype, device=self.device)


class Triangle(Op, abstract=True):
    """A part of every matrix in the last two dimensions, zeros elsewhere."""

    diagonal: int = 0

    def infer(self, x: TensorType) -> TensorType:
        if x.rank < 2:
            raise ShapeError(f"{self.name()}: input tensor must have at least 2 dimensions")
        return x.with_shape(x.shape)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s(self, g),)


class Tril(Triangle):
    """The elements on and below a diagonal."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tril(x, self.diagonal)


class Triu(Triangle):
    """The elements on and above a diagonal."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.triu(x, self.diagonal)
