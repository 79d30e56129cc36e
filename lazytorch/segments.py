"""The forward half of a training step, cut where few bytes cross; and what of each segment can be
computed again, in its backward, from what is kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lazytorch.cut import cheapest
from lazytorch.ir import Const, Graph, Input, Item, Node, Write
from lazytorch.ops.after import After
from lazytorch.ops.aten import Aten
from lazytorch.ops.base import Pointwise, Rowwise, View
from lazytorch.ops.batch_norm import BatchNormSaving, BatchNormTrain
from lazytorch.ops.copies import Cat, Clone, Pad
from lazytorch.ops.create import Arange, Eye, Full
from lazytorch.ops.custom import Custom
from lazytorch.ops.generated import obstacle
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

FREE = Pointwise | View | Full | Arange | Eye
"""Operations that kernels compute on the way which read what they make."""

Effort = Literal["none", "cheap", "all"]
"""What may be computed again: what kernels compute on the way that read it, what is cheap, all."""


@dataclass(frozen=True, eq=False)
class Away:
    """Values that wait in the host's memory: copies there have ended, at the latest, when `gone` is
    there; copies back begin when `back` is."""

    values: frozenset[Node]
    gone: Node
    back: Node


@dataclass(frozen=True, eq=False)
class Again:
    """One way to leave less of a segment: its backward computes the values `made` again, once
    `token` is there, from what is kept, or was `away`. `freed` are the bytes that need not be kept.
    Without values it is the choice to keep pools' offsets instead of indices
    (`passes/pool_offsets`)."""

    made: frozenset[Node]
    token: Node
    freed: int
    away: Away | None = None

    @property
    def changes(self) -> bool:
        """Whether the graph is another one by it."""
        return bool(self.made) or self.away is not None


Part = tuple[Sequence[Node], set[Owner]]
"""A run of the forward's nodes, and the memory that crosses its end."""


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


def choices(graph: Graph, offload: Offload | None = None) -> list[Again]:
    """What may be computed again, in the order in which it should be given up; each later choice
    for a segment includes the earlier one.

    Before all, less is kept of pools, which costs next to nothing. Then what is cheap, segment
    after segment from the input on, then whole segments: those behind are back in memory first,
    while all before them still wait. Segments whose values `offload` lets wait in the host's
    memory come before all that is computed again.
    """
    ways = Ways(graph, forward(graph))
    pools = [x for x in graph.nodes if isinstance(x.op, MaxPoolIndices | MaxPoolOffsets)]
    freed = sum(size(x.inputs[0]) for x in pools)
    offsets = [Again(frozenset(), pools[-1], freed)] if pools else []
    parts = list(segments(graph, ways.forward))
    sent = {} if offload is None else offload(ways, parts)
    found: dict[Effort, list[Again]] = {"cheap": [], "all": []}
    for i, part in enumerate(parts):
        for effort, some in found.items():
            made = None if i in sent else ways.missing(part, effort)
            if made is not None:
                some.append(made)
    return [*offsets, *sent.values(), *found["cheap"], *found["all"]]


def segments(graph: Graph, before: Sequence[Node]) -> Iterable[Part]:
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


@dataclass(frozen=True)
class Cut:
    """What a segment's backward needs of it, and what of that is computed again: the values `made`,
    which frees so many bytes."""

    needed: Sequence[Node]
    made: frozenset[Node] = frozenset()
    freed: int = 0

    @property
    def again(self) -> list[Node]:
        """What is needed and computed again."""
        return [x for x in self.needed if x in self.made]


class Ways:
    """What each segment's backward may compute again."""

    def __init__(self, graph: Graph, before: Sequence[Node]) -> None:
        self.graph = graph
        self.forward = before
        self.before = set(before)
        self.solved: dict[Hashable, tuple[list[int], int]] = {}  # for layers that are the same
        self.cuts: dict[tuple[Node, Effort], Cut] = {}  # by a segment's first node
        self.after: dict[Node, list[Node]] = {}  # what waits for a token, of what was chosen
        self.depth: dict[Node, int] = {}
        self.fed: set[Node] = set(self.before)  # what depends on the forward
        for node in graph.nodes:
            self.depth[node] = 1 + max([self.depth[x] for x in node.inputs], default=0)
            if node not in self.before and any(x in self.fed for x in node.inputs):
                self.fed.add(node)

    def missing(self, part: Part, effort: Effort) -> Again | None:
        """What is computed again, and when; None where that frees nothing, or nothing says when."""
        cut = self.cut(part, effort)
        token = self.token(self.readers(*cut.again)) if cut.freed > 0 else None
        return None if token is None else Again(cut.made, token, cut.freed)

    def cut(self, part: Part, effort: Effort) -> Cut:
        """What is computed again so that the least is kept, looked for once."""
        key = part[0][0], effort
        if key not in self.cuts:
            self.cuts[key] = self.cut_anew(part, effort)
        return self.cuts[key]

    def cut_anew(self, part: Part, effort: Effort) -> Cut:
        """The same, looked for now."""
        segment, crossing = part
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
            return Cut(needed)
        may = {x for x in segment if effort == "all" or self.allows(x, effort)}
        same = effort, *shape(segment, stays, set(needed), may)
        if same not in self.solved:
            made, freed = solve(segment, stays, needed, may)
            self.solved[same] = [i for i, x in enumerate(segment) if x in made], freed
        places, freed = self.solved[same]
        return Cut(needed, frozenset(segment[i] for i in places), freed)

    def allows(self, node: Node, effort: Effort) -> bool:
        """Whether a value may be computed again with so little effort."""
        if effort == "cheap":
            return isinstance(node.op, CHEAP | Item | After)
        return isinstance(node.op, FREE) and self.in_kernels(node)

    def in_kernels(self, node: Node) -> bool:
        """Whether generated kernels alone read a value behind the forward."""
        stack = self.readers(node)
        for user in stack:
            if isinstance(user.op, View):
                stack += self.graph.users[user]
            elif obstacle(user):
                return False
        return True

    def readers(self, *nodes: Node) -> list[Node]:
        """What reads values of the forward behind it."""
        users = [u for x in nodes for u in self.graph.users[x]]
        return [u for u in users if u not in self.before and not isinstance(u.op, Write)]

    def token(self, readers: Sequence[Node]) -> Node | None:
        """The value for which `readers`, all that reads what is computed again, may wait: from now
        on they count as waiting for it."""
        found = self.latest(self.behind(readers))
        if found is not None:
            self.after.setdefault(found, []).extend(readers)
        return found

    def behind(self, readers: Sequence[Node]) -> Mapping[Node, None]:
        """The readers and all that waits for them, in an order, so that of equals always the same
        is taken."""
        behind: dict[Node, None] = {}
        stack = list(readers)
        while stack:
            node = stack.pop()
            if node not in behind:
                behind[node] = None
                stack += [*self.graph.users[node], *self.after.get(node, ())]
        return behind

    def latest(self, behind: Mapping[Node, None]) -> Node | None:
        """The value behind the forward that is there last of those that these nodes read and that
        do not wait for them: the cotangent with which a segment's backward begins."""
        around = [
            x
            for node in behind
            for x in node.inputs
            if x not in behind
            and x in self.fed
            and x not in self.before
            and isinstance(x.type, TensorType)
        ]
        return max(around, key=self.depth.__getitem__, default=None)


Offload = Callable[[Ways, Sequence[Part]], Mapping[int, Again]]
"""What finds the choices by which values of some segments wait in the host's memory, by the
segments' numbers (`lazytorch.offload`)."""


def shape(
    segment: Sequence[Node], stays: set[Node], needed: set[Node], may: set[Node]
) -> Iterable[tuple[Hashable, ...]]:
    """A segment without its place in the graph: equal for layers in which the same is computed of
    values of the same types, and the same of it stays, is needed and may be computed again."""
    place = {x: i for i, x in enumerate(segment)}
    for x in segment:
        reads = [place.get(y, (y.type, isinstance(y.op, Const), repeatable(y))) for y in x.inputs]
        yield x.op, x.type, tuple(reads), x in stays, x in needed, x in may


def solve(
    segment: Sequence[Node], stays: set[Node], needed: Sequence[Node], may: set[Node]
) -> tuple[set[Node], int]:
    """What is computed again of a segment, of what may be, so that the least is kept; and the bytes
    that frees."""
    inside = set(segment)

    def operands(node: Node) -> Sequence[Node] | None:
        if node not in may or node in stays or not repeatable(node):
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
