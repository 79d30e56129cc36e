"""Horizontal fusion: the same computation on many small tensors becomes one launch.

An optimizer's step is a group of operations for each parameter, equal but for the shape; a launch
for each takes longer than the work. `Foreach` does all of them, reading every tensor as a row of
elements.

Members are elementwise groups, and single operations that a generated kernel can compute, whose
bodies are equal once shapes are left out. One kind after the other is joined, those of one level:
how many of the kind lie at most on a path to the node, or behind it, whichever joins more. No path
leads from one of a level to another, and sets that are joined so do not wait for each other in a
ring, because the level changes in one direction along every path.

Declines where fewer than `fewest` go together; where a member's tensors do not all have one shape
and fill memory alike (a broadcast operand, other strides; numbers and 0-d tensors are read once);
where one launch each already fills the machine (`LARGE`), or where something still computes with
the results, which are then best used while they are in a cache, unless they are tiny; before an
effect, whose order could change; and on what the prologue computes.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from lazytorch.errors import LazyTorchError
from lazytorch.ir import (
    Builder,
    Const,
    Graph,
    Input,
    Item,
    Node,
    Write,
    constant,
    input,
    with_inputs,
)
from lazytorch.ops.base import Pointwise
from lazytorch.ops.foreach import FLAT, Foreach, alike
from lazytorch.ops.fused import Fused
from lazytorch.ops.generated import obstacle
from lazytorch.ops.number import ToNumber
from lazytorch.types import Shape, TensorType, TupleType, Type

FEWEST = 4
"""Members that are worth a kernel of their own."""

MOST = 512
"""Members of one launch: what a call site does for each is done before the launch begins."""

LARGE = {"cuda": 8 << 20, "cpu": 2 << 20}
"""Bytes that a member reads and writes from which on a launch of its own costs next to nothing: on
a GPU about what memory moves during one launch, on the CPU what several threads share."""

TINY = {"cuda": 2 << 20, "cpu": 1 << 16}
"""Bytes of a member that takes less time than its launch."""


@dataclass(frozen=True, eq=False)
class Member:
    """A node as a member: what it computes, shapes left out (one object for all that are equal), of
    which values; and the bytes that it reads and writes, on which kind of device."""

    body: Graph
    operands: tuple[Node, ...]
    size: int
    device: str


def horizontal(graph: Graph, fewest: int = FEWEST) -> Graph:
    """Replace each set of at least `fewest` equal independent computations by one `Foreach`."""
    candidates = Candidates()
    while chosen := groups(graph, fewest, candidates):
        graph = contract(graph, chosen)
    return graph


def groups(graph: Graph, fewest: int, candidates: Candidates) -> list[dict[Node, Member]]:
    """Nodes of one kind to join, in the graph's order; the graph stays free of cycles."""
    bound = before_effects(graph)
    equal: dict[int, dict[Node, Member]] = {}
    for node in graph.nodes:
        if node in bound or node in graph.steady or (found := candidates[node]) is None:
            continue
        most = LARGE if is_last(graph, node) else TINY
        if found.size < most.get(found.device, 0):
            equal.setdefault(id(found.body), {})[node] = found
    for found in equal.values():
        if len(found) < fewest:
            continue
        ways = [
            [part for part in parts(found, level) if len(part) >= fewest]
            for level in (after(graph, found), before(graph, found))
        ]
        if chosen := max(ways, key=lambda way: sum(map(len, way))):
            return chosen
    return []


def parts(members: dict[Node, Member], level: dict[Node, int]) -> list[dict[Node, Member]]:
    """The members of each level, as many as one launch takes."""
    found: dict[int, list[Node]] = {}
    for node in members:
        found.setdefault(level[node], []).append(node)
    return [
        {x: members[x] for x in nodes[i : i + MOST]}
        for nodes in found.values()
        for i in range(0, len(nodes), MOST)
    ]


def before_effects(graph: Graph) -> set[Node]:
    """What effects depend on: they happen in an order that must stay."""
    found: set[Node] = {x for x in graph.effects if not isinstance(x.op, Write)}
    for node in reversed(graph.nodes):
        if node in found:
            found.update(node.inputs)
    return found


def after(graph: Graph, members: Container[Node]) -> dict[Node, int]:
    """How many members lie at most on a path that begins behind each node."""
    level: dict[Node, int] = {}
    for node in reversed(graph.nodes):
        level[node] = max([level[u] + (u in members) for u in graph.users[node]], default=0)
    return level


def before(graph: Graph, members: Container[Node]) -> dict[Node, int]:
    """How many members lie at most on a path that ends at each node."""
    level: dict[Node, int] = {}
    for node in graph.nodes:
        level[node] = max([level[x] + (x in members) for x in node.inputs], default=0)
    return level


class Candidates(dict[Node, Member | None]):
    """Each node as a member, None for one that is none; looked at once, however many rewritten
    graphs it is in."""

    def __init__(self) -> None:
        self.bodies: dict[object, Graph | None] = {}
        self.flat: dict[object, Graph] = {}

    def __missing__(self, node: Node) -> Member | None:
        found = self[node] = self.member(node)
        return found

    def member(self, node: Node) -> Member | None:
        """The node as a member, if it may be one where nothing computes with its results."""
        if isinstance(node.op, Fused):
            body, operands = node.op.body, node.inputs
        elif isinstance(node.op, Pointwise) and obstacle(node) is None:
            body, operands = alone(node)
        else:
            return None
        results = [x.type for x in body.outputs]
        made = results[0]
        assert isinstance(made, TensorType)
        tensors = [x.type for x in operands if isinstance(x.type, TensorType)]
        own = [x for x in tensors if x.shape == made.shape]
        if not own or any(x.shape for x in tensors if x.shape != made.shape):
            return None
        like = own[0]
        if not all(alike(x, like) for x in own):
            return None
        if not all(isinstance(x, TensorType) and x == like.with_dtype(x.dtype) for x in results):
            return None
        size = sum(x.nbytes for x in (*own, *results) if isinstance(x, TensorType))
        if size >= LARGE.get(made.device.type, 0):
            return None
        flat = self.flattened(body, made.shape)
        return None if flat is None else Member(flat, operands, size, made.device.type)

    def flattened(self, body: Graph, shape: Shape) -> Graph | None:
        """How a body reads for elements in a row."""
        if body.key not in self.bodies:
            flat = flattened(body, shape)
            same = None if flat is None else self.flat.setdefault(flat.key, flat)
            self.bodies[body.key] = same
        return self.bodies[body.key]


def is_last(graph: Graph, node: Node) -> bool:
    """Whether nothing computes with what the node makes."""
    users = graph.users[node]
    if isinstance(node.type, TupleType):
        users = [u for item in users for u in graph.users[item]]
    return all(isinstance(u.op, Write) for u in users)


def alone(node: Node) -> tuple[Graph, tuple[Node, ...]]:
    """One operation as a body, and what it reads."""
    reads: dict[Node, Node] = {}
    for x in node.inputs:
        if not isinstance(x.op, Const):
            reads.setdefault(x, input(f"a{len(reads)}", x.type))
    inside = [reads[x] if x in reads else constant(x.op.value) for x in node.inputs]  # type: ignore[attr-defined]
    made = Node(node.op, tuple(inside), node.type, node.where)
    return Graph(tuple(reads.values()), (made,)), tuple(reads)


def flattened(body: Graph, shape: Shape) -> Graph | None:
    """The body for elements in a row; None where an operation would compute something else then."""

    def flat(typed: Type) -> Type:
        own = isinstance(typed, TensorType) and typed.shape == shape
        return typed.with_shape(FLAT) if own else typed

    done: dict[Node, Node] = {}
    for x in body.inputs:
        assert isinstance(x.op, Input)
        done[x] = input(x.op.label, flat(x.type))
    for node in body.nodes:
        if node in done:
            continue
        if isinstance(node.op, Const):
            done[node] = node
            continue
        if not isinstance(node.op, Pointwise | ToNumber):
            return None
        try:
            made = Builder()(node.op, *[done[x] for x in node.inputs])
        except LazyTorchError:
            return None
        if made.type != flat(node.type):
            return None
        done[node] = made
    return Graph(tuple(done[x] for x in body.inputs), tuple(done[x] for x in body.outputs))


def contract(graph: Graph, chosen: Iterable[dict[Node, Member]]) -> Graph:
    """The graph with each set of members computed by one `Foreach`."""
    of = {node: members for members in chosen for node in members}
    new: dict[Node, Node] = {x: x for x in graph.inputs}
    whole: dict[Node, tuple[Node, int]] = {}  # a member's tuple: where its results are now
    stack = list(reversed(graph.nodes))
    while stack:
        node = stack[-1]
        if node in new:
            stack.pop()
            continue
        members = of.get(node, {})
        reads = [x for m in members.values() for x in m.operands] if members else node.inputs
        if missing := [x for x in reads if x not in new]:
            stack += reversed(missing)
            continue
        stack.pop()
        if members:
            join(members, new, whole)
        elif isinstance(node.op, Item) and node.inputs[0] in whole:
            made, first = whole[node.inputs[0]]
            new[node] = Node(Item(first + node.op.index), (made,), node.type, node.where)
        else:
            new[node] = with_inputs(node, [new[x] for x in node.inputs])
    return graph.replace(new)


def join(
    members: dict[Node, Member], new: dict[Node, Node], whole: dict[Node, tuple[Node, int]]
) -> None:
    """One `Foreach` for some members; what each of them becomes."""
    body = next(iter(members.values())).body
    given = [[new[x] for x in m.operands] for m in members.values()]
    common = tuple(
        i
        for i, x in enumerate(body.inputs)
        if not (isinstance(x.type, TensorType) and x.type.shape == FLAT)
        and all(operands[i] is given[0][i] for operands in given)
    )
    op = Foreach(body, len(members), common)
    shared = [given[0][i] for i in common]
    operands = [*shared, *[xs[i] for xs in given for i in op.own]]
    typed = op.infer(*[x.type for x in operands])
    made = Node(op, tuple(operands), typed, next(iter(members)).where)
    for m, node in enumerate(members):
        first = m * len(body.outputs)
        if isinstance(node.type, TupleType):
            whole[node] = (made, first)
            new[node] = made
        else:
            new[node] = Node(Item(first), (made,), node.type, node.where)
