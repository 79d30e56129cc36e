"""Which values of the forward may wait in the host's memory without making a step longer.

Copies run beside what a GPU computes: those of a segment are free as long as there is something
else to compute until they have ended. From the input on, as many segments are offloaded as a clock
of the forward has time for: copies one after the other, each begun when its segment is done, all of
them ended before the forward is; and back in time, as the backward comes to them in the opposite
order, and takes twice as long. By what clock is the caller's.

They come before all that is computed again, which takes time: calls in a CUDA graph with copies
beside it begin 0.02 us later on an H200 (`benchmarks/copies_in_graphs.py`).

Declines on small values, on those that the forward reads to its end, and where a batch goes through
the forward in parts: one part's backward runs before the next one's forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

from lazytorch.ir import Graph, Input, Item, Node
from lazytorch.ops.after import After
from lazytorch.ops.base import View
from lazytorch.peak import Owner, owners, size
from lazytorch.segments import (
    CHEAP,
    Again,
    Away,
    Cut,
    Effort,
    Offload,
    Part,
    Ways,
    forward,
    repeatable,
)
from lazytorch.types import TensorType

LEAST = 1 << 22
"""Bytes below which a value stays: streams that wait for each other four times take as long as it
takes to compute that much again."""

EARLY = 2.0
"""How many times as early as it must a copy back begins: to wait costs time, to be there bytes."""

LATER: tuple[Effort, ...] = ("cheap", "all")
"""Of a segment that is not offloaded, what may be chosen."""

BACKWARD = 2
"""How many times as long as a segment its backward takes: two products for each."""


@dataclass(frozen=True)
class Link:
    """The way from a device to the host's memory: bytes a second each way; and the seconds that the
    device takes to compute a node."""

    rate: float
    seconds: Callable[[Node], float]

    def along(self, fused: Graph) -> Offload:
        """What is offloaded of a step whose kernels are those of its `fused` graph."""
        return partial(offloaded, self, self.takes(forward(fused)))

    def takes(self, nodes: Iterable[Node]) -> float:
        """The seconds of all of them."""
        return sum(map(self.seconds, nodes))


def offloaded(link: Link, whole: float, ways: Ways, parts: Sequence[Part]) -> dict[int, Again]:
    """What is offloaded, by the segments' numbers, if the forward takes `whole` seconds."""
    alone = link.takes(ways.forward)  # each by itself
    if not alone or any(isinstance(x.op, After) for x in ways.forward):
        return {}
    return Offloading(link, whole / alone, ways, parts).found()


@dataclass
class Waiting:
    """A value that a backward reads, or shows: its readers behind the forward, and the views of it
    that they read."""

    readers: list[Node] = field(default_factory=list[Node])
    views: dict[Node, None] = field(default_factory=dict[Node, None])


class Offloading:
    """Segments one after the other, with the clocks of both directions."""

    def __init__(self, link: Link, scale: float, ways: Ways, parts: Sequence[Part]) -> None:
        self.link = link
        self.ways = ways
        self.parts = parts
        seconds = (scale * link.seconds(x) for x in ways.forward)
        self.clock = [*accumulate(seconds, initial=0.0)]
        self.ends = [*accumulate(len(segment) for segment, _ in parts)]
        self.last: dict[Owner, int] = {}
        for i, node in enumerate(ways.forward):
            for owner in (o for x in (node, *node.inputs) for o in owners(x)):
                self.last[owner] = i
        self.waiting: dict[Node, Waiting] = {}
        self.later_readers: dict[Node, list[Node]] = {}  # if more is computed again
        self.out = self.back = 0.0  # when copies there end; how long before its end copies begin

    def found(self) -> dict[int, Again]:
        """What is offloaded of each segment, of those of which anything is."""
        found: dict[int, Again] = {}
        begins = [self.begin(segment) for segment, _ in self.parts]
        for k, part in enumerate(self.parts):
            cut = self.ways.cut(part, "none")
            self.note(part, cut)
            chosen = {x: y for x, y in self.waiting.items() if self.dies(x) < self.ends[k]}
            for x in chosen:
                del self.waiting[x]
            one = self.sent(k, cut, chosen, begins) if chosen else None
            if one is not None:
                found[k] = one
        return found

    def begin(self, segment: Sequence[Node]) -> Node | None:
        """The value with which a segment's backward begins."""
        return self.ways.latest(self.ways.behind(self.ways.readers(*segment)))

    def note(self, part: Part, cut: Cut) -> None:
        """What a segment's backward reads of the forward, also to compute values again."""
        for x in part[0]:
            if x not in cut.made:
                self.read(x, self.ways.readers(x))
        readers = self.ways.readers(*cut.again)
        for x in self.operands(cut):
            self.read(x, readers)
        for effort in LATER:
            wider = self.ways.cut(part, effort)
            readers = self.ways.readers(*wider.again)
            for x in self.operands(wider):
                self.later_readers.setdefault(shown(x)[0], []).extend(readers)

    def operands(self, cut: Cut) -> Iterable[Node]:
        """What is read to compute values again."""
        read = {y: None for node in cut.made for y in node.inputs}
        return [y for y in read if y in self.ways.before and y not in cut.made]

    def read(self, x: Node, readers: Sequence[Node]) -> None:
        """A value is read; it is noted for what owns its memory."""
        value, views = shown(x)
        if readers and sendable(value) and value in self.ways.before:
            noted = self.waiting.setdefault(value, Waiting())
            noted.readers += readers
            noted.views |= dict.fromkeys(views)

    def dies(self, x: Node) -> int:
        """The place of the last node of the forward that reads a value."""
        return max(self.last[owner] for owner in owners(x))

    def sent(
        self, k: int, cut: Cut, chosen: Mapping[Node, Waiting], begins: Sequence[Node | None]
    ) -> Again | None:
        """The choice for a segment; None where there is no time for it."""
        taken = sum(map(size, chosen))
        seconds = taken / self.link.rate
        done = self.clock[self.ends[k]]
        out = max(self.out, done) + seconds
        back = max(self.back, BACKWARD * done) + EARLY * seconds
        readers = self.ways.readers(*cut.again)
        for x, waiting in chosen.items():
            readers += [*waiting.readers, *self.later_readers.get(x, ())]
        behind = self.ways.behind(readers)
        gone = next((x for i, x in self.later(k, chosen) if self.clock[i] >= out), None)
        begin = next(
            (
                x
                for j, x in enumerate(begins)
                if j > k
                and BACKWARD * self.clock[self.ends[j]] >= back
                and x is not None
                and x not in behind
            ),
            None,
        )
        if gone is None or begin is None:
            return None
        token = self.ways.token(readers)
        if token is None:
            return None
        self.ways.after.setdefault(begin, []).extend(readers)
        self.out, self.back = out, back
        views = {y for x in chosen.values() for y in x.views}
        away = Away(frozenset(chosen), gone, begin)
        return Again(cut.made | views, token, cut.freed + taken, away)

    def later(self, k: int, values: Iterable[Node]) -> Iterator[tuple[int, Node]]:
        """What the forward computes of some values behind a segment, with its place: something can
        wait for it."""
        reached = {*values}
        for i, x in enumerate(self.ways.forward):
            if any(y in reached for y in x.inputs):
                reached.add(x)
                if i >= self.ends[k] and anchor(x):
                    yield i, x


def shown(x: Node) -> tuple[Node, list[Node]]:
    """The value that a chain of views shows, and the views."""
    views: list[Node] = []
    while isinstance(x.op, View) and repeatable(x):
        views.append(x)
        x = x.inputs[0]
    return x, views


def sendable(x: Node) -> bool:
    """Whether a value has memory of its own, on a GPU, that is worth a copy."""
    typed = x.type
    return (
        isinstance(typed, TensorType)
        and typed.is_dense
        and size(x) >= LEAST
        and not isinstance(x.op, Input)
        and (isinstance(x.op, Item) or not x.op.view)
        and owners(x)[0][0] in (x, *x.inputs)
    )


def anchor(x: Node) -> bool:
    """Whether a value is a library's: in memory, whatever is fused."""
    return isinstance(x.type, TensorType) and not isinstance(x.op, CHEAP | Item | After)
