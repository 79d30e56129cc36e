"""Lookups of consecutive rows are slices: a view of the table, where a copy was made.

Models look up the positions 0, 1, 2, ... in a table (`self.positions(torch.arange(length))`). Where
the indices are known and each is one more than the last, the rows lie in the table as they are.

Declines where the graph writes the table, whose rows must be read before, and where the copy would
lie otherwise than the slice.
"""

from __future__ import annotations

import torch

from lazytorch.ir import Builder, Graph, Node, Write
from lazytorch.ops.chains import memory
from lazytorch.ops.create import Arange, Literal
from lazytorch.ops.index import Embedding, Index, IndexSelect
from lazytorch.ops.layout import Reshape, Slice
from lazytorch.types import TensorType

MOST = 1 << 20
"""Indices that are looked through."""


def consecutive_rows(graph: Graph) -> Graph:
    """The graph with such lookups as slices."""
    written = {e.inputs[0] for e in graph.effects if isinstance(e.op, Write)}

    def sliced(node: Node) -> Node:
        found = rows(node)
        return found if found.type == node.type and memory(found) not in written else node

    return graph.map(sliced)


def rows(node: Node) -> Node:
    """The rows as a view of their table; the node itself where they are none."""
    if not looks_up_rows(node):
        return node
    table, indices = node.inputs
    found = known(indices)
    assert isinstance(table.type, TensorType) and isinstance(node.type, TensorType)
    if found is None or not found.numel() or found.shape[-1] != found.numel():
        return node
    first, count = int(found.flatten()[0]), found.numel()
    if first < 0 or first + count > table.type.shape[0]:
        return node  # the last rows by negative numbers, or an error that is the call's
    if not torch.equal(found.flatten(), torch.arange(first, first + count, dtype=found.dtype)):
        return node
    b = Builder(node.where)
    part = b(Slice(0, first, first + count), table) if count < table.type.shape[0] else table
    return b(Reshape(node.type.shape), part) if node.type.rank > table.type.rank else part


def looks_up_rows(node: Node) -> bool:
    """Whether it takes whole rows of its first operand, by its second."""
    match node.op:
        case Embedding():
            return True
        case Index(which):
            return which[:1] == (True,) and not any(which[1:])
        case IndexSelect(dim):
            return dim == 0
        case _:
            return False


def known(node: Node) -> torch.Tensor | None:
    """Indices that are known now, on the CPU; a view of such ones too."""
    if (
        not isinstance(node.type, TensorType)
        or not 0 < node.type.numel <= MOST
        or not node.type.rank
    ):
        return None
    match node:
        case Node(Arange(start, end, step, dtype)):
            return torch.arange(start, end, step, dtype=dtype)
        case Node(Literal(data)) if data.readable:
            return data.tensor.cpu()
        case Node(Reshape(shape), (x,)) if (found := known(x)) is not None:
            return found.reshape(shape)
        case _:
            return None
