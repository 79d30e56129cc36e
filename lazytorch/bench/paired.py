"""How many times as fast one side is as another, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lazytorch.bench.measure import Timing

DRAWS = 4000
OUTSIDE = 2.5
"""Per cent of the draws on either side of the interval."""


@dataclass(frozen=True)
class Ratio:
    """The median over rounds of the other's time by ours, and its 95 % interval."""

    median: float
    low: float
    high: float


def ratio(ours: Timing, other: Timing) -> Ratio:
    """Compare two sides of one interleaved run, round by round.

    A round's samples were taken one after the other, so the machine's drift is in both. The
    interval is the bootstrap's: rounds are drawn with repetition, and the medians of such draws lie
    in it 95 times of 100. The draws are the same at every call.
    """
    rounds = np.array(other.samples) / np.array(ours.samples)
    drawn = np.random.default_rng(0).integers(0, len(rounds), (DRAWS, len(rounds)))
    medians = np.median(rounds[drawn], axis=1)
    low, high = np.percentile(medians, [OUTSIDE, 100 - OUTSIDE])
    return Ratio(float(np.median(rounds)), float(low), float(high))
