"""Reductions, softmax and cumulative sums as torch's overloads name them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lazytorch.frontend.imports import imports
from lazytorch.ir import Builder, Item, Node
from lazytorch.ops import reduce as ops
from lazytorch.ops.reduce import normalized_dim
from lazytorch.types import TensorType

Dims = int | Sequence[int] | None
Dtype = torch.dtype | None


def rank(x: Node) -> int:
    """Number of dimensions of a tensor node."""
    assert isinstance(x.type, TensorType)
    return x.type.rank


def every(x: Node, dim: Dims) -> tuple[int, ...]:
    """Dimensions ascending, counted from the front; none given means all of them."""
    if isinstance(dim, int):
        dim = (dim,)
    count = rank(x)
    given = sorted(normalized_dim(d, count) for d in dim or ())
    return tuple(given or range(count)) if count else ()


def front(x: Node, dim: int) -> int:
    """One dimension counted from the front."""
    return normalized_dim(dim, rank(x))


def both(b: Builder, pair: Node) -> tuple[Node, Node]:
    """The two values of a pair."""
    return b(Item(0), pair), b(Item(1), pair)


@imports("sum", "sum.dim_IntList")
def sum(
    b: Builder, self: Node, dim: Dims = None, keepdim: bool = False, *, dtype: Dtype = None
) -> Node:
    return b(ops.Sum(every(self, dim), keepdim, dtype), self)


@imports("mean", "mean.dim")
def mean(
    b: Builder, self: Node, dim: Dims = None, keepdim: bool = False, *, dtype: Dtype = None
) -> Node:
    return b(ops.Mean(every(self, dim), keepdim, dtype), self)


@imports("prod", "prod.dim_int")
def prod(
    b: Builder, self: Node, dim: int | None = None, keepdim: bool = False, *, dtype: Dtype = None
) -> Node:
    return b(ops.Prod(every(self, dim), keepdim, dtype), self)


@imports("amax")
def amax(b: Builder, self: Node, dim: Dims = (), keepdim: bool = False) -> Node:
    return b(ops.Amax(every(self, dim), keepdim), self)


@imports("amin")
def amin(b: Builder, self: Node, dim: Dims = (), keepdim: bool = False) -> Node:
    return b(ops.Amin(every(self, dim), keepdim), self)


@imports("max")
def max(b: Builder, self: Node) -> Node:
    return b(ops.Amax(every(self, None)), self)


@imports("min")
def min(b: Builder, self: Node) -> Node:
    return b(ops.Amin(every(self, None)), self)


@imports("max.dim")
def max_dim(b: Builder, self: Node, dim: int, keepdim: bool = False) -> tuple[Node, Node]:
    return both(b, b(ops.MaxDim(front(self, dim), keepdim), self))


@imports("min.dim")
def min_dim(b: Builder, self: Node, dim: int, keepdim: bool = False) -> tuple[Node, Node]:
    return both(b, b(ops.MinDim(front(self, dim), keepdim), self))


@imports("argmax")
def argmax(b: Builder, self: Node, dim: int | None = None, keepdim: bool = False) -> Node:
    return b(ops.Argmax(None if dim is None else front(self, dim), keepdim), self)


@imports("argmin")
def argmin(b: Builder, self: Node, dim: int | None = None, keepdim: bool = False) -> Node:
    return b(ops.Argmin(None if dim is None else front(self, dim), keepdim), self)


@imports("any", "any.dim", "any.dims")
def any(b: Builder, self: Node, dim: Dims = None, keepdim: bool = False) -> Node:
    if isinstance(dim, Sequence) and not dim:  # here alone, no dims means no reduction
        return NotImplemented
    return b(ops.Any(every(self, dim), keepdim), self)


@imports("all", "all.dim", "all.dims")
def all(b: Builder, self: Node, dim: Dims = None, keepdim: bool = False) -> Node:
    if isinstance(dim, Sequence) and not dim:
        return NotImplemented
    return b(ops.All(every(self, dim), keepdim), self)


@imports("logsumexp")
def logsumexp(b: Builder, self: Node, dim: Dims, keepdim: bool = False) -> Node:
    return b(ops.LogSumExp(every(self, dim), keepdim), self)


@imports("linalg_vector_norm")
def linalg_vector_norm(
    b: Builder,
    self: Node,
    ord: int | float = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: Dtype = None,
) -> Node:
    if isinstance(ord, Node):
        return NotImplemented
    return b(ops.VectorNorm(every(self, dim), keepdim, ord, dtype), self)


Correction = int | float | None


@imports("var.correction")
def var(
    b: Builder,
    self: Node,
    dim: Dims = None,
    *,
    correction: Correction = None,
    keepdim: bool = False,
) -> Node:
    correction = 1 if correction is None else correction
    return b(ops.Var(every(self, dim), keepdim, correction), self)


@imports("std.correction")
def std(
    b: Builder,
    self: Node,
    dim: Dims = None,
    *,
    correction: Correction = None,
    keepdim: bool = False,
) -> Node:
    correction = 1 if correction is None else correction
    return b(ops.Std(every(self, dim), keepdim, correction), self)


@imports("var_mean.correction")
def var_mean(
    b: Builder,
    self: Node,
    dim: Dims = None,
    *,
    correction: Correction = None,
    keepdim: bool = False,
) -> tuple[Node, Node]:
    correction = 1 if correction is None else correction
    return both(b, b(ops.VarMean(every(self, dim), keepdim, correction), self))


@imports("std_mean.correction")
def std_mean(
    b: Builder,
    self: Node,
    dim: Dims = None,
    *,
    correction: Correction = None,
    keepdim: bool = False,
) -> tuple[Node, Node]:
    correction = 1 if correction is None else correction
    return both(b, b(ops.StdMean(every(self, dim), keepdim, correction), self))


@imports("softmax.int")
def softmax(b: Builder, self: Node, dim: int, dtype: Dtype = None) -> Node:
    return b(ops.Softmax(front(self, dim), dtype), self)


@imports("_safe_softmax")
def _safe_softmax(b: Builder, self: Node, dim: int, dtype: Dtype = None) -> Node:  # pyright: ignore[reportUnusedFunction]
    return b(ops.SafeSoftmax(front(self, dim), dtype), self)


@imports("log_softmax.int")
def log_softmax(b: Builder, self: Node, dim: int, dtype: Dtype = None) -> Node:
    return b(ops.LogSoftmax(front(self, dim), dtype), self)


@imports("_softmax")
def _softmax(b: Builder, self: Node, dim: int, half_to_float: bool) -> Node:  # pyright: ignore[reportUnusedFunction]
    return b(ops.Softmax(front(self, dim), torch.float32 if half_to_float else None), self)


@imports("_log_softmax")
def _log_softmax(b: Builder, self: Node, dim: int, half_to_float: bool) -> Node:  # pyright: ignore[reportUnusedFunction]
    return b(ops.LogSoftmax(front(self, dim), torch.float32 if half_to_float else None), self)


@imports("cumsum")
def cumsum(b: Builder, self: Node, dim: int, *, dtype: Dtype = None) -> Node:
    return b(ops.Cumsum(front(self, dim), dtype), self)


@imports("cumprod")
def cumprod(b: Builder, self: Node, dim: int, *, dtype: Dtype = None) -> Node:
    return b(ops.Cumprod(front(self, dim), dtype), self)
