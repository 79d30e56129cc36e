"""How fast kernels move bytes: functions over large tensors, against a copy of as many bytes.

Bytes are counted as if each input was read once and each result written once. A copy of half as
many, which are read and written, says what the memory gives. On a GPU its caches are overwritten
before each call, and its own clock is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from lazytorch.accuracy import Accuracy, accuracy
from lazytorch.bench.case import converted
from lazytorch.bench.compare import reason
from lazytorch.bench.kernels import DROPPED, Kernel, Tensors
from lazytorch.bench.measure import Call, Timing, interleaved
from lazytorch.compile import compile

MIB = 2**20
GPU_SIZES = (256 * MIB, 1024 * MIB)
CPU_SIZES = (1 * MIB, 16 * MIB, 256 * MIB)
DTYPES = (torch.float32, torch.bfloat16)

FLUSHED = 1024 * MIB
"""Bytes written before a call on a GPU: more than its caches hold, and long enough for the host to
have launched everything by the time that they are there."""

WARM_UP = 4


@dataclass(frozen=True)
class Speed:
    """One kernel at one size: bytes, a timing for each side, errors, and what failed and why."""

    nbytes: int
    timings: dict[str, Timing]
    judged: dict[str, Accuracy]
    failed: dict[str, str]

    def rate(self, name: str) -> float:
        """Gigabytes for each second."""
        return self.nbytes / self.timings[name].median / 1e9

    def share(self, name: str) -> float:
        """The speed by the copy's."""
        return self.timings["copy"].median / self.timings[name].median

    @property
    def right(self) -> bool:
        """Whether lazytorch's result is."""
        return "lazytorch" in self.judged and self.judged["lazytorch"].right


@torch.no_grad()
def speed(
    kernel: Kernel, dtype: torch.dtype, size: int, device: torch.device, repeats: int = 30
) -> Speed:
    """Measure eager, torch.compile, lazytorch and a copy, interleaved, on about `size` bytes."""
    if "torch._dynamo" in sys.modules:  # which would make a program of any size of a second one
        torch._dynamo.reset()
    torch.manual_seed(0)
    with device:
        made = kernel.inputs(size // dtype.itemsize)
    inputs: Tensors = converted(made, dtype, device)
    del made
    eager = seeded(kernel.run, inputs)
    exact = in_float64(kernel, inputs)
    nbytes = sum(x.nbytes for x in inputs) + eager.nbytes
    ways: dict[str, Callable[[], Callable[..., torch.Tensor]]] = {
        "eager": lambda: kernel.run,
        "inductor": lambda: torch.compile(kernel.run, dynamic=False),
        "lazytorch": lambda: compile(kernel.run, wait=True),
    }
    calls: dict[str, Call] = {}
    judged: dict[str, Accuracy] = {}
    failed: dict[str, str] = {}
    for name, way in ways.items():
        try:
            fast = way()
            found = [seeded(fast, inputs) for _ in range(WARM_UP)][-1]
        except Exception as error:  # whatever a compiler raises is a result about that compiler
            if name == "eager":
                raise
            failed[name] = reason(error)
            continue
        if kernel.exact is None or name != "inductor":  # which draws random numbers of its own
            judged[name] = accuracy([found], [eager], [exact])
        calls[name] = partial(fast, *inputs)
        del found
    del eager, exact
    source = torch.ones(nbytes // 8, device=device)  # what was never written is not in memory
    calls["copy"] = source.clone
    if device.type == "cuda":
        timings = on_gpu(calls, device, repeats)
    else:
        timings = interleaved(calls, device, repeats)
    return Speed(nbytes, timings, judged, failed)


def seeded(run: Callable[..., torch.Tensor], inputs: Tensors) -> torch.Tensor:
    """A result with the same random numbers each time; a copy, as CUDA graphs reuse memory."""
    torch.manual_seed(1)
    return run(*inputs).clone()


def in_float64(kernel: Kernel, inputs: Tensors) -> torch.Tensor:
    """The result in float64, with the elements dropped that eager drops in the inputs' type."""
    wide: Tensors = converted(inputs, torch.float64, None)
    if kernel.exact is None:
        return kernel.run(*wide)
    kept = seeded(lambda x: F.dropout(torch.ones_like(x), DROPPED, training=True), inputs[:1])
    return kernel.exact(*wide, kept)


def on_gpu(calls: Mapping[str, Call], device: torch.device, repeats: int) -> dict[str, Timing]:
    """As `interleaved`, with empty caches before each call and the time that the GPU takes."""
    flush = torch.empty(FLUSHED, dtype=torch.uint8, device=device)
    order = list(calls)
    samples: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(repeats):
        for name in order:
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            began.record()
            calls[name]()
            ended.record()
            torch.cuda.synchronize(device)
            samples[name].append(began.elapsed_time(ended) / 1e3)
        order.append(order.pop(0))
    return {name: Timing(tuple(found)) for name, found in samples.items()}
