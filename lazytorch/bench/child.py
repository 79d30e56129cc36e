"""The fresh process that `start` runs: builds a model, times its first calls, prints JSON."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

import torch

from lazytorch.accuracy import accuracy, tf32_on
from lazytorch.bench.case import tensors
from lazytorch.bench.measure import timed, wait_for
from lazytorch.bench.memory import held, nbytes
from lazytorch.bench.side import Side
from lazytorch.bench.sides import make_side
from lazytorch.bench.start import Start, unpack
from lazytorch.runtime.allocations import peak

FINAL = 15
"""Calls at full speed that say what full speed is."""

AROUND = 5
"""Calls whose median is the speed at that time: one alone may be slow by chance."""

NEAR = 1.05


@torch.no_grad()
def run(packed: str) -> Start:
    """Time the first calls of a packed case and side, then judge the first result."""
    case, name = unpack(packed)
    model = case.build()
    wait_for(case.device)
    before = held(case.device)
    began = time.perf_counter()
    side = make_side(name, model)
    results = side.first_call()
    wait_for(case.device)
    first = time.perf_counter() - began
    with side.compiling():
        calls = called_until_settled(side, case.device, began)
    side.speed_up()
    wait_for(case.device)
    full = time.perf_counter() - began
    calls += [one_call(side, case.device, began) for _ in range(FINAL)]
    kept = held(case.device) - before - nbytes(results)
    memory = None if side.foreign else kept + peak(side.call, case.device)
    eager, exact = tensors(model()), tensors(model.in_float64()())
    judged = accuracy(results, eager, exact, tf32_on(case.device))
    return Start(first, full, max(first, near(calls)), judged.fault, memory)


def called_until_settled(
    side: Side, device: torch.device, began: float
) -> list[tuple[float, float]]:
    """Calls while something is under way in the background: when each ended, how long it took."""
    thread = threading.Thread(target=side.settle)
    thread.start()
    calls: list[tuple[float, float]] = []
    while thread.is_alive():
        calls.append(one_call(side, device, began))
    thread.join()
    return calls


def one_call(side: Side, device: torch.device, began: float) -> tuple[float, float]:
    """When one call ended, and how long it took."""
    seconds = timed(side.call, device)
    return time.perf_counter() - began, seconds


def near(calls: Sequence[tuple[float, float]]) -> float:
    """The end of the first call that is near the final speed, alone and with those after it."""
    limit = NEAR * median(seconds for _, seconds in calls[-FINAL:])
    for i, (ended, seconds) in enumerate(calls):
        if seconds <= limit and median(x for _, x in calls[i : i + AROUND]) <= limit:
            return ended
    return calls[-1][0]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(run(sys.argv[1]))) + "\n")
