"""One search for offsets below a capacity: blocks are placed from the bottom up.

Of all layouts below the capacity there is one whose offsets add up to the least. In it every block
lies on the ground or on another one (its floor), and none would fit lower. The search places blocks
in the order of their offsets, equal ones in the blocks' own order, and looks for that layout alone:

- a block that was passed over, because a later one in that order was placed, must be lifted by one
  that is not placed yet, so it lies no lower than the lowest top of those (`lifts`);
- no block is placed above one that would have fitted wholly beneath it;
- at no time may the lowest block that is left, and the sizes of all that are left, exceed the
  capacity; nor those on top of the block that was just placed;
- what is left falls into groups that share no time: each is searched alone, and the first group
  without a layout ends them all.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lazytorch.offsets import FAR, Block, Ints

Flags = NDArray[np.bool_]
Bytes = NDArray[np.float64]
"""Sums of sizes, in floats: their products of matrices are fast, and exact up to 8 PiB."""

Walk = Generator["Walk", bool, bool]
"""A search that asks for others and gets their answers: `drive` runs it without recursion, for a
search may be deeper than Python's stack."""


class OutOfSteps(Exception):
    """The search took as many steps, or as long, as it may."""


@dataclass(frozen=True, slots=True)
class Group:
    """Blocks that are searched together, as arrays: of `n` blocks and `s` times."""

    ids: Ints
    size: Ints
    alive: Bytes  # s, n: 1 where a block is alive
    member: Ints  # the blocks of each time, one time after the other
    start: Ints  # where each time's begin
    beside: Flags  # n, n: whether two are alive at once
    apart: Ints  # n, n: 0 where they are, else FAR
    times: Ints

    def lowest(self, bound: Ints) -> Ints:
        """The lowest that any block of each time can lie."""
        return np.minimum.reduceat(bound[self.member], self.start)


class Skyline:
    """A search through the layouts of `blocks` below `capacity`, in the blocks' order.

    `failed` counts, for each span between times at which something begins or ends, how often it
    was too full.
    """

    def __init__(
        self, blocks: Sequence[Block], capacity: int, limit: int, until: float = float("inf")
    ) -> None:
        self.capacity, self.limit, self.until, self.steps = capacity, limit, until, 0
        times = np.unique([t for x in blocks for t in (x.first, x.last)])
        self.first = times.searchsorted([x.first for x in blocks])
        self.last = times.searchsorted([x.last for x in blocks])
        self.size = np.array([x.size for x in blocks], dtype=np.int64)
        span = np.arange(len(times) - 1)
        self.alive = (self.first <= span[:, None]) & (span[:, None] < self.last)
        self.beside = (self.first[:, None] < self.last) & (self.first < self.last[:, None])
        np.fill_diagonal(self.beside, False)
        self.offsets = np.zeros(len(blocks), dtype=np.int64)
        self.failed = np.zeros(len(span))

    def run(self) -> list[int] | None:
        """The offsets, or None where there are none; OutOfSteps where it is not known."""
        ground = np.zeros(len(self.size), dtype=np.int64)
        everything = np.arange(len(ground))
        return (
            self.offsets.tolist() if drive(self.apart(everything, ground, ground, 0, -1)) else None
        )

    def apart(self, ids: Ints, floor: Ints, bound: Ints, now: int, latest: int) -> Walk:
        """Search groups that share no time one by one, the smallest first."""
        order = self.first[ids].argsort(kind="stable")
        for group in sorted(np.split(order, self.cuts(ids, order)), key=len):
            members = np.sort(group)
            one = self.together(ids[members], floor[members], bound[members], now, latest)
            if not (yield one):
                return False
        return True

    def cuts(self, ids: Ints, order: Ints) -> Ints:
        """Where the blocks, in the order of their beginnings, fall into groups."""
        ends = np.maximum.accumulate(self.last[ids[order]])
        return np.flatnonzero(self.first[ids[order]][1:] >= ends[:-1]) + 1

    def together(self, ids: Ints, floor: Ints, bound: Ints, now: int, latest: int) -> Walk:
        """Search one group: make its arrays, then step by step."""
        alive = self.alive[:, ids]
        times = np.flatnonzero(alive.any(1))
        alive = np.ascontiguousarray(alive[times], dtype=np.float64)
        row, member = np.nonzero(alive)
        beside = self.beside[np.ix_(ids, ids)]
        group = Group(
            *(ids, self.size[ids], alive, member, row.searchsorted(np.arange(len(times)))),
            *(beside, np.where(beside, 0, FAR), times),
        )
        left = np.ones(len(ids), dtype=np.bool_)
        full = alive @ group.size
        return (yield self.step(group, floor, bound, left, full, now, latest))

    def step(
        self, group: Group, floor: Ints, bound: Ints, left: Flags, full: Bytes, now: int,
        latest: int,
    ) -> Walk:  # fmt: skip
        """Place one of the blocks that are `left`, and all others after it.

        floor: the lowest offset of each above what is placed. bound: the lowest in any layout that
        is looked for. full: the bytes left at each time. now, latest: where the last block was
        placed, and which it was.
        """
        self.count()
        ids, size = group.ids, group.size
        bound = np.where(left, np.maximum(np.maximum(bound, floor), now), FAR)
        lifts = (group.apart + (bound + size)).min(1)
        passed = left & ((floor < now) | ((floor == now) & (ids < latest)))
        bound = np.where(passed, np.maximum(bound, lifts), bound)
        beneath = int((floor + size)[left].min())
        found = np.flatnonzero(left & ~passed & (floor < beneath) & (floor >= bound))
        for b in found[floor[found].argsort(kind="stable")].tolist():
            at = int(floor[b])
            bound = np.maximum(bound, at)
            if self.too_full(group, group.lowest(bound) + full, full):
                return False  # whichever of the others is next: they lie no lower
            top = at + int(size[b])
            raised = np.maximum(bound, top * group.beside[b])
            raised[b] = FAR
            rest = full - group.alive[:, b] * size[b]
            if not self.too_full(group, group.lowest(raised) + rest, rest):
                above = group.alive @ (size * ((raised >= top) & (raised < FAR)))
                if not self.too_full(group, top + above, above):
                    self.offsets[ids[b]] = at
                    left[b] = False
                    higher = np.maximum(floor, top * group.beside[b])
                    if (yield self.rest(group, higher, raised, left, rest, at, b)):
                        return True
                    left[b] = True
            bound[b] = max(bound[b], lifts[b])
        return False

    def rest(
        self, group: Group, floor: Ints, bound: Ints, left: Flags, full: Bytes, now: int, b: int
    ) -> Walk:
        """Search what is left once block number `b` of the group is placed: in smaller arrays where
        they fall apart, or where half of them are placed."""
        latest = int(group.ids[b])
        others = np.flatnonzero(left)
        if not len(others):
            return done()
        ids = group.ids[others]
        order = self.first[ids].argsort(kind="stable")
        if len(self.cuts(ids, order)) or 2 * len(others) < len(group.ids):
            return self.apart(ids, floor[others], bound[others], now, latest)
        return self.step(group, floor, bound, left, full, now, latest)

    def too_full(self, group: Group, height: Bytes, full: Bytes) -> bool:
        """Whether some time's blocks would end above the capacity; those times are counted."""
        over = (height > self.capacity) & (full > 0)
        if not over.any():
            return False
        self.failed[group.times[over]] += 1
        return True

    def count(self) -> None:
        """One step more; OutOfSteps when there is none left."""
        self.steps += 1
        if self.steps > self.limit or time.monotonic() >= self.until:
            raise OutOfSteps


def done() -> Walk:
    """The search for nothing: there is nothing left to place."""
    return True
    yield  # which makes it a search


def drive(walk: Walk) -> bool:
    """Run a search, and those that it asks for."""
    stack, answer = [walk], None
    while stack:
        try:
            asked = stack[-1].send(answer) if answer is not None else next(stack[-1])
            stack.append(asked)
            answer = None
        except StopIteration as stopped:
            stack.pop()
            answer = bool(stopped.value)
    return bool(answer)
