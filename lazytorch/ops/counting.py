"""Numbers that count along a dimension, made where they are read."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from lazytorch.errors import ShapeError
from lazytorch.ops.base import Pointwise
from lazytorch.ops.create import CPU
from lazytorch.ops.emitter import Emitter, Value, cast
from lazytorch.types import Shape, TensorType, tensor_type


class Counting(Pointwise):
    """`start + step * i` for index i along dimension `dim`, the same along all others.

    In a kernel it is arithmetic on an element's own index, which takes no memory; alone it is a
    view of one line. Its numbers are exact in `dtype`, and in 32-bit integers.
    """

    placed: ClassVar[bool] = True
    shape: Shape
    dim: int
    start: int = 0
    step: int = 1
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    @property
    def fresh(self) -> bool:
        return True

    def infer(self) -> TensorType:
        if self.shape[self.dim] < 2:
            raise ShapeError(f"counting takes two numbers, {self.shape} has no such dimension")
        strides = tuple([int(d == self.dim) for d in range(len(self.shape))])
        return tensor_type(self.shape, self.dtype, self.device, strides)

    def operand_dtypes(self, *xs: Any) -> tuple[torch.dtype, ...]:
        return ()

    def emit(self, s: Emitter, place: Value) -> Value:
        return cast(s, place * self.step + self.start, self.dtype)

    def run(self) -> torch.Tensor:
        size = self.shape[self.dim]
        end = self.start + self.step * size
        line = torch.arange(self.start, end, self.step, dtype=self.dtype, device=self.device)
        beside = (1,) * (len(self.shape) - 1 - self.dim)
        return line.reshape(size, *beside).expand(self.shape)
