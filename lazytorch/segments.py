"""The forward half of a training step, cut where few bytes cross; and what of each segment can be
computed again, in its backward, from what is kept."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from lazytorch.cut import cheapest
from lazytorch.ir import Const, Graph, Input, Item, Node, Write
from lazytorch.ops.after import After
from lazytorch.ops.aten import Aten
from lazytorch.ops.base import Pointwise, Rowwise, View
from lazytorch.ops.batch_norm import BatchNormSaving, BatchNormTrain
from lazytorch.ops.copies import Cat, Clone, Pad
from lazytorch.ops.create import Arange, Eye, Full
from lazytorch.ops.custom import Custom
from lazytorch.ops.pool import MaxPoolIndices, MaxPoolOffsets, Windows
from lazytorch.peak import Owner, nbytes, owners, size
from lazytorch.types import ScalarType, TensorType, TupleType

WORTH = 2
"""How many times the bytes that cross a cut a segment leaves its backward, at least."""

CHEAP = (
    Pointwise | View | Rowwise | Full | Arange | Eye | Cat | Clone | Pad | BatchNormTrain
    | BatchNormSaving | Windows
)  # fmt: skip
"""Operations that take about as long as moving what they read and make."""


@dataclass(frozen=True, eq=False)
class Again:
    """One way to leave less of a segment: its backward computes the values `made` again, once
    `token` is there, from what is kept. `freed` are the bytes that need not be kept. Without values
    it is the choice to keep pools' offsets instead of indices (`passes/pool_offsets`)."""

    made: frozenset[Node]
    token: Node
    freed: int


def forward(graph: Graph) -> list[Node]:
    """What runs at every call for the first output, the loss, one part of a batch after the other;
    what only has to wait for something does not count as reading it."""
    steady = graph.steady
    done: dict[Node, None] = {}
    stack: list[tuple[Node, int]] = [(x, 0) for x in graph.outputs[:1]]
    while stack:
        node, i = stack.pop()
        reads = node.inputs[:1] if isinstance(node.op, After) else node.inputs
        if i < len(reads):
            stack.append((node, i + 1))
            if reads[i] not in done:
                stack.append((reads[i], 0))
        elif node not in done:
            done[node] = None
    found: dict[Node, None] = {}
    for node in done:
        if node not in steady and not isinstance(node.op, Input | Const):
            found[node] = None
            if isinstance(node.type, TupleType):  # what only the backward reads of it, too
                found.update(dict.fromkeys(graph.users[node]))
    return list(found)


def choices(graph: Graph) -> list[Again]:
    """What may be computed again, in the order in which it should be given up; each later choice
    for a segment includes the earlier one.

    Before all, less is kept of pools, which costs next to nothing. Then what is cheap, segment
    after segment from the input on, then whole segments: those behind are back in memory first,
    while all before them still wait.
    """
    before = forward(graph)
    ways = Ways(graph, before)
    pools = [x for x in graph.nodes if isinstance(x.op, MaxPoolIndices | MaxPoolOffsets)]
    freed = sum(size(x.inputs[0]) for x in pools)
    offsets = [Again(frozenset(), pools[-1], freed)] if pools else []
    found: dict[bool, list[Again]] = {True: [], False: []}
    for segment, crossing in segments(graph, before):
        for cheap in (True, False):
            made = ways.missing(segment, crossing, cheap)
            if made is not None:
                found[cheap].append(made)
    return [*offsets, *found[True], *found[False]]


def segments(graph: Graph, before: Sequence[Node]) -> Iterable[tuple[list[Node], set[Owner]]]:
    """Runs of the forward's nodes, each with the memory that crosses its end."""
    place = {x: i for i, x in enumerate(before)}
    last: dict[Owner, int] = {}
    saved: dict[Owner, int] = {}
    for i, node in enumerate(before):
        for owner in (o for x in (node, *node.inputs) for o in owners(x) if o[0] in place):
            last[owner] = i
        if any(u not in place and not isinstance(u.op, Write) for u in graph.users[node]):
            for owner in owners(node):
                if owner[0] in place:
                    saved[owner] = place[owner[0]]
    leaves = [0] * len(before)
    for owner, i in saved.items():
        leaves[i] += nbytes(owner)
    change = [0] * (len(before) + 1)
    for owner, i in last.items():
        change[place[owner[0]]] += nbytes(owner)
        change[i] -= nbytes(owner)
    crossing = left = start = 0
    for i in range(len(before)):
        crossing += change[i]
        left += leaves[i]
        grows = i + 1 < len(before) and change[i + 1] > 0
        if grows and left >= WORTH * crossing:
            across = {o for o, end in last.items() if place[o[0]] <= i < end}
            yield list(before[start : i + 1]), across
            start, left = i + 1, 0


class Ways:
    """What each segment's backward may compute again."""

    def __init__(self, graph: Graph, before: Sequence[Node]) -> None:
        self.graph = graph
        self.before = set(before)
        self.solved: dict[Hashable, tuple[list[int], int]] = {}  # for layers that are the same
        self.after: dict[Node, list[Node]] = {}  # what waits for a token, of what was chosen
        self.depth: dict[Node, int] = {}
        self.fed: set[Node] = set(self.before)  # what depends on the forward
        for node in graph.nodes:
            self.depth[node] = 1 + max([self.depth[x] for x in node.inputs], default=0)
            if node not in self.before and any(x in self.fed for x in node.inputs):
                self.fed.add(node)

    def missing(self, segment: Sequence[Node], crossing: set[Owner], cheap: bool) -> Again | None:
        """What is computed again, and when; None where that frees nothing, or nothing says when."""
        inside = set(segment)
        values = [x for x in segment if not isinstance(x.type, TupleType)]
        stays = {
            x
            for x in values
            if any(o in crossing for o in owners(x))
            or any(u in self.before and u not in inside for u in self.graph.users[x])
        }
        needed = [x for x in segment if x not in stays and self.readers(x)]
        if not needed:
            return None
        same = cheap, *shape(segment, stays, set(needed))
        if same not in self.solved:
            made, freed = solve(segment, stays, needed, cheap)
            self.solved[same] = [i for i, x in enumerate(segment) if x in made], freed
        places, freed = self.solved[same]
        made = frozenset(segment[i] for i in places)
        token = self.token([x for x in needed if x in made])
        if freed <= 0 or token is None:
            return None
        return Again(made, token, freed)

    def readers(self, node: Node) -> list[Node]:
        """What reads a value of the forward behind it."""
        users = self.graph.users[node]
        return [u for u in users if u not in self.before and not isinstance(u.op, Write)]

    def token(self, needed: Sequence[Node]) -> Node | None:
        """The value behind the forward that is there last of those that do not wait for what is
        computed again: the cotangent with which the segment's backward begins."""
        readers = [u for x in needed for u in self.readers(x)]
        behind: dict[Node, None] = {}  # in an order, so that of equals always the same is taken
        stack = list(readers)
        while stack:
            node = stack.pop()
            if node not in behind:
                behind[node] = None
                stack += [*self.graph.users[node], *self.after.get(node, ())]
        around = [
            x
            for node in behind
            for x in node.inputs
            if x not in behind
            and x in self.fed
            and x not in self.before
            and isinstance(x.type, TensorType)
        ]
        if not around:
            return None
        found = max(around, key=self.depth.__getitem__)
        self.after.setdefault(found, []).extend(readers)
        return found


def shape(
    segment: Sequence[Node], stays: set[Node], needed: set[Node]
) -> Iterable[tuple[Hashable, ...]]:
    """A segment without its place in the graph: equal for layers in which the same is computed of
    values of the same types, and the same of it stays and is needed."""
    place = {x: i for i, x in enumerate(segment)}
    for x in segment:
        reads = [place.get(y, (y.type, isinstance(y.op, Const), repeatable(y))) for y in x.inputs]
        yield x.op, x.type, tuple(reads), x in stays, x in needed


def solve(
    segment: Sequence[Node], stays: set[Node], needed: Sequence[Node], cheap: bool
) -> tuple[set[Node], int]:
    """What is computed again of a segment so that the least is kept, and the bytes that frees."""
    inside = set(segment)

    def operands(node: Node) -> Sequence[Node] | None:
        if node not in inside or node in stays or not repeatable(node):
            return None
        if cheap and not isinstance(node.op, CHEAP | Item | After):
            return None
        return [x for x in node.inputs if not isinstance(x.op, Const)]

    def cost(node: Node) -> int | None:
        if isinstance(node.type, TupleType):
            return None
        if node not in inside or node in stays:
            return 1
        if not isinstance(node.type, TensorType | ScalarType):
            return None
        return max(1, size(node)) + (not repeatable(node) or isinstance(node.op, View))

    kept = cheapest(needed, cost, operands)
    made: set[Node] = set()
    stack = [x for x in needed if x not in kept]
    while stack:
        node = stack.pop()
        if node not in made:
            made.add(node)
            stack += [x for x in operands(node) or () if x not in kept and x in inside]
    freed = bytes_of(needed, inside) - bytes_of([x for x in kept if x not in stays], inside)
    return made, freed


def repeatable(node: Node) -> bool:
    """Whether a value can be computed twice: no draw, nothing of the user's own."""
    op = node.op
    if (
        op.effect
        or isinstance(op, Input | Write | Custom)
        or (isinstance(op, Aten) and op.may_alias)
    ):
        return False
    return not (isinstance(op, Item) and not repeatable(node.inputs[0]))


def bytes_of(nodes: Iterable[Node], inside: set[Node]) -> int:
    """Bytes of the memory that some values of a segment show."""
    return sum(map(nbytes, {o for x in nodes for o in owners(x) if o[0] in inside}))
