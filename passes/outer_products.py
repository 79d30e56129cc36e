"""Outer products: a product that sums over one element is a multiplication.

The angles of rotary embeddings are one, of frequencies and positions. As arithmetic it joins the
kernel of what reads it, where a library's call stands alone.

Declines where the result would be of another type. Exact: nothing is summed, but libraries add the
product to 0, which a zero's sign does not outlive.
"""

from __future__ import annotations

import torch

from lazytorch.ir import Builder, Graph, Node
from lazytorch.ops.linalg import Bmm, Matmul, Mm
from lazytorch.ops.pointwise import Mul
from lazytorch.types import TensorType


def outer_products(graph: Graph) -> Graph:
    """The graph that multiplies where products sum over one element."""

    def rewrite(node: Node) -> Node:
        if not isinstance(node.op, Matmul | Mm | Bmm) or not outer(node):
            return node
        made = Builder(node.where)(Mul(), *node.inputs)
        return made if made.type == node.type else node

    return graph.map(rewrite)


def outer(node: Node) -> bool:
    """Whether a column is multiplied with a row, or many are."""
    x, y = [a.type for a in node.inputs]
    assert isinstance(x, TensorType) and isinstance(y, TensorType)
    if x.rank < 2 or y.rank < 2 or x.shape[-1] != 1:
        return False
    return x.dtype is y.dtype and not x.dtype.is_complex and x.dtype is not torch.bool
