"""Fusion: connected elementwise operations of one shape become one generated kernel.

Which operations go together, in six steps, each close to linear in the graph:

1. `fusable` gives each operation that a generated kernel can compute its kind: shape and device.
   Only operations of one kind are joined. A smaller operand is read repeatedly; it is computed
   outside.
2. `levels` numbers the nodes of a kind so that the number grows on every path that leaves the kind
   and comes back. Producer and consumer of equal level are joined: no path can leave such a group
   and return, since it would have grown.
3. A value that is read only by one later group and reads at most one tensor of its own size moves
   to that group (`sink`): its producer is read there in its place.
4. What a later group reads is stored, or computed there again where that moves fewer bytes
   (`recomputed`, a minimum cut).
5. Groups of different kinds may still wait for each other in a ring; `untangle` finds such rings
   and cuts their groups by a numbering that grows between any two kinds.
6. A convolution leaves a group with which it has no kernel (`separated`).

Constants go into the body. Values that nobody else reads are no outputs. Declines on a group with
fewer operations than `minimum` (torch has a kernel for one; `better_alone` says where it is
slower), on dtypes without generated kernels, on operands on another device, on powers of numbers
that vary, on operations without `emit`, and on what the prologue computes (it runs once, a kernel
would take longer to compile). `why_apart` tells which. Other numbers that vary are operands; those
of a 0-d tensor are read in the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable

from lazytorch.alone import better_alone
from lazytorch.grouping import (
    LARGEST,
    Kind,
    absorbed,
    connected,
    fusable,
    levels,
    separated,
    sink,
    untangle,
)
from lazytorch.ir import Const, Graph, Input, Item, Node, constant, input, with_inputs
from lazytorch.ops.foreach import Foreach
from lazytorch.ops.fused import Fused
from lazytorch.ops.generated import elsewhere, obstacle, reads_number
from lazytorch.recompute import recomputed
from lazytorch.types import TensorType, TupleType


def fuse(graph: Graph, minimum: int = 2) -> Graph:
    """Replace each group of at least `minimum` elementwise operations by one `Fused`."""
    while True:
        grouped, found = groups(graph)
        chosen = [group for group in found if len(group) >= minimum]
        if not chosen:  # only then: what is a kernel already joins nothing more
            chosen = [group for group in found if better_alone(group[0])]
        if not chosen:
            return graph
        graph = contract(grouped, chosen)  # what is left may be closer together now
        if minimum < 2:
            return graph


def groups(graph: Graph) -> tuple[Graph, list[list[Node]]]:
    """Operations to join, each list in the graph's order; the graph stays free of cycles.

    The graph returned is the one that they are of: values may be computed again in it.
    """
    kinds = {x: kind for x, kind in fusable(graph).items() if not isinstance(x.op, Fused)}
    level = levels(graph, kinds)
    sink(graph, kinds, level)
    graph, kinds, level = recomputed(graph, kinds, level)
    found = [
        group[i : i + LARGEST]
        for group in untangle(graph, kinds, connected(kinds, level))
        for i in range(0, len(group), LARGEST)
    ]
    return graph, absorbed(graph, [part for group in found for part in separated(group)])


def why_apart(graph: Graph) -> dict[Node, str]:
    """Why each operation of `graph`, as `fuse` returned it, is in no group."""
    kinds = fusable(graph)
    reasons: dict[Node, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, Const | Input | Item | Fused | Foreach):
            continue
        kind = kinds.get(node)
        if kind is None:
            reasons[node] = obstacle(node) or "computed once, in the prologue"
            continue
        around = [(x, x, node) for x in node.inputs]
        around += [(user, node, user) for user in graph.users[node]]
        near = {k for other, _, _ in around for k in computed(other, kinds)}
        if kind not in near:
            reasons[node] = "shape differs" if near else "only one operation"
        elif all(
            reads_elsewhere(reader, x)
            for other, x, reader in around
            if kind in computed(other, kinds)
        ):
            reasons[node] = "read at other places than it is computed at"
        else:
            reasons[node] = "would make a cycle"
    return reasons


def reads_elsewhere(reader: Node, x: Node) -> bool:
    """Whether an operation, or the group that it stands for, reads `x` at other places only."""
    if not isinstance(reader.op, Fused):
        return elsewhere(reader)
    body = reader.op.body
    users = [u for a, y in zip(body.inputs, reader.inputs, strict=True) if y is x
             for u in body.users[a]]  # fmt: skip
    return all(elsewhere(u) for u in users)


def computed(node: Node, kinds: dict[Node, Kind]) -> set[Kind]:
    """The kind of an operation, or of the group that it stands for."""
    source = node.inputs[0] if isinstance(node.op, Item) else node
    return {kinds[source]} if source in kinds else set()


def contract(graph: Graph, chosen: Iterable[list[Node]]) -> Graph:
    """The graph with each group computed by one `Fused`."""
    of = {node: tuple(group) for group in chosen for node in group}
    roots = {*graph.outputs, *graph.effects}
    new: dict[Node, Node] = {x: x for x in graph.inputs}
    stack = list(reversed(graph.nodes))
    while stack:
        node = stack[-1]
        if node in new:
            stack.pop()
            continue
        group = of.get(node, (node,))
        inside = set(group)
        missing = [x for m in group for x in m.inputs if x not in inside and x not in new]
        if missing:
            stack += reversed(missing)
            continue
        if node not in of:
            new[node] = with_inputs(node, [new[x] for x in node.inputs])
            continue
        outputs = [m for m in group if m in roots or any(u not in inside for u in graph.users[m])]
        new.update(fused(outputs, inside, new))
        new.update((m, m) for m in group if m not in new)  # read inside only: nobody asks for it
    return graph.replace(new)


def fused(outputs: list[Node], inside: set[Node], new: dict[Node, Node]) -> dict[Node, Node]:
    """One `Fused` node for the members `inside`; what each output becomes.

    The body is visited from the outputs, operands first, so that equal groups get equal bodies.
    """
    made = outputs[0].type
    assert isinstance(made, TensorType)
    body: dict[Node, Node] = {}  # a number of a tensor is read there, so that nobody waits for it
    numbers: dict[object, Node] = {}
    reads: dict[Node, Node] = {}
    stack = list(reversed(outputs))
    while stack:
        node = stack[-1]
        if node in body:
            stack.pop()
        elif isinstance(node.op, Const):
            body[node] = numbers.setdefault(node.op.key, constant(node.op.value))
        elif node not in inside and not reads_number(node, made):
            read = new[node]
            body[node] = reads.setdefault(read, input(f"a{len(reads)}", read.type))
        elif missing := [x for x in node.inputs if x not in body]:
            stack += reversed(missing)
        else:
            body[node] = Node(node.op, tuple(body[x] for x in node.inputs), node.type, node.where)
    op = Fused(Graph(tuple(reads.values()), tuple(body[m] for m in outputs)))
    operands, where = tuple(reads), outputs[-1].where
    if len(outputs) == 1:
        return {outputs[0]: Node(op, operands, outputs[0].type, where)}
    whole = Node(op, operands, TupleType(tuple(m.type for m in outputs)), where)
    return {m: Node(Item(i), (whole,), m.type, m.where) for i, m in enumerate(outputs)}
