"""Fusion: connected elementwise operations of one shape become one generated kernel.

Which operations go together, in four steps, each close to linear in the graph:

1. `fusable` gives each operation that a generated kernel can compute its kind: shape and device.
   Only operations of one kind are joined. A smaller operand is read repeatedly; it is computed
   outside.
2. `levels` numbers the nodes of a kind so that the number grows on every path that leaves the kind
   and comes back. Producer and consumer of equal level are joined: no path can leave such a group
   and return, since it would have grown.
3. A value that is read only by one later group and reads at most one tensor of its own size moves
   to that group (`sink`): its producer is read there in its place.
4. Groups of different kinds may still wait for each other in a ring; `untangle` finds such rings
   and cuts their groups by a numbering that grows between any two kinds.

Constants go into the body. Values that nobody else reads are no outputs. Declines on a group with
fewer operations than `minimum` (torch has a kernel for one), on dtypes without generated kernels,
on operands on another device, on powers of numbers that vary, on operations without `emit`, and on
what the prologue computes (it runs once, a kernel would take longer to compile). `why_apart` tells
which. Other numbers that vary are operands; those of a 0-d tensor are read in the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from lazytorch.ir import Const, Graph, Input, Item, Node, constant, input, with_inputs
from lazytorch.ops.base import Pointwise, Rowwise
from lazytorch.ops.copies import Cat, Clone, Pad
from lazytorch.ops.foreach import Foreach
from lazytorch.ops.fused import Fused, full_shape
from lazytorch.ops.generated import elsewhere, obstacle, reads_number
from lazytorch.ops.norm import RmsNorm
from lazytorch.ops.pool import AvgPool, MaxPool
from lazytorch.ops.reduce import Reduction
from lazytorch.types import Shape, TensorType, TupleType

LARGEST = 200  # operations in one group: compile time and the kernel's argument space are bounded


@dataclass(frozen=True, eq=False)
class Kind:
    """What the operations of one group have in common; one object for all that agree."""

    shape: Shape
    device: torch.device


def fuse(graph: Graph, minimum: int = 2) -> Graph:
    """Replace each group of at least `minimum` elementwise operations by one `Fused`."""
    while chosen := [group for group in groups(graph) if worthwhile(group, minimum)]:
        graph = contract(graph, chosen)  # what is left may be closer together now
        if minimum < 2:
            break
    return graph


def worthwhile(group: list[Node], minimum: int) -> bool:
    """Whether a kernel of one's own is better than torch's, one by one.

    On a GPU a generated norm or softmax reads each row once, and torch's sums across rows, joins
    and windows are slower; on the CPU torch's root mean square norm is. So is its arithmetic where
    operands lie in different orders.
    """
    op, typed = group[0].op, group[0].inputs[0].type
    if len(group) >= minimum or not isinstance(typed, TensorType):
        return len(group) >= minimum
    gpu = typed.device.type == "cuda"
    match op:
        case Reduction():
            return typed.strides[-1] != 1
        case Pointwise():
            return crosswise(group[0])
        case Clone():
            return gpu and crosswise(group[0])
        case RmsNorm():
            return True
        case _:
            return gpu and isinstance(op, Rowwise | Cat | Pad | MaxPool | AvgPool)


def crosswise(node: Node) -> bool:
    """Whether an operand of full size is read in another order than the result is written."""
    typed = node.type
    assert isinstance(typed, TensorType)
    orders = {
        x.type.order
        for x in node.inputs
        if isinstance(x.type, TensorType) and x.type.shape == typed.shape and x.type.is_dense
    }
    return bool(orders - {typed.order})


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


def fusable(graph: Graph) -> dict[Node, Kind]:
    """The kind of every operation that a generated kernel can compute, and of every `Fused`.

    One that works on whole rows is of the kind of what it reads; so is arithmetic on what it makes
    of each row.
    """
    kinds: dict[Node, Kind] = {}
    kept: dict[tuple[Shape, torch.device], Kind] = {}
    narrow: set[Node] = set()
    for node in graph.nodes:
        if node in graph.steady or (obstacle(node) and not isinstance(node.op, Fused)):
            continue
        shape, device = walked(node)
        kind = kept.get((shape, device)) or kept.setdefault((shape, device), Kind(shape, device))
        made = node.type
        if isinstance(made, TensorType) and made.shape != shape:
            narrow.add(node)  # one number for each row
        elif isinstance(node.op, Pointwise) and shape[-1:] == (1,):
            for x in node.inputs:
                if x in narrow and (*kinds[x].shape[:-1], 1) == shape:
                    kind = kinds[x]
                    narrow.add(node)
                    break
        kinds[node] = kind
    return kinds


def walked(node: Node) -> tuple[Shape, torch.device]:
    """The shape that a kernel for this operation visits, and where."""
    typed = node.type
    if isinstance(node.op, Fused):
        typed = node.op.body.outputs[0].type
        shape = full_shape(node.op)
    else:
        shape = node.inputs[0].type.shape if isinstance(node.op, Rowwise) else None
    assert isinstance(typed, TensorType)
    return shape or typed.shape, typed.device


def groups(graph: Graph) -> list[list[Node]]:
    """Operations to join, each list in the graph's order; the graph stays free of cycles."""
    kinds = {x: kind for x, kind in fusable(graph).items() if not isinstance(x.op, Fused)}
    level = levels(graph, kinds)
    sink(graph, kinds, level)
    found = [
        group[i : i + LARGEST]
        for group in untangle(graph, kinds, connected(kinds, level))
        for i in range(0, len(group), LARGEST)
    ]
    return absorbed(graph, found)


def absorbed(graph: Graph, found: list[list[Node]]) -> list[list[Node]]:
    """Groups with those that make what only their joins and padding read, at one place each.

    What is read elsewhere is then computed where it is read, and never stored.
    """
    group = {node: members for members in found for node in members}
    roots = {*graph.outputs, *graph.effects}
    for node in graph.nodes:
        reader = group.get(node)
        if reader is None or not isinstance(node.op, Cat | Pad):
            continue
        for x in node.inputs:
            maker = group.get(x)
            if maker is None or maker is reader or len(reader) + len(maker) > LARGEST:
                continue
            kept = [
                y
                for y in maker
                if y in roots or any(group.get(u) is not maker for u in graph.users[y])
            ]
            alone = (
                kept == [x]
                and x not in roots
                and all(group.get(u) is reader for u in graph.users[x])
            )
            if not alone or any(isinstance(y.op, Rowwise) or elsewhere(y) for y in maker):
                continue
            reader[:0] = maker
            group |= dict.fromkeys(maker, reader)
            maker.clear()
    return [members for members in found if members]


def levels(graph: Graph, kinds: dict[Node, Kind]) -> dict[Node, int]:
    """How often, at most, a path to the node left the node's kind and came back.

    What an operation reads at other places than its own lies outside as well. Each node carries a
    count per kind; a kind is forgotten after its last node.
    """
    last = {kind: i for i, (_, kind) in enumerate(kinds.items())}
    position = {node: i for i, node in enumerate(kinds)}
    reached = 0
    counts: dict[Node, dict[Kind, int]] = {}
    level: dict[Node, int] = {}
    for node in graph.nodes:
        kind = kinds.get(node)
        merged: dict[Kind, int] = {}
        apart = elsewhere(node)
        for x in node.inputs:
            left = kinds.get(x)
            for other, count in counts[x].items():
                if other is left and (other is not kind or apart):
                    count += 1
                if last[other] >= reached and merged.get(other, -1) < count:
                    merged[other] = count
        if kind is not None:
            reached = position[node]
            level[node] = merged.setdefault(kind, 0)
        counts[node] = merged
    return level


def sink(graph: Graph, kinds: dict[Node, Kind], level: dict[Node, int]) -> None:
    """Move values to the one group that reads them, where that costs no additional read."""
    for node, kind in reversed(kinds.items()):
        users = graph.users[node]
        if not users or any(kinds.get(user) is not kind or elsewhere(user) for user in users):
            continue
        later = level[users[0]]
        if later == level[node] or any(level[user] != later for user in users):
            continue
        reads = {x for x in node.inputs if isinstance(x.type, TensorType)}
        if sum(x.type.shape == kind.shape for x in reads) <= 1:  # type: ignore[union-attr]
            level[node] = later


def connected(kinds: dict[Node, Kind], level: dict[Node, int]) -> list[list[Node]]:
    """Producers and consumers of equal kind and level, put together; and copies of one tensor's
    parts (keys and values of an attention): one launch instead of several."""
    parent: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        while (above := parent.get(node)) is not None:
            if (top := parent.get(above)) is not None:
                parent[node] = top
            node = above
        return node

    copies: dict[tuple[Node, Kind, int], Node] = {}
    for node, kind in kinds.items():
        near = [x for x in node.inputs if kinds.get(x) is kind and level[x] == level[node]]
        if isinstance(node.op, Clone):
            near.append(copies.setdefault((memory(node.inputs[0]), kind, level[node]), node))
        for x in near:
            a, b = root(x), root(node)
            if a is not b:
                parent[b] = a
    found: dict[Node, list[Node]] = {}
    for node in kinds:
        found.setdefault(root(node), []).append(node)
    return list(found.values())


def memory(node: Node) -> Node:
    """What a view shows."""
    while node.op.view:
        node = node.inputs[0]
    return node


def untangle(graph: Graph, kinds: dict[Node, Kind], found: list[list[Node]]) -> list[list[Node]]:
    """Cut the groups that wait for each other in a ring, so that none is left.

    The cut is by the number of edges between kinds on the longest path to the node, which grows
    along every edge that leaves a group: groups cut by it cannot be on a ring.
    """
    waiting = unordered(graph, found)
    if not waiting:
        return found
    stage: dict[Node, int] = {}
    for node in graph.nodes:
        kind = kinds.get(node)
        apart = elsewhere(node)
        steps = [stage[x] + (x in kinds and (kinds[x] is not kind or apart)) for x in node.inputs]
        stage[node] = max(steps, default=0)
    cut: list[list[Node]] = []
    for i, group in enumerate(found):
        cut += connected({x: kinds[x] for x in group}, stage) if i in waiting else [group]
    return cut


def unordered(graph: Graph, found: list[list[Node]]) -> set[int]:
    """Indices of the groups without a place in an order of execution: on a ring, or after one."""
    unit: dict[Node, Node] = {x: group[0] for group in found for x in group}
    blocked: dict[Node, int] = dict.fromkeys((unit.get(x, x) for x in graph.nodes), 0)
    readers: dict[Node, list[Node]] = {x: [] for x in blocked}
    for node in graph.nodes:
        reader = unit.get(node, node)
        for x in node.inputs:
            if (made := unit.get(x, x)) is not reader:
                blocked[reader] += 1
                readers[made].append(reader)
    ready = [x for x, count in blocked.items() if not count]
    while ready:
        for reader in readers[ready.pop()]:
            blocked[reader] -= 1
            if not blocked[reader]:
                ready.append(reader)
    return {i for i, group in enumerate(found) if blocked[group[0]]}


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
