"""Times ways to compute the same against each other, in turns, on the device that they run on.

On a GPU a few calls of each way are captured as a CUDA graph, and its replays are timed by events:
that is the device's own time, as in the program's graph, without what Python adds to a launch.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from lazytorch.runtime.pool import capture, pool_of

Call = Callable[[], object]
Sample = Callable[[], float]
"""Takes one sample: seconds for one call."""

ROUNDS = (15, 5)
"""Samples of each way; and at the least, where they take longer than `ENOUGH`."""

ENOUGH = 0.25
"""Seconds that the samples of one call site take."""

SHORTEST = 2e-4
"""Seconds that one sample on the CPU takes at least: shorter calls are repeated within it."""

CAPTURED = (20, 2e-3)
"""Calls in one CUDA graph at most, and about the seconds that they take where calls are long."""


def measure(ways: Mapping[str, Call], device: torch.device) -> dict[str, float]:
    """Seconds that a call of each way takes, the median of samples in turns; infinitely many of a
    way on a GPU that cannot be captured, since it would keep the program from being captured.

    Whoever calls this has run each once before. Results are dropped.
    """
    if device.type != "cuda":
        return medians({name: on_cpu(way) for name, way in ways.items()})
    with torch.cuda.device(device):
        pool = pool_of(device)
        with pool.lock:
            pool.enter()
            pool.prepare()
            return medians({name: on_gpu(way, device) for name, way in ways.items()})


def medians(samples: Mapping[str, Sample]) -> dict[str, float]:
    """The middle one of each way's samples, taken in rounds whose order turns."""
    found: dict[str, list[float]] = {name: [] for name in samples}
    order = list(samples)
    began = time.perf_counter()
    for done in range(ROUNDS[0]):
        if done >= ROUNDS[1] and time.perf_counter() - began > ENOUGH:
            break
        for name in order:
            found[name].append(samples[name]())
        order.append(order.pop(0))
    return {name: statistics.median(times) for name, times in found.items()}


def on_cpu(way: Call) -> Sample:
    """Samples by the clock, of as many calls as it can tell apart."""

    def sample(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            way()
        return (time.perf_counter() - began) / count

    count = max(1, round(SHORTEST / max(min(sample(1), sample(1)), 1e-7)))
    return lambda: sample(count)


def on_gpu(way: Call, device: torch.device) -> Sample:
    """Samples by events around replays of a CUDA graph.

    The memory of all graphs' pool must be ours for as long as samples are taken.
    """
    once = min(between_events(way), between_events(way))
    most, seconds = CAPTURED
    count = max(1, min(most, round(seconds / max(once, 1e-6))))

    def calls() -> None:
        for _ in range(count):
            way()

    graph = torch.cuda.CUDAGraph()
    try:
        _, tables = capture(pool_of(device), graph, calls)
        graph.replay()
    except RuntimeError:
        return lambda: math.inf

    def sample(held: object = tables) -> float:
        return between_events(graph.replay) / count

    return sample


def between_events(call: Call) -> float:
    """Seconds between an event before and an event behind what a call launches."""
    before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    call()
    behind.record()
    behind.synchronize()
    return before.elapsed_time(behind) / 1e3
