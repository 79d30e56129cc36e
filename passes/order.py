"""The order in which nodes run: one in which fewer bytes are alive at once, where one is found.

The order given, one built forwards (always what frees most, less what it takes) and one built
backwards (last what keeps the least alive) are compared by their peaks, and the same with all that
can wait for its first reader: a copy for the backward, say, of what is kept for it anyway. Around
the peak of the best, a beam search looks for better orders of a few neighbours. The elements of a
tuple are always taken right behind it: nothing is made by that, and a tuple holds all its elements
until the last is taken. The gradient of a weight, taken late, would hold that of its layer's input.
Else the order stays the program's where none has a lower peak. Effects keep their order, and writes
come last. What the prologue computes is not moved.

What is written straight into an input (an optimizer's update of a parameter) takes no memory and
frees what it reads, so that it runs at once, while a gradient is still in a cache, but after all
that reads what was there. Copies to the host's memory and back begin, and are taken for ended, as
soon as what they wait for is there: so their graph says when (`ops.offload`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush

from lazytorch.ir import Graph, Node
from lazytorch.jobs import Jobs, jobs_of, movable
from lazytorch.peak import Scratch, prologue_peak, scratch
from lazytorch.types import TensorType

WINDOW = 20
"""Neighbours that are put in another order together."""

LITTLE = 1 << 12
"""Bytes that may live longer than they must."""

BEAM = 32
"""Orders of a window that are kept at each length."""

ROUNDS = 40
"""The most windows: each takes some milliseconds."""


def order(graph: Graph, takes: Scratch = scratch) -> Graph:
    """The graph with an order of a lower peak, or the graph itself; `takes` says what libraries
    allocate while they compute."""
    jobs = jobs_of(graph, takes)
    best = at_once(jobs, range(len(jobs.units)))
    peak = jobs.peak(best)
    floor = max(map(jobs.alone, best), default=0)
    while peak > floor:  # until nothing is found: a second run of the pass finds nothing
        ways = [best, forwards(jobs, best), backwards(jobs, best)]
        ways += [delayed(jobs, x) for x in ways]
        found = at_once(jobs, improved(jobs, min(ways, key=jobs.peak)))  # of equals the first
        lower = jobs.peak(found)
        if lower >= peak:
            break
        best, peak = found, lower
    best = little_first(jobs, best)
    stated = tuple([x for i in best for x in jobs.units[i]])
    if stated == tuple(movable(graph)):
        return graph
    after = replace(graph, order=stated)
    return after if prologue_peak(after) <= prologue_peak(graph) else graph


def at_once(jobs: Jobs, given: Sequence[int]) -> list[int]:
    """The order in which updates, and what they read that takes no memory, come as soon as they
    can: nothing is alive for longer by that. And so do copies from and to the host."""
    moving: set[int] = set()
    stack = [*jobs.updates, *jobs.prompt]
    while stack:
        i = stack.pop()
        if i not in moving:
            moving.add(i)
            stack += [j for j in jobs.before[i] if not jobs.makes[j]]
    rank = {i: at for at, i in enumerate(given)}
    needs = [len(x) for x in jobs.before]
    ready = [(rank[i], i) for i in moving if not needs[i]]
    heapify(ready)
    found: list[int] = []

    def place(i: int) -> None:
        found.append(i)
        for j in jobs.after[i]:
            needs[j] -= 1
            if j in moving and not needs[j]:
                heappush(ready, (rank[j], j))

    for i in (None, *given):
        if i is not None and i not in moving:
            place(i)
        while ready:
            place(heappop(ready)[1])
    return found


def little_first(jobs: Jobs, given: Sequence[int]) -> list[int]:
    """The order in which what reads and takes hardly any memory, and could be made by then, comes
    before the first update: that cannot be undone where memory is not found afterwards."""
    updates = {*jobs.updates}
    first = next((at for at, i in enumerate(given) if i in updates), len(given))
    there = {*given[:first]}
    early: list[int] = []
    for i in given[first:]:
        if i not in updates and there.issuperset(jobs.before[i]) and little(jobs.units[i]):
            there.add(i)
            early.append(i)
    rest = [i for i in given[first:] if i not in there]
    return [*given[:first], *early, *rest]


def little(unit: Sequence[Node]) -> bool:
    """Whether a node reads and makes little."""
    values = (*unit[0].inputs, *unit)
    return sum(x.type.nbytes for x in values if isinstance(x.type, TensorType)) <= LITTLE


def forwards(jobs: Jobs, given: Sequence[int]) -> list[int]:
    """From the first node on: next is what adds the least, that is, frees the most."""
    waiting = [len(x) for x in jobs.touched]
    adds = list(jobs.makes)
    left = [set(x) for x in jobs.touched]

    def freed(i: int, changed: Callable[[int], None]) -> None:
        for k in jobs.touches[i]:
            waiting[k] -= 1
            left[k].discard(i)
            if waiting[k] == 1 and jobs.ends[k]:
                (last,) = left[k]
                adds[last] -= jobs.size[k]
                changed(last)

    for i, touches in enumerate(jobs.touches):
        adds[i] -= sum(jobs.size[k] for k in touches if waiting[k] == 1 and jobs.ends[k])
    return listed(jobs.before, jobs.after, adds, freed, given)


def backwards(jobs: Jobs, given: Sequence[int]) -> list[int]:
    """From the last node back: before all others that are placed comes what then keeps alive the
    least beside what they read."""
    alive = [not x for x in jobs.ends]
    adds = [
        sum(jobs.size[k] for k in touches if not alive[k]) - makes
        for touches, makes in zip(jobs.touches, jobs.makes, strict=True)
    ]

    def held(i: int, changed: Callable[[int], None]) -> None:
        for k in jobs.touches[i]:
            if not alive[k]:
                alive[k] = True
                for j in jobs.touched[k]:
                    adds[j] -= jobs.size[k]
                    changed(j)

    return listed(jobs.after, jobs.before, adds, held, given[::-1])[::-1]


def delayed(jobs: Jobs, given: Sequence[int]) -> list[int]:
    """The order in which whatever keeps nothing alive by it runs right before its first reader."""
    place = {i: at for at, i in enumerate(given)}
    reached = [-1 for _ in jobs.size]  # the last place at which memory is touched
    for i in reversed(given):
        first = min([place[j] for j in jobs.after[i]], default=place[i])
        if all(reached[k] >= first or not jobs.ends[k] for k in jobs.touches[i]):
            place[i] = first
        for k in jobs.touches[i]:
            reached[k] = max(reached[k], place[i])
    return sorted(given, key=place.__getitem__)  # at one place, the order given


def listed(
    before: list[list[int]],
    after: list[list[int]],
    adds: list[int],
    done: Callable[[int, Callable[[int], None]], None],
    given: Sequence[int],
) -> list[int]:
    """List scheduling: of the nodes that are ready, always the one that adds the least.

    `done` is told of each and says whose `adds` it has changed. Of equals, the order given decides.
    """
    needs = [len(x) for x in before]
    rank = [0] * len(needs)
    for at, i in enumerate(given):
        rank[i] = at
    ready = [(adds[i], rank[i]) for i, count in enumerate(needs) if not count]
    heapify(ready)
    placed = [False] * len(needs)
    found: list[int] = []

    def changed(i: int) -> None:
        if not needs[i] and not placed[i]:
            heappush(ready, (adds[i], rank[i]))

    while ready:
        added, at = heappop(ready)
        i = given[at]
        if placed[i] or added != adds[i]:
            continue  # it was pushed again when that changed
        placed[i] = True
        found.append(i)
        done(i, changed)
        for j in after[i]:
            needs[j] -= 1
            changed(j)
    return found


def improved(jobs: Jobs, order: list[int]) -> list[int]:
    """Put windows around the peak in better orders, until none is found."""
    order = list(order)
    heights = jobs.heights(order)
    place = {i: at for at, i in enumerate(order)}
    rounds = 0
    while rounds < ROUNDS and order:
        peak = max(heights)
        top = heights.index(peak)
        for shift in (WINDOW // 2, WINDOW - 1, 0):
            start = max(top - shift, 0)
            rounds += 1
            first = order[start]
            entry = heights[start] - jobs.makes[first] - jobs.scratch[first]
            better = beam(jobs, order[start : start + WINDOW], place, start, entry, peak)
            if better is not None:
                order[start : start + WINDOW] = better
                place |= {i: at for at, i in enumerate(better, start)}
                heights[start : start + WINDOW] = window_heights(jobs, order, place, start, entry)
                break
        else:
            break
    return order


def window_heights(
    jobs: Jobs, order: list[int], place: dict[int, int], start: int, now: int
) -> list[int]:
    """The bytes alive while each node of a window runs."""
    found: list[int] = []
    for at, i in enumerate(order[start : start + WINDOW], start):
        now += jobs.makes[i]
        found.append(now + jobs.scratch[i])
        for k in jobs.touches[i]:
            if jobs.ends[k] and max(place[j] for j in jobs.touched[k]) == at:
                now -= jobs.size[k]
    return found


def beam(
    jobs: Jobs, window: list[int], place: dict[int, int], start: int, entry: int, peak: int
) -> list[int] | None:
    """An order of the window that stays below `peak`, or None; nodes are bits of a number."""
    bit = {i: 1 << at for at, i in enumerate(window)}
    end = start + len(window)
    needs = [sum(bit[j] for j in jobs.before[i] if j in bit) for i in window]
    readers: dict[int, int] = {}
    for i in window:
        for k in jobs.touches[i]:
            if jobs.ends[k] and k not in readers:
                within = all(place[j] < end for j in jobs.touched[k])
                readers[k] = sum(bit[j] for j in jobs.touched[k] if j in bit) if within else -1
    states: dict[int, tuple[int, int, list[int]]] = {0: (entry, entry, [])}
    for _ in window:
        found: dict[int, tuple[int, int, list[int]]] = {}
        for done, (worst, now, taken) in states.items():
            for at, i in enumerate(window):
                if done >> at & 1 or needs[at] & ~done:
                    continue
                height = now + jobs.makes[i]
                top = height + jobs.scratch[i]
                if top >= peak:
                    continue
                both, most = done | 1 << at, max(worst, top)
                if both in found and found[both][0] <= most:
                    continue
                freed = [k for k in jobs.touches[i] if jobs.ends[k] and not readers[k] & ~both]
                height -= sum(jobs.size[k] for k in freed)
                found[both] = (most, height, [*taken, i])
        states = dict(sorted(found.items(), key=lambda item: item[1][:2])[:BEAM])
    return next(iter(states.values()))[2] if states else None
