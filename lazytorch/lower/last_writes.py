"""Writes to inputs come last: a call that runs out of memory leaves state as it was.

A kernel that writes its results straight into inputs cannot be undone. So what does not depend on
such kernels runs before them; and a kernel that something has to be allocated behind gets memory of
its own for what it would write to state, to be copied when all else is done.
"""

from __future__ import annotations

from dataclasses import replace

from lazytorch.ir import Const, Graph, Input, Item, Node, Write
from lazytorch.lower.memory import overwriting, written_straight
from lazytorch.ops.chains import is_copy
from lazytorch.types import OpaqueType, TensorType, TupleType, Type

Straight = dict[Node, dict[int, Node]]
"""For each group, the inputs that its kernel writes results into."""


def written_last(graph: Graph, groups: set[Node]) -> tuple[Graph, Straight]:
    """The graph in an order in which inputs are written late, and what is written straight."""
    graph = writers_last(graph, set(written_straight(graph, groups)))
    straight = written_straight(graph, groups)
    order, over = {x: i for i, x in enumerate(graph.nodes)}, overwriting(graph)
    last = max(
        (i for x, i in order.items() if x not in over and allocates(x, straight.get(x, {}))),
        default=-1,
    )
    for node in [x for x in straight if order[x] < last]:
        stay = {k: x for k, x in straight.pop(node).items() if not is_state(x)}
        if stay:
            straight[node] = stay
    return graph, straight


def writers_last(graph: Graph, writers: set[Node]) -> Graph:
    """The graph with what does not depend on `writers` before them; as it is where that would
    change the order of random draws."""
    behind: set[Node] = set()
    for node in graph.nodes:
        if node in writers or any(x in behind for x in node.inputs):
            behind.add(node)
    if any(x.op.effect and not isinstance(x.op, Write) for x in behind):
        return graph
    nodes = [x for x in graph.nodes if not isinstance(x.op, Write)]
    order = sorted(nodes, key=behind.__contains__)
    return graph if order == nodes else replace(graph, order=tuple(order))


def is_state(node: Node) -> bool:
    """Whether an input is the program's own state, which nobody expects to find half written."""
    return isinstance(node.op, Input) and node.op.role == "state"


def allocates(node: Node, into: dict[int, Node]) -> bool:
    """Whether a node needs more new memory than a number takes; `into` is memory that is there."""
    if isinstance(node.op, Const | Input | Item | Write) or (node.op.view and not is_copy(node)):
        return False
    items = node.type.items if isinstance(node.type, TupleType) else (node.type,)
    return any(large(x) for k, x in enumerate(items) if k not in into)


def large(typed: Type) -> bool:
    """Whether a value is more than a number."""
    return isinstance(typed, OpaqueType) or (isinstance(typed, TensorType) and typed.numel > 1)
