"""The cheapest values to keep, so that others can be computed again from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lazytorch.ir import Node

SOURCE, SINK = 0, 1


def cheapest(
    needed: Sequence[Node],
    cost: Callable[[Node], int | None],
    operands: Callable[[Node], Sequence[Node] | None],
) -> set[Node]:
    """The values to keep, by a minimum cut.

    `cost` is what keeping a value costs, None where it cannot be kept; `operands` are what it is
    computed from again, None where it cannot be. Each value is split into its being computed and
    its being kept; from the source come those that cannot be computed again, into the sink go those
    that are needed. A cut edge is a value that is kept; of equal cuts it is the one nearest to what
    is needed.
    """
    network = Network()
    place: dict[Node, int] = {}  # the vertex of its being computed; being kept comes next
    stack = list(needed)
    edges: list[tuple[Node, Node]] = []
    while stack:
        node = stack.pop()
        if node in place:
            continue
        place[node] = network.vertices(2)
        network.edge(place[node], place[node] + 1, cost(node))
        below = operands(node)
        if below is None:
            network.edge(SOURCE, place[node], None)
        for x in below or ():
            edges.append((x, node))
            stack.append(x)
    for x, node in edges:
        network.edge(place[x] + 1, place[node], None)
    for node in needed:
        network.edge(place[node] + 1, SINK, None)
    network.fill()
    below_cut = network.reaching_sink()
    return {x for x, v in place.items() if v not in below_cut and v + 1 in below_cut}


class Network:
    """A flow network: edges are numbered in pairs, forth and back, each with what it still takes.

    Dinic, Algorithm for solution of a problem of maximum flow in networks with power estimation,
    1970: the flow is filled up along shortest paths, all those of a length at once.
    """

    def __init__(self) -> None:
        self.head: list[int] = []
        self.room: list[int | None] = []
        self.out: list[list[int]] = [[], []]

    def vertices(self, count: int) -> int:
        """The first of some new vertices."""
        self.out += [[] for _ in range(count)]
        return len(self.out) - count

    def edge(self, tail: int, head: int, capacity: int | None) -> None:
        """An edge; None is without limit."""
        self.out[tail].append(len(self.head))
        self.out[head].append(len(self.head) + 1)
        self.head += [head, tail]
        self.room += [capacity, 0]

    def fill(self) -> None:
        """Let as much flow as there is room for; OverflowError where that is without limit."""
        while SINK in (level := self.levels()):
            at = [0] * len(self.out)
            while path := self.path(level, at):
                rooms = [room for e in path if (room := self.room[e]) is not None]
                if not rooms:
                    raise OverflowError("nothing on a way from what is given can be kept")
                for e in path:
                    self.take(e, min(rooms))

    def take(self, e: int, flow: int) -> None:
        """Let flow through an edge, or back what came the other way."""
        forth, back = self.room[e], self.room[e ^ 1]
        self.room[e] = None if forth is None else forth - flow
        self.room[e ^ 1] = None if back is None else back + flow

    def levels(self) -> dict[int, int]:
        """How many edges with room lead from the source to a vertex."""
        found = {SOURCE: 0}
        queue = [SOURCE]
        for v in queue:
            for e in self.out[v]:
                if self.room[e] != 0 and self.head[e] not in found:
                    found[self.head[e]] = found[v] + 1
                    queue.append(self.head[e])
        return found

    def path(self, level: dict[int, int], at: list[int]) -> list[int]:
        """A shortest path with room to the sink, none if there is none; `at` is what each vertex
        has already been tried for."""
        path: list[int] = []
        v = SOURCE
        while v != SINK:
            out = self.out[v]
            while at[v] < len(out):
                e = out[at[v]]
                if self.room[e] != 0 and level.get(self.head[e]) == level[v] + 1:
                    path.append(e)
                    v = self.head[e]
                    break
                at[v] += 1
            else:  # nothing leads on
                if not path:
                    return []
                v = self.head[path.pop() ^ 1]
                at[v] += 1
        return path

    def reaching_sink(self) -> set[int]:
        """The vertices from which edges with room lead to the sink."""
        found = {SINK}
        queue = [SINK]
        for v in queue:
            for e in self.out[v]:
                if self.room[e ^ 1] != 0 and self.head[e] not in found:
                    found.add(self.head[e])
                    queue.append(self.head[e])
        return found
