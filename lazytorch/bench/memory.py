"""How much memory a way of running a model needs, beside the model's own weights and inputs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MARK = "lazytorch:"
"""Begins the names of spans that are marked for `profiled`."""


def held(device: torch.device) -> int:
    """Bytes of all tensors that are alive: what the allocator says, on the CPU what Python reaches.

    What CUDA graphs set aside for their replays counts too. Two readings around a compilation tell
    how many copies of weights it keeps.
    """
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) + set_aside(device)
    storages: dict[int, int] = {}
    for x in gc.get_objects():
        if type(x) not in (torch.Tensor, torch.nn.Parameter) or x.device.type != "cpu":
            continue
        if x.layout is torch.strided:
            storage = x.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        else:  # packed by a library, which keeps to itself how much that takes
            storages[~id(x)] = x.numel() * x.itemsize
    return sum(storages.values())


def set_aside(device: torch.device) -> int:
    """Bytes in the memory pools of CUDA graphs that no tensor holds between replays."""
    torch.cuda.synchronize(device)
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in torch.cuda.memory_snapshot()
        if segment["device"] == (device.index or 0) and tuple(segment["segment_pool_id"]) != (0, 0)
    )


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


@contextmanager
def profiled() -> Generator[Profiled]:
    """Around what runs on the CPU; filled in behind it."""
    found = Profiled()
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
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


def nbytes(results: list[torch.Tensor]) -> int:
    """Bytes of some results, memory that they share counted once."""
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in results}
    return sum(storages.values())
