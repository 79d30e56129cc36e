"""Orders in which a search for offsets tries blocks that could come next.

Which order finds a layout soon differs from one set of blocks to the next, and by factors of
thousands: three fixed ones come first, then one after another is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from lazytorch.offsets import Block

Numbers = NDArray[np.float64]


class Priorities:
    """Of blocks that have bytes: how long each is alive, how large it is, how full memory gets
    meanwhile. `spans` are the blocks' first and last numbers among the times that `full` counts
    the bytes of."""

    def __init__(
        self, blocks: Sequence[Block], spans: Sequence[tuple[int, int]], full: Numbers
    ) -> None:
        self.spans = spans
        self.length = np.array([x.last - x.first for x in blocks], dtype=np.float64)
        self.size = np.array([x.size for x in blocks], dtype=np.float64)
        self.full = self.most(full)
        self.random = random.Random(0)

    def most(self, counts: Numbers) -> Numbers:
        """For each block the largest of the counts at the times it is alive."""
        return np.array([counts[first:last].max() for first, last in self.spans])

    def fixed(self) -> Iterator[list[int]]:
        """Fullest, longest, largest in area first, each deciding what the one before leaves open,
        in the three sequences that M. D. Moffitt names best (MiniMalloc, ASPLOS 2023)."""
        full, length, area = self.full, self.length, self.length * self.size
        for keys in ((full, length, area), (full, area, length), (length, area, full)):
            yield np.lexsort([-key for key in reversed(keys)]).tolist()

    def drawn(self, failed: Numbers) -> list[int]:
        """By a score of length, size, fullness, and how often searches `failed` meanwhile. Weights
        are drawn over magnitudes: a heavy one decides alone, as in a fixed order."""
        draw = self.random
        score = exp(draw.gauss(0, 1)) * np.log(self.length)
        score += exp(draw.gauss(0, 1)) * np.log(self.size)
        score += exp(draw.uniform(0, log(1000))) * np.log(self.full)
        score += draw.choice((0, exp(draw.uniform(0, log(1000))) / 10)) * np.log(self.most(failed))
        score += draw.choice((0, 0.1, 0.3)) * np.array([draw.gauss(0, 1) for _ in self.spans])
        return np.argsort(-score, kind="stable").tolist()
