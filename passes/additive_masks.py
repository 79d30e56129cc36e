"""Additive masks: the bool masks of attentions are turned into numbers once, not in every layer.

torch's kernels add 0 where a query may look and -inf where not; given a bool mask, each call makes
that tensor again, with three launches. Here it is a value of the graph, shared by all attentions
that read the same mask. Exact: the very tensor that torch would make.

Declines on masks that are numbers already.
"""

from __future__ import annotations

import math

import torch

from lazytorch.ir import Builder, Graph, Node
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.compare import Where
from lazytorch.ops.pointwise import Cast
from lazytorch.types import TensorType


def additive_masks(graph: Graph) -> Graph:
    """The graph whose attentions read no bool masks."""
    made: dict[tuple[Node, torch.dtype], Node] = {}

    def rewrite(node: Node) -> Node:
        if not isinstance(node.op, ScaledDotProductAttention) or len(node.inputs) < 4:
            return node
        query, key, value, mask = node.inputs
        assert isinstance(query.type, TensorType) and isinstance(mask.type, TensorType)
        if mask.type.dtype is not torch.bool:
            return node
        dtype = query.type.dtype
        numbers = made.get((mask, dtype))
        if numbers is None:
            b = Builder(node.where)
            numbers = b(Where(), mask, 0.0, -math.inf)
            assert isinstance(numbers.type, TensorType)
            if numbers.type.dtype is not dtype:
                numbers = b(Cast(dtype), numbers)
            made[mask, dtype] = numbers
        return Node(node.op, (query, key, value, numbers), node.type, node.where)

    return graph.map(rewrite)
