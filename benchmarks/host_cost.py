"""What a replayed call costs the host beside its kernels: microseconds, part by part.

python benchmarks/host_cost.py benchmarks/results/host_cost.json

The plan is a real one; its program is replaced by one that takes the same inputs and returns at
once, so that `call` is everything else: arguments, guards, looking for changed weights, the result.
`call after an attribute was set` compares all attributes again. A tiny MLP runs whole, beside
eager. A loop of a thousand additions in Python is measured too, because machines differ by a factor
of five.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench import machine
from lazytorch.bench.measure import interleaved
from lazytorch.fastpath import FastPath
from lazytorch.frontend import trees
from lazytorch.frontend.epoch import Epoch
from lazytorch.guards import signature

BATCH = 20
REPEATS = 50


def best(run: Callable[[], object]) -> float:
    """Microseconds of one run in the fastest of many short batches."""
    run()
    fastest = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(BATCH):
            run()
        fastest = min(fastest, time.perf_counter() - began)
    return round(1e6 * fastest / BATCH, 2)


def set_and(call: Callable[[], object]) -> object:
    """As after `model.eval()`: the counter of attributes has moved."""
    Epoch.now += 1
    return call()


def parts(name: str) -> dict[str, Any]:
    """One model's host cost."""
    module, args, kwargs = zoo.build(name)
    fast = lt.compile(module, wait=True)
    fast(*args, **kwargs)
    fast.wait()
    fast(*args, **kwargs)
    ((_, (plan,)),) = fast.plans.items()
    path, stage, state = fast.fast, plan.stage, plan.stage.state
    assert isinstance(path, FastPath)
    leaves, spec = trees.flatten((args, kwargs))
    outputs = stage.run(leaves, ())
    stage.replay = lambda *inputs: outputs
    return {
        "tensors": len(state.tensors),
        "read by the prologue": len(state.read),
        "arguments like the last ones, and guards": best(lambda: path.match(args, kwargs)),
        "of these, guards": best(plan.watch.same),
        "weights: same tensors, same types": best(state.moved),
        "weights: inputs": best(lambda: state.inputs(leaves, ())),
        "weights: addresses and versions": best(state.changed),
        "all but arguments and guards": best(lambda: path.run(leaves)),
        "call": best(lambda: fast(*args, **kwargs)),
        "other arguments: flatten": best(lambda: trees.flatten((args, kwargs))),
        "other arguments: signature": best(lambda: signature(leaves, spec)),
        "call with other arguments": best(lambda: fast.call(args, kwargs)),
        "call after an attribute was set": best(lambda: set_and(lambda: fast(*args, **kwargs))),
    }


def tiny() -> dict[str, Any]:
    """A two-layer MLP, whole calls: medians of interleaved runs in microseconds."""
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)).eval()
    x = torch.randn(1, 16)
    found: dict[str, Any] = {}
    for mode in ("no_grad", "enable_grad"):
        fast = lt.compile(net, wait=True)
        with getattr(torch, mode)():
            for _ in range(3):
                fast(x)
            sides = {"eager": lambda: net(x), "lazytorch": lambda fast=fast: fast(x)}
            times = interleaved(sides, torch.device("cpu"), 100)
        found[mode] = {side: round(1e6 * time.median, 2) for side, time in times.items()}
    return found


def counting() -> int:
    """A thousand additions."""
    total = 0
    for i in range(1000):
        total += i
    return total


def main(file: Path) -> None:
    """Measure and write."""
    found: dict[str, Any] = {
        "machine": machine(torch.device("cpu")),
        "a thousand additions, us": best(counting),
        "mlp, us": tiny(),
    }
    with torch.no_grad():
        found |= {name: parts(name) for name in ("resnet50", "bert")}
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
