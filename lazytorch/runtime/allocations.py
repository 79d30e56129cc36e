"""What runs allocate, measured: at its highest, and what is left."""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MARK = "lazytorch:"
"""Begins the names of spans that are marked for `profiled`."""


def peak(call: Callable[[], object], device: torch.device) -> int:
    """Bytes that one call has allocated at its highest, beyond what was there before it."""
    return events(call, device)[0]


def events(call: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """The same, and how many more bytes are allocated when the call has returned.

    From the allocator's own count; on the CPU, from the allocations that torch's profiler sees.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        highest = torch.cuda.max_memory_allocated(device) - before
        return highest, torch.cuda.memory_allocated(device) - before
    with profiled() as found:
        call()
    now = highest = 0
    for _, nbytes in found.allocations:
        now += nbytes
        highest = max(highest, now)
    return highest, now


class Profiled:
    """What torch's profiler saw: allocations and frees by nanosecond, and marked spans by name."""

    def __init__(self) -> None:
        self.allocations: list[tuple[int, int]] = []
        self.spans: dict[str, tuple[int, int]] = {}

    def during(self, name: str) -> tuple[int, int]:
        """Bytes allocated in a span at its highest, and how many of them are left at its end."""
        begin, end = self.spans[name]
        now = highest = 0
        for at, nbytes in self.allocations[bisect_left(self.allocations, (begin,)) :]:
            if at > end:
                break
            now += nbytes
            highest = max(highest, now)
        return highest, now


@contextmanager
def profiled() -> Generator[Profiled]:
    """Around what runs on the CPU; filled in behind it."""
    found = Profiled()
    kinds = [ProfilerActivity.CPU]
    # With `acc_events` torch does not warn that a profile holds one cycle.
    with quiet(), profile(activities=kinds, profile_memory=True, acc_events=True) as profiler:
        yield found
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events: list[Any] = list(results.events())  # torch leaves some of their methods unannotated
    found.allocations = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    found.spans = {e.name(): (e.start_ns(), e.end_ns()) for e in events if MARK in e.name()}


@contextmanager
def quiet() -> Generator[None]:
    """Without the lines that torch's profiler writes to standard error past Python."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
