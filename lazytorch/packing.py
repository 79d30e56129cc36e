"""A search for the lowest arena, which ends with a proof, or at its bounds with the best it found.

In the manner of M. D. Moffitt, "MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated
Machine Learning" (ASPLOS 2023): blocks are placed from the bottom up, each on another one or on the
ground, a time's blocks must fit below the capacity, and what shares no time is searched apart.
lazytorch/skyline.py is one such search; here they start again, with other orders and other
capacities, and learn where the others failed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np

from lazytorch.offsets import Block, Layout, greedy, live
from lazytorch.skyline import OutOfSteps, Skyline

WHOLE = 2000
"""The most blocks that are searched together: the time of a step grows with their square."""

TRY = 2000
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
            best = Search(best, alignment, bounds).run()
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
    """Blocks that share their time, searched again and again."""

    def __init__(self, best: Layout, alignment: int, bounds: Bounds) -> None:
        self.best = best
        self.blocks = best.blocks
        self.alignment = alignment
        self.bounds = bounds
        self.random = random.Random(0)
        times = sorted({t for x in self.blocks for t in (x.first, x.last)})
        number = {t: i for i, t in enumerate(times)}
        self.spans = [(number[x.first], number[x.last]) for x in self.blocks]
        self.full = np.zeros(len(times) - 1)
        for block, (first, last) in zip(self.blocks, self.spans, strict=True):
            self.full[first:last] += block.size
        self.failed = np.ones(len(times) - 1)

    def run(self) -> Layout:
        """The best layout when it is low enough, proven, or the bounds are reached.

        Half-way capacities come first, and are easy at first; once one failed, capacities that
        would be low enough take turns with them. A capacity that is proven too small raises what
        is low enough.
        """
        low, tries, easy = max(self.bounds.enough, live(self.blocks)), 0, True
        while self.best.height > low and not self.bounds.spent:
            middle = (low + self.best.height) // 2
            capacity = middle if easy or tries % 4 == 3 else low
            capacity -= capacity % self.alignment
            tried = self.attempt(capacity, TRY * luby(tries + 1), tries)
            easy = easy and isinstance(tried, Layout)
            if isinstance(tried, Layout):
                self.best = tried
            elif tried:
                low = capacity + self.alignment
            tries += 1
        return self.best

    def attempt(self, capacity: int, steps: int, tries: int) -> Layout | bool:
        """A layout within the capacity, or whether it is proven that there is none."""
        order = self.order(tries)
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
            return True
        found = dict(zip(order, offsets, strict=True))
        return Layout(self.blocks, tuple([found[i] for i in range(len(order))]))

    def order(self, tries: int) -> list[int]:
        """Blocks by a score: those first that are alive when memory is fullest, or when searches
        failed; that live long; that are large. How much each counts is drawn anew every time."""
        draw = self.random.random
        length, size, full, failed = draw() * 1.5, draw() * 1.5, draw() * 8, draw() * 2
        noise = self.random.choice((0.0, 0.1, 0.3, 1.0)) if tries else 0.0

        def score(i: int) -> float:
            first, last = self.spans[i]
            return (
                length * log(self.blocks[i].last - self.blocks[i].first)
                + size * log(self.blocks[i].size)
                + full * log(self.full[first:last].max())
                + failed * log(self.failed[first:last].max())
                + noise * self.random.gauss(0, 1)
            )

        scores = [score(i) for i in range(len(self.blocks))]
        return sorted(range(len(scores)), key=lambda i: -scores[i])


def luby(i: int) -> int:
    """The i-th of 1, 1, 2, 1, 1, 2, 4, ...: the best lengths of tries that start again, up to a
    constant, where nothing is known of how long they take (Luby, Sinclair, Zuckerman 1993)."""
    while (i + 1) & i:
        i -= (1 << (i.bit_length() - 1)) - 1
    return (i + 1) // 2
