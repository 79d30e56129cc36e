"""Calls of mixed signatures, and compiling and releasing again and again: whether memory grows.

    python benchmarks/steady.py FILE [--device cuda] [--calls 1000] [--times 50] [--model resnet18]

First a compiled model is called with batches of changing sizes, for inference and for gradients,
and a training step with batches of two sizes. Then the model is compiled, called, released and
moved to the CPU and back, again and again. Written are the bytes that torch's allocator has given
out and those that it holds on a GPU, and the resident bytes of the process, at ten times of each.
"""

import argparse
import gc
import json
import resource
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench.case import MeanSquare
from lazytorch.bench.machine import machine, parse_device

SIZES = (1, 2, 3, 5)
SEEN = 10
"""How often memory is looked at."""


def held(device: torch.device) -> dict[str, int]:
    """Bytes of the process, and of a GPU's allocator."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    found = {"resident": pages * resource.getpagesize()}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        found["allocated"] = torch.cuda.memory_allocated(device)
        found["reserved"] = torch.cuda.memory_reserved(device)
    return found


def mixed(model: nn.Module, x: torch.Tensor, calls: int) -> list[dict[str, int]]:
    """Memory while a model is called and trained with batches of changing sizes."""
    net = MeanSquare(model)
    fast = lt.compile(model)
    step = lt.train_step(net, None, torch.optim.AdamW(model.parameters(), 1e-6))
    found: list[dict[str, int]] = []
    for k in range(calls):
        batch = x[: SIZES[k % len(SIZES)]]
        if k % 3 == 0:
            with torch.no_grad():
                fast(batch)
        elif k % 3 == 1:
            fast(batch).square().mean().backward()
            model.zero_grad()
        else:
            step(batch[:1] if k % 2 else batch[:2])
        if (k + 1) % max(calls // SEEN, 1) == 0:
            found.append({"calls": k + 1, **held(x.device)})
    fast.release()
    step.release()
    return found


def again(model: nn.Module, x: torch.Tensor, times: int) -> list[dict[str, int]]:
    """Memory while a model is compiled, released and moved."""
    found: list[dict[str, int]] = []
    for k in range(times):
        fast = lt.compile(model, wait=True)
        with torch.no_grad():
            for _ in range(3):
                fast(x)
        fast.release()
        del fast
        model.cpu()
        model.to(x.device)
        if (k + 1) % max(times // SEEN, 1) == 0:
            found.append({"times": k + 1, **held(x.device)})
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("file", type=Path)
    asked.add_argument("--device", default="cuda")
    asked.add_argument("--calls", type=int, default=1000)
    asked.add_argument("--times", type=int, default=50)
    asked.add_argument("--model", default="resnet18")
    given = asked.parse_args()
    device = parse_device(given.device)
    torch.manual_seed(0)
    model, (x,), _ = zoo.build(given.model, device=str(device), batch=max(SIZES), train=True)
    found: dict[str, Any] = {"model": given.model, "mixed": mixed(model, x, given.calls)}
    model.eval()
    found["again"] = again(model, x, given.times)
    found["machine"] = machine(device)
    given.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for part in ("mixed", "again"):
        for row in found[part]:
            print(part, *[f"{name} {number:,}" for name, number in row.items()])


if __name__ == "__main__":
    main()
