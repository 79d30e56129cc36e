"""How compiling grows with a model: milliseconds for each recorded node, kernels, pass by pass.

python benchmarks/growth.py growth.json [blocks ...]

An encoder of so many identical, narrow transformer blocks is compiled with empty caches of plans,
and every kernel in use at the end; C++ or Triton code is compiled once for each kernel, so kernels
are warmed up with a small model first, and what is left is what grows. `per added node` is the
difference between the largest and the smallest model.
"""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import lazytorch as lt
from lazytorch.bench import best_device, machine

WIDTH, HEADS = 64, 4
BLOCKS = (20, 50, 100, 200)
REPEATS = 3


class Block(nn.Module):
    """Attention and a gated multilayer perceptron, each behind a norm and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.gate, self.up = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        heads = (f(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in self.reads())
        y = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = x + self.scale * self.out(y)
        y = self.norm2(x)
        return x + self.scale * self.down(F.silu(self.gate(y)) * self.up(y))

    def reads(self) -> tuple[nn.Module, ...]:
        return self.query, self.key, self.value


def encoder(blocks: int, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(blocks))).eval().to(device)


def compiled(blocks: int, device: torch.device) -> dict[str, Any]:
    """One compilation: seconds in all and by pass, nodes recorded, kernels generated."""
    module = encoder(blocks, device)
    x = torch.randn(2, 16, WIDTH, device=device)
    fast = lt.compile(module, wait=True)
    began = time.perf_counter()
    fast(x)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    fast(x)
    call = time.perf_counter() - began
    steps: dict[str, float] = defaultdict(float)
    for name, spent, _, _ in fast.stages:
        steps[name] += 1e3 * spent
    (stage,) = fast.programs()
    steps["the rest (the first call too)"] = 1e3 * seconds - sum(steps.values())
    return {
        "ms": 1e3 * seconds,
        "second call, ms": 1e3 * call,
        "nodes": len(stage.piece.graph),
        "kernels": len({**stage.prologue.kernels(), **stage.main.kernels()}),
        "steps, ms": dict(steps),
    }


def measured(blocks: int, device: torch.device) -> dict[str, Any]:
    """Medians of some compilations."""
    runs = [compiled(blocks, device) for _ in range(REPEATS)]
    steps = {name: median(run["steps, ms"][name] for run in runs) for name in runs[0]["steps, ms"]}
    found = {name: median(run[name] for run in runs) for name in runs[0] if name != "steps, ms"}
    nodes = found["nodes"]
    each = {name: 1e3 * ms / nodes for name, ms in steps.items()}
    return {**found, "ms a node": found["ms"] / nodes, "steps, us a node": each, "steps, ms": steps}


def added(small: dict[str, Any], large: dict[str, Any]) -> dict[str, Any]:
    """What a node more costs."""
    nodes = large["nodes"] - small["nodes"]
    steps = {
        name: 1e3 * (ms - small["steps, ms"][name]) / nodes
        for name, ms in large["steps, ms"].items()
    }
    return {
        "ms a node": (large["ms"] - small["ms"]) / nodes,
        "kernels": large["kernels"] - small["kernels"],
        "steps, us a node": dict(sorted(steps.items(), key=lambda step: -step[1])),
    }


def main(file: Path, blocks: tuple[int, ...]) -> None:
    """Measure and write."""
    torch.set_grad_enabled(False)
    device = best_device()
    compiled(2, device)
    found = {str(n): measured(n, device) for n in blocks}
    small, large = found[str(min(blocks))], found[str(max(blocks))]
    result = {"machine": machine(device), "blocks": found, "per added node": added(small, large)}
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result["per added node"], indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(map(int, sys.argv[2:])) or BLOCKS)
