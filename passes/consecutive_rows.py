"""Lookups of consecutive rows are slices: a view of the table, where a copy was made.

Models look up the positions 0, 1, 2, ... in a table (`self.positions(torch.arange(length))`). Where
the indices are known and each is one more than the last, the rows lie in the table as they are; for
a batch that looks up the same ones for each of its members, they are repeated. Several indices that
each go on along a dimension of their own (`mask[batch[:, None], keys[None, :]]`) show a part of the
table as it lies.

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
from lazytorch.types import Shape, TensorType

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
    table, *indices = node.inputs
    assert isinstance(table.type, TensorType) and isinstance(node.type, TensorType)
    if len(indices) > table.type.rank:
        return node
    found = [known(x) for x in indices]
    given = [x for x in found if x is not None]
    if len(given) < len(found):
        return node
    rank = max(x.dim() for x in given)
    shape = [1] * rank  # along its own one of the indices' dimensions each of the table's goes on
    b, part, before = Builder(node.where), table, -1
    for d, index in enumerate(given):
        run = consecutive(index.reshape((1,) * (rank - index.dim()) + tuple(index.shape)))
        if run is None:
            return node
        first, along, count = run
        if first < 0 or first + count > table.type.shape[d]:
            return node  # the last rows by negative numbers, or an error that is the call's
        if count > 1:
            if along <= before:
                return node
            shape[along], before = count, along
        if count < table.type.shape[d]:
            part = b(Slice(d, first, first + count), part)
    shape = (*shape, *table.type.shape[len(given) :])
    if shape != shape_of(part):
        part = b(Reshape(shape), part)
    return part if shape == node.type.shape else b(Expand(node.type.shape), part)


def consecutive(indices: torch.Tensor) -> tuple[int, int, int] | None:
    """The first of some indices, the dimension along which each is one more than the last, and how
    many there are, repeated along all others; None if they are otherwise."""
    first = indices[(0,) * indices.dim()]
    varies = [d for d, size in enumerate(indices.shape) if size > 1 and moves(indices, d)]
    if len(varies) > 1:
        return None
    along = varies[0] if varies else indices.dim() - 1
    count = indices.shape[along] if varies else 1
    line = torch.arange(count, dtype=indices.dtype) + first
    shape = [1] * indices.dim()
    shape[along] = count
    if not torch.equal(indices, line.reshape(shape).expand(indices.shape)):
        return None
    return int(first), along, count


def moves(indices: torch.Tensor, dim: int) -> bool:
    """Whether the second along a dimension is another than the first."""
    pair = indices.narrow(dim, 0, 2)
    return not torch.equal(pair.select(dim, 0), pair.select(dim, 1))


def shape_of(node: Node) -> Shape:
    """The shape of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type.shape


def looks_up_rows(node: Node) -> bool:
    """Whether it takes parts of its first operand, by its others along the first dimensions."""
    match node.op:
        case Embedding():
            return True
        case Index(which):
            return all(which[: len(node.inputs) - 1])
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
