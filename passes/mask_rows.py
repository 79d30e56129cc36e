"""Rows of masks: numbers that are added to scores lie one after the other along the keys.

Torch's kernels that hold no scores in memory read a mask only so; for others torch writes the
scores out. A table of biases by the distance of query and key, looked up and permuted, lies
otherwise (T5's). It is copied once, and all layers that share it read the copy.

Declines off the GPU, on attentions that no such kernel takes for other reasons, on rows of one
element, and on masks that lie so. Safe within the accuracy rule: the same scores, summed in another
order.
"""

from __future__ import annotations

from collections.abc import Callable

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.copies import Clone
from lazytorch.ops.layout import Expand, Slice
from lazytorch.types import TensorType, contiguous_strides

Fits = Callable[[TensorType], bool]


def mask_rows(graph: Graph, fits: Fits) -> Graph:
    """The graph whose attentions read masks in rows; `fits` says for which queries."""
    made: dict[Node, Node] = {}

    def rewrite(node: Node) -> Node:
        if not suits(node, fits):
            return node
        *operands, mask = node.inputs
        if mask not in made:
            made[mask] = in_rows(mask)
        return with_inputs(node, [*operands, made[mask]])

    return graph.map(rewrite)


def suits(node: Node, fits: Fits) -> bool:
    """Whether an attention reads a mask that lies otherwise, and could run in such a kernel."""
    op = node.op
    if type(op) is not ScaledDotProductAttention or len(node.inputs) != 4:
        return False
    query, key, value, mask = [typed(x) for x in node.inputs]
    otherwise = mask.rank > 0 and mask.shape[-1] > 1 and mask.strides[-1] != 1
    return otherwise and mask.numel > 0 and fits(query) and op.fused(query, key, value, mask)


def in_rows(mask: Node) -> Node:
    """A copy in rows; dimensions along which it repeats itself still take no memory, but for the
    last one."""
    b, shape = Builder(mask.where), typed(mask).shape
    for dim, step in enumerate(typed(mask).strides[:-1]):
        if step == 0 and shape[dim] > 1:
            mask = b(Slice(dim, 0, 1, 1), mask)
    copy = b(Clone(contiguous_strides(typed(mask).shape)), mask)
    return copy if typed(copy).shape == shape else b(Expand(shape), copy)


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type
