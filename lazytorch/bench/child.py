"""The fresh process that `start` runs: builds a model, times its first calls, prints JSON."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

import torch

from lazytorch.accuracy import accuracy, tf32_on
from lazytorch.bench.case import tensors
from lazytorch.bench.measure import wait_for
from lazytorch.bench.memory import held, nbytes, peak
from lazytorch.bench.sides import make_side
from lazytorch.bench.start import Start, unpack


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
    side.speed_up()
    wait_for(case.device)
    full = time.perf_counter() - began
    kept = held(case.device) - before - nbytes(results)
    memory = kept + peak(side.call, case.device)
    eager, exact = tensors(model()), tensors(model.in_float64()())
    judged = accuracy(results, eager, exact, tf32_on(case.device))
    return Start(first, full, judged.fault, memory)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(run(sys.argv[1]))) + "\n")
