"""A search for the lowest arena, which ends with a proof, or at its bounds with the best it found.

In the manner of M. D. Moffitt, "MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated
Machine Learning" (ASPLOS 2023): blocks are placed from the bottom up, each on another one or on the
ground, a time's blocks must fit below the capacity, and what shares no time is searched apart.
lazytorch/skyline.py is one such search; here they start again, in other orders
(lazytorch/priorities.py) and below other capacities, and learn where the others failed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from lazytorch.offsets import Block, Layout, greedy, live
from lazytorch.priorities import Priorities
from lazytorch.skyline import OutOfSteps, Skyline

WHOLE = 2000
"""The most blocks that are searched together: the time of a step grows with their square."""

FIRST = 4000
"""Steps for each of the fixed orders."""

TRY = 1000
"""Steps before a search starts again in another order. Some orders need millions of steps and some
a few hundred, on the same blocks."""


@dataclass
class Bounds:
    """What is left of the steps and of the time, and the height that is low enough."""

    steps: int
    until: float
    enough: int

    @property
    def spent(self) -> bool:
        """Whether the search has to end."""
        return self.steps <= 0 or time.monotonic() >= self.until


def pack(
    blocks: Sequence[Block],
    alignment: int = 1,
    steps: int = 10_000,
    seconds: float = float("inf"),
    enough: int = 0,
) -> Layout:
    """The lowest layout that is found in so many steps and seconds, at best one of `enough` bytes.

    Never higher than `greedy`'s. With `seconds` alone the result depends on the machine. Declines
    to search where a block states its offset, and parts of too many blocks.
    """
    found = greedy(blocks, alignment)
    if any(x.offset is not None for x in blocks):
        return found
    held = [replace(x, size=-(-x.size // alignment) * alignment) for x in blocks]
    offsets = list(found.offsets)
    bounds = Bounds(steps, time.monotonic() + seconds, max(enough, live(held)))
    for part in parts(held):
        those = tuple([held[i] for i in part])
        best = Layout(those, tuple([offsets[i] for i in part]))
        if len(part) <= WHOLE:
            best = Search(best, bounds).run()
        for i, offset in zip(part, best.offsets, strict=True):
            offsets[i] = offset
        bounds.enough = max(bounds.enough, best.height)
    return Layout(found.blocks, tuple(offsets))


def parts(blocks: Sequence[Block]) -> list[list[int]]:
    """The blocks that have bytes, in groups that share no time, the smallest group first."""
    found: list[list[int]] = []
    end: int | None = None
    for i in sorted(range(len(blocks)), key=lambda i: blocks[i].first):
        if not blocks[i].size:
            continue
        if end is None or blocks[i].first >= end:
            found.append([])
        end = max(end or blocks[i].last, blocks[i].last)
        found[-1].append(i)
    return sorted(found, key=len)


class Search:
    """Blocks that share their time, searched again and again.

    Every offset of a search is a sum of sizes: heights differ by what divides all of these.
    """

    def __init__(self, best: Layout, bounds: Bounds) -> None:
        self.best = best
        self.blocks = best.blocks
        self.bounds = bounds
        self.random = random.Random(0)
        self.unit = gcd(*[x.size for x in self.blocks])
        times = sorted({t for x in self.blocks for t in (x.first, x.last)})
        number = {t: i for i, t in enumerate(times)}
        spans = [(number[x.first], number[x.last]) for x in self.blocks]
        full = np.zeros(len(times) - 1)
        for block, (first, last) in zip(self.blocks, spans, strict=True):
            full[first:last] += block.size
        self.least = int(full.max())
        self.priorities = Priorities(self.blocks, spans, full)
        self.failed = np.ones(len(full))

    @property
    def goal(self) -> int:
        """The height that is low enough, or the least that is possible."""
        return max(self.bounds.enough, self.least)

    @property
    def middle(self) -> int:
        """Half-way from the best layout to one that is low enough."""
        return (self.goal + self.best.height) // 2

    @property
    def done(self) -> bool:
        """Whether the best layout is low enough, proven, or the bounds are reached."""
        return self.best.height <= self.goal or self.bounds.spent

    def run(self) -> Layout:
        """The best layout when the search is done.

        Half-way capacities come first, and are easy at first. Once one failed, the fixed orders
        look for the least height: the less room there is, the sooner a search sees that it went
        wrong. Then all capacities take turns, in drawn orders.
        """
        while not self.done and self.attempt(self.middle, TRY, self.priorities.drawn(self.failed)):
            pass
        for order in self.priorities.fixed():
            if not self.done:
                self.attempt(self.least, FIRST, order)
        tries = 0
        while not self.done:
            tries += 1
            capacity = self.random.choice((self.least, self.goal, self.middle))
            self.attempt(capacity, TRY * luby(tries), self.priorities.drawn(self.failed))
        return self.best

    def attempt(self, capacity: int, steps: int, order: list[int]) -> bool:
        """Look for a better layout within the capacity, and say whether one was found. A proof
        that there is none raises the least height."""
        capacity -= capacity % self.unit
        skyline = Skyline(
            [self.blocks[i] for i in order],
            capacity,
            min(steps, self.bounds.steps),
            self.bounds.until,
        )
        try:
            offsets = skyline.run()
        except OutOfSteps:
            return False
        finally:
            self.bounds.steps -= skyline.steps
            self.failed = self.failed * 0.9 + skyline.failed
        if offsets is None:
            self.least = capacity + self.unit
            return False
        found = dict(zip(order, offsets, strict=True))
        self.best = Layout(self.blocks, tuple([found[i] for i in range(len(order))]))
        return True


def luby(i: int) -> int:
    """The i-th of 1, 1, 2, 1, 1, 2, 4, ...: the best lengths of tries that start again, up to a
    constant, where nothing is known of how long they take (Luby, Sinclair, Zuckerman 1993)."""
    while (i + 1) & i:
        i -= (1 << (i.bit_length() - 1)) - 1
    return (i + 1) // 2
