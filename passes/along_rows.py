"""Reductions in the form that generated kernels compute: along the last dimension, which stays.

A reduction over the last dimensions becomes one over the last, between two reshapes that are views:
in that form it joins what is around it in one kernel. Cross entropy of class numbers becomes one
number for each row, and their sum, on a GPU; on the CPU torch's own says which class there is not.

Declines on other dimensions, where a reshape would copy, on operations without such a kernel (see
`obstacle`), on cross entropy with weights, smoothing or probabilities. The same arithmetic, summed
in another order.
"""

from __future__ import annotations

import math

import torch

from lazytorch.ir import Builder, Graph, Node
from lazytorch.ops.compare import Ne
from lazytorch.ops.generated import obstacle
from lazytorch.ops.layout import Reshape, view_strides
from lazytorch.ops.loss import CrossEntropyLoss, RowCrossEntropy
from lazytorch.ops.pointwise import Cast, Div
from lazytorch.ops.reduce import Reduction, Sum
from lazytorch.types import TensorType


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
    """A reduction over the last dimensions, as one over the last; the node itself elsewhere."""
    x, typed = node.inputs[0], node.type
    if not isinstance(x.type, TensorType) or not isinstance(typed, TensorType):
        return node
    rank, dims = x.type.rank, op.dims
    if not dims or dims != tuple(range(rank - len(dims), rank)) or op.along_rows(x.type):
        return node
    b = Builder(node.where)
    lead = x.type.shape[: dims[0]]
    if len(dims) > 1:
        shape = (*lead, math.prod(x.type.shape[dims[0] :]))
        if view_strides(x.type.shape, x.type.strides, shape) is None:
            return node
        x = b(Reshape(shape), x)
    kept = b(op.with_attributes(dims=(len(lead),), keepdim=True), x)
    return node if obstacle(kept) else b(Reshape(typed.shape), kept)


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
        or x.device.type != "cuda"
        or target.shape != x.shape[:1]
        or target.dtype is not torch.int64
    ):
        return node
    b = Builder(node.where)
    classes = b(Reshape((x.shape[0], 1)), node.inputs[1])
    losses = b(RowCrossEntropy(op.ignore_index), node.inputs[0], classes)
    if obstacle(losses):
        return node
    found = b(Sum((0, 1)), losses) if op.reduction else b(Reshape(typed.shape), losses)
    if op.reduction == 1:
        counted = b(Cast(torch.float32), b(Ne(), classes, op.ignore_index))
        found = b(Div(), found, b(Sum((0, 1)), counted))
    assert isinstance(found.type, TensorType)
    return found if found.type.dtype is typed.dtype else b(Cast(typed.dtype), found)
