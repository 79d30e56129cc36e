"""Imports of gathers, scatters and advanced indexing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lazytorch.frontend.aten.layout import typed
from lazytorch.frontend.imports import imports
from lazytorch.ir import Builder, Node, Operand
from lazytorch.ops.aten import Aten
from lazytorch.ops.copies import wrapped
from lazytorch.ops.index import (
    INDICES,
    Embedding,
    Gather,
    Index,
    IndexPut,
    IndexSelect,
    Scatter,
    ScatterAdd,
)
from lazytorch.types import Number

MASKS = (torch.bool, torch.uint8)


@imports("gather.default")
def gather(b: Builder, self: Node, dim: int, index: Node, sparse_grad: bool = False) -> Node:
    """Only with dense gradients; indices that are none may be of any dtype."""
    if sparse_grad or (typed(index).dtype not in INDICES and not typed(index).numel):
        return NotImplemented
    return b(Gather(wrapped(dim, typed(self).rank)), self, index)


@imports("scatter.src")
def scatter_src(b: Builder, self: Node, dim: int, index: Node, src: Node) -> Node:
    """From a tensor."""
    return b(Scatter(wrapped(dim, typed(self).rank)), self, index, src)


@imports("scatter.value")
def scatter_value(b: Builder, self: Node, dim: int, index: Node, value: Number | Node) -> Node:
    """From a number."""
    return b(Scatter(wrapped(dim, typed(self).rank)), self, index, value)


@imports("scatter_add.default")
def scatter_add(b: Builder, self: Node, dim: int, index: Node, src: Node) -> Node:
    """Sums where positions repeat; positions that are none may be of any dtype."""
    if typed(index).dtype not in INDICES and not typed(index).numel:
        return NotImplemented
    return b(ScatterAdd(wrapped(dim, typed(self).rank)), self, index, src)


@imports("index_select.default")
def index_select(b: Builder, self: Node, dim: int, index: Node) -> Node:
    """Whole entries along `dim`."""
    return b(IndexSelect(wrapped(dim, typed(self).rank)), self, index)


@imports("embedding.default")
def embedding(
    b: Builder,
    weight: Node,
    indices: Node,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Node:
    """Only with dense gradients."""
    if sparse:
        return NotImplemented
    return b(Embedding(padding_idx, scale_grad_by_freq), weight, indices)


@imports("index.Tensor")
def index(b: Builder, self: Node, indices: Sequence[Node | None]) -> Node:
    """Integer indices: with a mask, the size of the result would depend on values."""
    given = [i for i in indices if i is not None]
    if not given or any(typed(i).dtype not in INDICES for i in given):
        return NotImplemented
    return b(Index(places(indices)), self, *given)


@imports("index_put.default", "_unsafe_index_put.default")
def index_put(
    b: Builder, self: Node, indices: Sequence[Node | None], values: Node, accumulate: bool = False
) -> Node:
    """Integer indices and masks."""
    given = [i for i in indices if i is not None]
    if not given or any(typed(i).dtype not in INDICES + MASKS for i in given):
        return NotImplemented
    return b(IndexPut(places(indices), accumulate), self, values, *given)


@imports("cudnn_grid_sampler.default")
def cudnn_grid_sampler(b: Builder, self: Node, grid: Node) -> Node:
    """By torch's own kernel, whose derivative any device has: bilinear, zeros outside, the corners
    in the middle of pixels."""
    arguments = (Operand(0), Operand(1), 0, 0, True)
    return b(Aten("aten.grid_sampler_2d.default", arguments), self, grid)


def places(indices: Sequence[Node | None]) -> tuple[bool, ...]:
    """Which dimensions have an index; trailing ones without are left out."""
    which = [i is not None for i in indices]
    while not which[-1]:
        which.pop()
    return tuple(which)
