"""How many bytes a graph's values take at once, known before anything runs.

Inputs cost nothing: the caller holds them. A view costs nothing and keeps what it shows alive. An
output lives to the end. What a kernel writes straight into an input costs nothing. What libraries
allocate inside one call is what `takes` says, or only what operations tell (`Op.scratch`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from lazytorch.ir import Const, Graph, Input, Item, Node, Write
from lazytorch.ops.base import Pointwise
from lazytorch.ops.chains import is_copy
from lazytorch.ops.create import Full
from lazytorch.straight import groups, overwriting, written_over, written_straight
from lazytorch.types import OpaqueType, TensorType, TupleType, Type

FILLED = 1 << 20
"""Bytes from which on a tensor of one number is filled at every call."""

Owner = tuple[Node, int]
"""A piece of memory: what a node made, and for a tuple which element."""

Scratch = Callable[[Node], int]
"""Bytes that a node takes while it runs, beside its operands and results."""


def scratch(node: Node) -> int:
    """Those that its operation tells."""
    return node.op.scratch(*[x.type for x in node.inputs])


@dataclass(frozen=True)
class Footprint:
    """Bytes of a graph that runs with a prologue.

    kept: what the prologue computed and every call reads.
    prologue: the most that is alive while the prologue runs, what it keeps included.
    call: the most that is alive during one call beside `kept`.
    """

    kept: int
    prologue: int
    call: int

    @property
    def total(self) -> int:
        """The most that is ever alive at once."""
        return max(self.prologue, self.kept + self.call)


def footprint(graph: Graph, takes: Scratch = scratch) -> Footprint:
    """What a graph takes that runs as it stands, what depends on state alone computed once."""
    copies = dict.fromkeys(x for x in returned(graph) if given(x) or x in graph.steady)
    call = max(levels(graph, takes).values(), default=0) + sum(map(size, copies))
    return Footprint(kept(graph), prologue_peak(graph), call)


def levels(graph: Graph, takes: Scratch = scratch) -> dict[Node, int]:
    """The bytes alive while each node of a call runs, beside what the prologue keeps and copies of
    what is returned."""
    running = [node for node in graph.nodes if node not in graph.steady]
    generated = groups(graph)
    straight = written_straight(graph, generated)
    over = written_over(graph, generated, straight)
    over |= {x: {0: x.inputs[x.op.overwrites or 0]} for x in overwriting(graph)}
    lies_in = given_memory(over)
    elsewhere = given_room(straight)
    found = heights(running, returned(graph), elsewhere, lies_in=lies_in, takes=takes)
    return dict(zip(running, found, strict=True))


def kept(graph: Graph) -> int:
    """Bytes that the prologue computed and every call reads."""
    return sum(map(nbytes, {owner for x in frontier(graph) for owner in owners(x)}))


def prologue_peak(graph: Graph) -> int:
    """The most bytes alive while the prologue runs, what it keeps included."""
    found = frontier(graph)
    return highest(Graph((), found).nodes, found)


def frontier(graph: Graph) -> tuple[Node, ...]:
    """The values that the prologue computes and a call reads."""
    steady = graph.steady
    read = [x for node in graph.nodes if node not in steady for x in node.inputs]
    return tuple(dict.fromkeys(x for x in (*read, *graph.outputs) if computed(x, steady)))


def eager_peak(graph: Graph, takes: Scratch = scratch) -> int:
    """What eager takes at least, running a graph as it was recorded: all of it at every call.

    An elementwise operation counts as done in place where nothing reads its operand afterwards, as
    `relu_` would; and nothing lives longer than its last reader. Eager itself may take more.
    """
    return highest(graph.nodes, returned(graph), in_place=True, takes=takes)


def given_room(straight: Mapping[Node, Mapping[int, Node]]) -> set[Owner]:
    """The results that lie in an input's memory, where kernels write `straight` into it."""
    return {(node, k) for node, into in straight.items() for k in into}


def given_memory(over: Mapping[Node, Mapping[int, Node]]) -> dict[Owner, Owner]:
    """For results that are written `over` an operand, whose memory it is."""
    return {(node, k): owners(x)[0] for node, into in over.items() for k, x in into.items()}


def highest(
    nodes: Sequence[Node],
    kept: Sequence[Node],
    elsewhere: Collection[Owner] = (),
    in_place: bool = False,
    takes: Scratch = scratch,
) -> int:
    """The most bytes alive at once when `nodes` run in order and `kept` live to the end; what lies
    `elsewhere` is not counted."""
    return max(heights(nodes, kept, elsewhere, in_place, takes=takes), default=0)


def heights(
    nodes: Sequence[Node],
    kept: Sequence[Node],
    elsewhere: Collection[Owner] = (),
    in_place: bool = False,
    lies_in: Mapping[Owner, Owner] | None = None,
    takes: Scratch = scratch,
) -> list[int]:
    """The bytes alive while each of the nodes runs; some results lie in another's memory."""
    last: dict[Owner, int] = {}
    shown: dict[Node, tuple[Owner, ...]] = {}
    taken_from: dict[Node, int] = {}  # tuples, each held until its last element is taken
    for i, node in enumerate(nodes):
        for x in (*node.inputs, node):
            if x not in shown:
                shown[x] = owners(x) if not lies_in else tuple(first(y, lies_in) for y in owners(x))
        if isinstance(node.op, Item):
            taken_from[made(node)] = i
        else:
            for x in node.inputs:
                for owner in shown[x]:
                    last[owner] = i
        for owner in shown[node]:
            last[owner] = i
    for node, i in taken_from.items():
        for k in range(count(node.type)):
            owner = first((node, k), lies_in or {})
            last[owner] = max(i, last.get(owner, i))
    last.update((first(y, lies_in or {}), len(nodes)) for x in kept for y in owners(x))
    dying: dict[int, list[Owner]] = {}
    for owner, i in last.items():
        dying.setdefault(i, []).append(owner)
    alive: set[Owner] = set()
    now, found = 0, list[int]()
    for i, node in enumerate(nodes):
        taken = {x for x in shown[node] if x[0] is node and x not in elsewhere} - alive
        if in_place and isinstance(node.op, Pointwise):
            reused = next((x for x in node.inputs if x.type == node.type), None)
            for owner in shown[reused] if reused is not None else ():
                if last[owner] == i and owner in alive:
                    alive.discard(owner)
                    now -= nbytes(owner)
        alive |= taken
        now += sum(map(nbytes, taken))
        found.append(now + takes(node))
        freed = alive.intersection(dying.get(i, ()))
        alive -= freed
        now -= sum(map(nbytes, freed))
    return found


def first(owner: Owner, lies_in: Mapping[Owner, Owner]) -> Owner:
    """Whose memory a piece is."""
    while (other := lies_in.get(owner)) is not None:
        owner = other
    return owner


def owners(node: Node) -> tuple[Owner, ...]:
    """The memory that a value shows."""
    if isinstance(node.op, Const | Write):
        return ()
    if isinstance(node.op, Item):
        tuples = made(node)
        return ((tuples, node.op.index),) if not tuples.op.view else owners(tuples)
    if node.op.view and not is_copy(node):
        return owners(node.inputs[0])
    return tuple((node, k) for k in range(count(node.type)))


def made(node: Node) -> Node:
    """The tuple that an `Item` takes from."""
    return node.inputs[0]


def nbytes(owner: Owner) -> int:
    """Bytes of a piece of memory; an input's are the caller's."""
    node, k = owner
    if isinstance(node.op, Input):
        return 0
    typed = node.type.items[k] if isinstance(node.type, TupleType) else node.type
    return typed.nbytes if isinstance(typed, TensorType | OpaqueType) else 0


def count(typed: Type) -> int:
    """How many pieces of memory a value of this type is."""
    return len(typed.items) if isinstance(typed, TupleType) else 1


def size(node: Node) -> int:
    """Bytes of a value in memory of its own."""
    return node.type.nbytes if isinstance(node.type, TensorType | OpaqueType) else 0


def returned(graph: Graph) -> tuple[Node, ...]:
    """The outputs that are values of their own, not views of inputs or other outputs."""
    return tuple(x for x, alias in zip(graph.outputs, graph.aliases, strict=True) if alias is None)


def given(node: Node) -> bool:
    """Whether a value shows an input's memory."""
    return any(isinstance(owner.op, Input) for owner, _ in owners(node))


def computed(node: Node, steady: frozenset[Node]) -> bool:
    """Whether the prologue computes a value, and keeps it for every call.

    Not what is filled with one number: that takes less time than it would take room.
    """
    if isinstance(node.op, Full) and size(node) >= FILLED:
        return False
    return node in steady and not isinstance(node.op, Input | Const)
