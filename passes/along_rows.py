"""Reductions in the form that generated kernels compute: along the last dimension, which stays.

A reduction over the last dimensions becomes one over the last, between two reshapes that are views:
in that form it joins what is around it in one kernel. One over other dimensions becomes one of
rows that lie beside each other, on the CPU if arithmetic makes what it reduces, or torch is slow at
it; on a GPU, where these are few and long, of parts of them first. Cross
entropy of class numbers becomes one number for each row, and their sum; on the CPU after a look
whether there are such classes, which torch's own would say.

Declines where a reshape would copy, on operations without such a kernel (see `obstacle`), on cross
entropy with weights, smoothing or probabilities, and on the CPU on a small one. The same
arithmetic, summed in another order.
"""

from __future__ import annotations

import math

import torch

from lazytorch.columns import joined, parts_of, split
from lazytorch.ir import Builder, Graph, Node
from lazytorch.ops.base import Pointwise
from lazytorch.ops.compare import Ne
from lazytorch.ops.generated import obstacle
from lazytorch.ops.layout import Permute, Reshape, view_strides
from lazytorch.ops.loss import CheckedClasses, CrossEntropyLoss, RowCrossEntropy
from lazytorch.ops.pointwise import Cast, Div
from lazytorch.ops.reduce import LogSumExp, Reduction, Sum, Var, VectorNorm
from lazytorch.types import TensorType

LARGE, LESS = 1 << 20, 1 << 17
"""Elements from which on torch's own on the CPU, which keeps all logarithms, is slower; and from
which it is where there are `CLASSES`: a kernel loses less time between longer rows."""

CLASSES = 384

MANY = 1 << 22
"""Elements from which on torch's own sum, mean or extreme across rows on the CPU is slower, by 1 to
1.6."""

HALVES = 1 << 17
"""The same for elements of 16 bits, which it only sums as fast as others."""

WIDE = {2: 4096, 4: 512}
"""Columns, by the bytes of an element, of matrices of `TALL` rows and `SOME` elements for which it
is slower already."""

TALL, SOME = 32, 1 << 18


def along_rows(graph: Graph) -> Graph:
    """The graph with reductions along rows."""

    def rule(node: Node) -> Node:
        found = node
        if isinstance(node.op, Reduction):
            found = reduced(node, node.op)
        elif isinstance(node.op, CrossEntropyLoss):
            found = cross_entropy(node, node.op)
        return found if found.type == node.type else node

    return graph.map(rule)


def reduced(node: Node, op: Reduction) -> Node:
    """A reduction as one over the last dimension; the node itself where that takes a copy."""
    x, typed = node.inputs[0], node.type
    if not isinstance(x.type, TensorType) or not isinstance(typed, TensorType) or not op.dims:
        return node
    if op.along_rows(x.type) or not x.type.numel or not x.type.rank:
        return node
    b = Builder(node.where)
    kept = [d for d in range(x.type.rank) if d not in op.dims]
    order = (*kept, *op.dims)
    rows = x if order == tuple(range(x.type.rank)) else b(Permute(order), x)
    assert isinstance(rows.type, TensorType)
    shape = tuple([x.type.shape[d] for d in kept])
    flat = (*shape, math.prod(x.type.shape) // max(math.prod(shape), 1))
    if view_strides(rows.type.shape, rows.type.strides, flat) is None:
        return node
    rows = rows if rows.type.shape == flat else b(Reshape(flat), rows)
    whole = b(op.with_attributes(dims=(len(kept),), keepdim=True), rows)
    on_gpu = x.type.device.type == "cuda"
    better = on_gpu or joins(x) or slow(op, x.type)
    if obstacle(whole) or not (better or order == tuple(range(x.type.rank))):
        return node
    return b(Reshape(typed.shape), (in_parts(b, op, rows) if on_gpu else None) or whole)


def slow(op: Reduction, x: TensorType) -> bool:
    """Whether torch's own reduction across rows is slower on the CPU than a generated kernel.

    It finds variances, norms and logarithms of sums one number after the other, however few.
    """
    if isinstance(op, Var | VectorNorm | LogSumExp):
        return True
    size, rows = x.dtype.itemsize, math.prod([x.shape[d] for d in op.dims])
    if size == 2 and not isinstance(op, Sum):
        return x.numel >= HALVES
    wide = size in WIDE and rows >= TALL and x.numel // rows >= WIDE[size]
    return x.numel >= (SOME if wide else MANY)


def joins(x: Node) -> bool:
    """Whether a kernel that reduces a value can compute it, too."""
    return isinstance(x.op, Pointwise) and not obstacle(x)


def in_parts(b: Builder, op: Reduction, rows: Node) -> Node | None:
    """The sum of few long rows beside each other, as the sum of sums of their parts."""
    typed = rows.type
    assert isinstance(typed, TensorType)
    *lead, size = typed.shape
    exact = max(typed.dtype.itemsize, op.result(typed).itemsize) > 4  # parts are in float32
    if not isinstance(op, Sum) or typed.strides[-1] == 1 or exact:
        return None
    parts = parts_of(math.prod(lead), size, typed.dtype.itemsize)
    if parts <= 1:
        return None
    sums = b(Sum((len(lead) + 1,), True, torch.float32), split(b, rows, parts))
    total = b(Sum((len(lead),), True), joined(b, sums))
    if obstacle(sums) or obstacle(total):
        return None
    dtype = op.result(typed)
    return total if dtype is torch.float32 else b(Cast(dtype), total)


def cross_entropy(node: Node, op: CrossEntropyLoss) -> Node:
    """The loss of each row, and their mean or sum; the node itself where that is not it."""
    x, typed = node.inputs[0].type, node.type
    target = node.inputs[1].type
    assert isinstance(x, TensorType) and isinstance(target, TensorType)
    assert isinstance(typed, TensorType)
    if (
        len(node.inputs) != 2
        or op.label_smoothing
        or x.rank != 2
        or target.shape != x.shape[:1]
        or target.dtype is not torch.int64
    ):
        return node
    b, numbers = Builder(node.where), node.inputs[1]
    if x.device.type != "cuda":
        if x.numel < (LESS if x.shape[1] >= CLASSES else LARGE):
            return node
        numbers = b(CheckedClasses(x.shape[1], op.ignore_index), numbers)
    classes = b(Reshape((x.shape[0], 1)), numbers)
    losses = b(RowCrossEntropy(op.ignore_index), node.inputs[0], classes)
    if obstacle(losses):
        return node
    found = b(Reshape(x.shape[:1]), losses)
    if op.reduction:
        found = b(Sum((0,), True), found)
    if op.reduction == 1:
        counted = b(Cast(torch.float32), b(Ne(), numbers, op.ignore_index))
        found = b(Div(), found, b(Sum((0,), True), counted))
    assert isinstance(found.type, TensorType)
    found = found if found.type.dtype is typed.dtype else b(Cast(typed.dtype), found)
    return b(Reshape(typed.shape), found) if op.reduction else found
