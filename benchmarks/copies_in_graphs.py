"""What copies beside a CUDA graph's kernels cost the kernels, which `lazytorch.offload` leaves out.

    python benchmarks/copies_in_graphs.py FILE

A graph of many short kernels, one after the other, is replayed with no copy beside them, and with
one to sixteen: to the host's memory on one stream, begun where an early kernel has ended, back on
another, begun later, and waited for by a kernel that is later still, as a backward waits. One JSON:
microseconds of each graph, and how much later than without copies each kernel ran.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from lazytorch.bench.machine import machine

KERNELS = 400
"""Kernels of a graph."""

ELEMENTS = 1 << 16
"""Elements of each: a kernel of some microseconds."""

COPIES = (0, 1, 2, 4, 8, 16)
COPIED = 1 << 20
"""Bytes of a copy: it ends long before it is waited for."""

ROUNDS = 40


def captured(copies: int) -> torch.cuda.CUDAGraph:
    """A graph with so many copies beside its kernels."""
    x, graph = torch.zeros(ELEMENTS, device="cuda"), torch.cuda.CUDAGraph()
    there, back = torch.cuda.Stream(), torch.cuda.Stream()
    values = [torch.empty(COPIED, dtype=torch.uint8, device="cuda") for _ in range(copies)]
    away = [torch.empty(COPIED, dtype=torch.uint8, pin_memory=True) for _ in values]
    step = KERNELS // 3 // max(copies, 1)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        here = torch.cuda.current_stream()
        gone, came = ([torch.cuda.Event() for _ in values] for _ in range(2))
        for k in range(KERNELS):
            part, (i, rest) = k // (KERNELS // 3), divmod(k % (KERNELS // 3), step)
            x.add_(1.0)
            if rest or i >= copies:
                continue
            if part == 0:
                there.wait_stream(here)
                with torch.cuda.stream(there):
                    away[i].copy_(values[i], non_blocking=True)
                    gone[i].record(there)
            elif part == 1:
                back.wait_stream(here)
                gone[i].wait(back)
                with torch.cuda.stream(back):
                    values[i].copy_(away[i], non_blocking=True)
                    came[i].record(back)
            elif part == 2:
                came[i].wait(here)
        x.add_(1.0)
    return graph


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("file", type=Path)
    given = asked.parse_args()
    graphs = {n: captured(n) for n in COPIES}
    times: dict[int, list[float]] = {n: [] for n in COPIES}
    for _ in range(ROUNDS):
        for n, graph in graphs.items():
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            graph.replay()
            ended.record()
            torch.cuda.synchronize()
            times[n].append(1e3 * began.elapsed_time(ended))
    medians = {n: statistics.median(some) for n, some in times.items()}
    found: dict[str, Any] = {
        "kernels": KERNELS,
        "us": medians,
        "us_later_each": {n: (us - medians[0]) / KERNELS for n, us in medians.items() if n},
        "machine": machine(torch.device("cuda", 0)),
    }
    given.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
