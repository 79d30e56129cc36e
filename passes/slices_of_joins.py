"""Slices of joins: the backward reads of a join what it would read of the values that were joined.

A join (`cat`) that is kept for the backward holds its operands' values. Where arithmetic of the
backward reads an operand, to tell where a relu was 0, say, it reads that slice of the join instead:
the operand goes with the join's own run, or is written into its slice and never exists.

Declines where the join is not read behind the forward, on operands that something else than
arithmetic reads there, on those that are in memory anyway (inputs, outputs, views), where they are
less than half of a join, which might be kept longer for them, where types would change, and on
graphs that train nothing.
"""

from __future__ import annotations

from lazytorch.ir import Builder, Const, Graph, Input, Node, Write, with_inputs
from lazytorch.ops.base import Pointwise
from lazytorch.ops.copies import Cat, wrapped
from lazytorch.ops.layout import Slice
from lazytorch.peak import size
from lazytorch.segments import forward
from lazytorch.types import TensorType


def slices_of_joins(graph: Graph) -> Graph:
    """The graph in which operands of joins are kept in the joins alone."""
    if not any(isinstance(x.op, Write) for x in graph.effects):
        return graph
    before = set(forward(graph))
    found: dict[Node, tuple[Node, Slice]] = {}
    for join in graph.nodes:
        if isinstance(join.op, Cat) and join in before and late(graph, join, before):
            some = {x: part for x, part in parts(join) if moves(graph, x, join, part, before)}
            if 2 * sum(map(size, some)) >= size(join):
                found |= {x: (join, part) for x, part in some.items() if x not in found}
    if not found:
        return graph
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    made: dict[Node, Node] = {}
    stack = list(reversed(graph.nodes))
    while stack:
        node = stack[-1]
        moved = {x: found[x] for x in node.inputs if x in found and node not in before}
        missing = [
            x for x in (*node.inputs, *[join for join, _ in moved.values()]) if x not in done
        ]
        if missing and node not in done:
            stack += missing  # a join may come behind what reads its operands
            continue
        stack.pop()
        if node not in done:
            for x, (join, part) in moved.items():
                made.setdefault(x, Builder(x.where)(part, done[join]))
            done[node] = with_inputs(
                node, [made[x] if x in moved else done[x] for x in node.inputs]
            )
    return graph.replace(done)


def late(graph: Graph, node: Node, before: set[Node]) -> list[Node]:
    """What reads a value behind the forward, and not to write it where it stays."""
    return [x for x in graph.users[node] if x not in before and not isinstance(x.op, Write)]


def parts(join: Node) -> list[tuple[Node, Slice]]:
    """The operands that a join holds as they are, each with its slice."""
    assert isinstance(join.op, Cat) and isinstance(join.type, TensorType)
    dim, end = wrapped(join.op.dim, join.type.rank), 0
    found: list[tuple[Node, Slice]] = []
    for x in join.inputs:
        assert isinstance(x.type, TensorType)
        if x.type.shape == (0,):
            continue
        begin, end = end, end + x.type.shape[dim]
        if x.type.dtype == join.type.dtype and x.type.numel:
            found.append((x, Slice(dim, begin, end)))
    return found


def moves(graph: Graph, x: Node, join: Node, part: Slice, before: set[Node]) -> bool:
    """Whether arithmetic alone reads an operand behind the forward, and may read the slice."""
    if x not in before or isinstance(x.op, Input | Const) or x.op.view:
        return False
    if x in graph.outputs or x in graph.effects or x in graph.steady:
        return False
    if any(isinstance(y.op, Write) for y in graph.users[x]):
        return False
    readers = late(graph, x, before)
    shown = Builder(x.where)(part, join)
    return bool(readers) and all(
        isinstance(y.op, Pointwise)
        and not y.op.effect
        and with_inputs(y, [shown if z is x else z for z in y.inputs]).type == y.type
        for y in readers
    )
