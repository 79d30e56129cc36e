"""Lookups of consecutive rows are slices: a view of the table, where a copy was made.

Models look up the positions 0, 1, 2, ... in a table (`self.positions(torch.arange(length))`). Where
the indices are known and each is one more than the last, the rows lie in the table as they are; for
a batch that looks up the same ones for each of its members, they are repeated.

Declines where the graph writes the table, whose rows must be read before, and where the copy would
lie otherwise than the view, unless only arithmetic reads it, whose results stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from lazytorch.ir import Builder, Graph, Node, Write, with_inputs
from lazytorch.ops.base import Pointwise
from lazytorch.ops.chains import memory
from lazytorch.ops.create import Arange, Literal
from lazytorch.ops.index import Embedding, Index, IndexSelect
from lazytorch.ops.layout import Expand, Reshape, Slice
from lazytorch.types import TensorType

MOST = 1 << 20
"""Indices that are looked through."""


def consecutive_rows(graph: Graph) -> Graph:
    """The graph with such lookups as slices."""
    written = {e.inputs[0] for e in graph.effects if isinstance(e.op, Write)}
    found = {x for x in graph.nodes if looks_up_rows(x) and shows(graph, x, rows(x), written)}
    if not found:
        return graph
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node not in done:
            new = with_inputs(node, [done[x] for x in node.inputs])
            done[node] = rows(new) if node in found else new
    return graph.replace(done)


def shows(graph: Graph, node: Node, view: Node, written: Collection[Node]) -> bool:
    """Whether a view may take the place of a lookup."""
    if view is node or memory(view) in written:
        return False
    if view.type == node.type:
        return True
    if node in graph.outputs or node in graph.effects:
        return False
    return all(
        isinstance(x.op, Pointwise)
        and not x.op.effect
        and with_inputs(x, [view if y is node else y for y in x.inputs]).type == x.type
        for x in graph.users[node]
    )


def rows(node: Node) -> Node:
    """The rows as a view of their table; the node itself where they are none."""
    table, indices = node.inputs
    found = known(indices)
    assert isinstance(table.type, TensorType) and isinstance(node.type, TensorType)
    if found is None or not table.type.rank:
        return node
    one = found.reshape(-1, found.shape[-1])[0]
    first, count = int(one[0]), one.numel()
    if first < 0 or first + count > table.type.shape[0]:
        return node  # the last rows by negative numbers, or an error that is the call's
    consecutive = torch.arange(first, first + count, dtype=found.dtype).expand(found.shape)
    if not torch.equal(found, consecutive):
        return node
    b = Builder(node.where)
    part = b(Slice(0, first, first + count), table) if count < table.type.shape[0] else table
    if found.dim() == 1:
        return part
    assert isinstance(part.type, TensorType)
    part = b(Reshape((*[1] * (found.dim() - 1), *part.type.shape)), part)
    return part if part.type.shape == node.type.shape else b(Expand(node.type.shape), part)


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
