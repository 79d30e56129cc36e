"""Where the largest and the smallest elements are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lazytorch.errors import ShapeError
from lazytorch.ir import Item, Node, Op
from lazytorch.ops.reduction import need_elements, reduced_shape, tensor
from lazytorch.types import TensorType, TupleType, tensor_type

if TYPE_CHECKING:
    from lazytorch.ops.calculus import Calculus, Cotangents


class Argmax(Op):
    """Index of the largest element along `dim`, or in the flattened tensor."""

    dim: int | None = None
    keepdim: bool = False

    def infer(self, x: TensorType) -> TensorType:
        dims = tuple(range(x.rank)) if self.dim is None else (self.dim,)
        if self.dim is None and not x.numel:
            raise ShapeError(f"{self.name()}: expected a nonempty tensor when no dim is given")
        need_elements(self, x, dims)
        return tensor_type(reduced_shape(x.shape, dims, self.keepdim), torch.int64, x.device)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.argmax(x, self.dim, self.keepdim)


class Argmin(Argmax):
    """Index of the smallest element along `dim`, or in the flattened tensor."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.argmin(x, self.dim, self.keepdim)


class MaxDim(Op):
    """Largest elements along `dim`, and their indices."""

    dim: int
    keepdim: bool = False

    def infer(self, x: TensorType) -> TupleType:
        need_elements(self, x, (self.dim,))
        values = x.with_shape(reduced_shape(x.shape, (self.dim,), self.keepdim))
        return TupleType((values, values.with_dtype(torch.int64)))

    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.max(x, self.dim, self.keepdim)

    def vjp(self, s: Calculus, g: list[Node | None], out: Node, x: Node) -> Cotangents:
        t = tensor(x)
        if not t.rank or g[0] is None:
            return (g[0],)
        places = s.arange(t.shape[self.dim], t.device, (-1,) + (1,) * (t.rank - 1 - self.dim))
        chosen = s.unreduced(s(Item(1), out), (self.dim,), self.keepdim, t.shape)
        there = s.eq(places, chosen)
        return (s.choose(there, s.unreduced(g[0], (self.dim,), self.keepdim, t.shape), 0.0),)


class MinDim(MaxDim):
    """Smallest elements along `dim`, and their indices."""

    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.min(x, self.dim, self.keepdim)
