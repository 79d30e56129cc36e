"""What a replayed call costs the host beside its kernels: microseconds, part by part.

python benchmarks/host_cost.py benchmarks/results/host_cost.json

The plan is a real one; its main program is replaced by one that takes the same inputs and returns
at once, so that `call` is everything else: arguments, guards, looking for changed weights.
`after an attribute was set` is the call that compares all attributes again. A loop of a thousand
additions in Python is measured beside it, because machines differ by a factor of five.
"""

import json
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench import machine
from lazytorch.frontend import trees
from lazytorch.frontend.epoch import Epoch
from lazytorch.guards import signature

BATCH = 20
REPEATS = 40


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
    fast(*args, **kwargs)
    ((key, (plan,)),) = fast.plans.items()
    stage, watch = plan.stage, plan.watch
    state = stage.state
    outputs = stage.run(trees.flatten((args, kwargs))[0], ())
    leaves, spec = trees.flatten((args, kwargs))
    stage.replay = lambda *inputs: outputs
    tensors = [x for _, x in state.tensors]
    return {
        "tensors": len(tensors),
        "read by the prologue": len(state.read),
        "arguments: flatten": best(lambda: trees.flatten((args, kwargs))),
        "arguments: signature": best(lambda: signature(leaves, spec)),
        "arguments: plan": best(lambda: fast.plans.get(key)),
        "guards": best(lambda: plan.holds(leaves)),
        "guards: submodules": best(
            lambda: (
                watch.trees == watch.copies
                and watch.order == list(chain.from_iterable(watch.trees))
            )
        ),
        "guards: no hooks": best(lambda: any(watch.empties)),
        "guards: closures, globals, containers, objects": best(watch.others.same),
        "weights: same tensors, same types": best(state.moved),
        "weights: inputs": best(lambda: state.inputs(leaves, ())),
        "weights: addresses and versions": best(state.changed),
        "call": best(lambda: fast(*args, **kwargs)),
        "call after an attribute was set": best(lambda: set_and(lambda: fast(*args, **kwargs))),
    }


def counting() -> int:
    """A thousand additions."""
    total = 0
    for i in range(1000):
        total += i
    return total


def main(file: Path) -> None:
    """Measure and write."""
    torch.set_grad_enabled(False)
    found: dict[str, Any] = {
        "machine": machine(torch.device("cpu")),
        "a thousand additions, us": best(counting),
    }
    found |= {name: parts(name) for name in ("resnet50", "bert")}
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
