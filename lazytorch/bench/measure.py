"""Times callables against each other, interleaved, so that a machine's drift meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Call = Callable[[], object]

SHORTEST = 2e-3
"""Seconds that one sample takes at least: shorter calls are repeated within it."""


@dataclass(frozen=True)
class Pending:
    """The result of a call that runs outside torch: a sample ends when `wait` returns.

    `read` makes torch tensors of it.
    """

    read: Callable[[], list[torch.Tensor]]
    wait: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Timing:
    """Seconds for one call, sample by sample."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """What a quarter of the samples are below, and a quarter above."""
        if len(self.samples) == 1:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high


def interleaved(
    sides: Mapping[str, Call],
    device: torch.device,
    repeats: int = 30,
    progress: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Time each side `repeats` times, in rounds: in every round each side runs once.

    The order turns by one from round to round, so that no side always follows the same other one.
    A sample is several calls, and their mean, where one takes less than 2 ms. On a GPU a sample
    ends when the device is done. Whoever calls this has warmed the sides up. `progress` is called
    after each round.
    """
    calls = {name: calls_in_a_sample(call, device) for name, call in sides.items()}
    samples: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(repeats):
        for name in order:
            samples[name].append(timed(sides[name], device, calls[name]) / calls[name])
        order.append(order.pop(0))
        if progress is not None:
            progress()
    return {name: Timing(tuple(found)) for name, found in samples.items()}


def timed(call: Call, device: torch.device, calls: int = 1) -> float:
    """Seconds that `calls` calls in a row take, from an idle device to an idle device."""
    wait_for(device)
    started = time.perf_counter()
    result = None
    for _ in range(calls):
        result = call()
    if isinstance(result, Pending):
        result.wait()
    wait_for(device)
    return time.perf_counter() - started


def calls_in_a_sample(call: Call, device: torch.device) -> int:
    """How many calls fill a sample."""
    once = min(timed(call, device) for _ in range(3))
    return max(1, round(SHORTEST / max(once, 1e-7)))


def wait_for(device: torch.device) -> None:
    """Return when a GPU has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
