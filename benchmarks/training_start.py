"""From nothing to a hundred training steps, each side in a fresh process with empty caches.

    python benchmarks/training_start.py FOLDER [resnet18 gpt_small ...] [--sides SIDE ...]

Models and optimizers are those of benchmarks/training.py. The clock starts when the model is built
and everything is imported: compiling is in it. `first_s` is when the first step is done, `all_s`
when a hundred are, `full_s` when steps first take within 5 % of what they take in the end, which is
measured after as many steps more as it takes until nothing is compiled any more. One JSON a model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from training import AMP, MODELS, USUAL, loss_of, ordinary

import lazytorch as lt
from lazytorch.bench import best_device, machine

SIDES = ("eager", "lazytorch", "torch.compile")
"""In the order in which they run: eager's reads torch's files into memory, for all of them."""
STEPS = 100
WINDOW = 5
"""Steps whose median is a speed."""


def child(name: str, side: str) -> None:
    """Print the seconds to the first step, to full speed and to the last step."""
    device = best_device()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    model, (x, y) = MODELS[name]()
    model, batch = model.to(device), (x.to(device), y.to(device))
    began = time.perf_counter()
    settled: Callable[[], Any] = int  # nothing to wait for
    if side == "lazytorch":
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
        whole = lt.train_step(model, loss_of, optimizer, amp=AMP.get(device.type))
        step, settled = partial(whole, *batch), whole.wait
    else:
        run = torch.compile(model) if side == "torch.compile" else model
        step = ordinary(model, run, batch)
    at = [0.0]
    loss = 0.0
    for _ in range(STEPS):
        loss = float(step())
        at.append(time.perf_counter() - began)
    settled()
    for _ in range(4 * WINDOW):
        float(step())
        at.append(time.perf_counter() - began)
    took = [after - before for before, after in pairwise(at)]
    final = median(took[-2 * WINDOW :])
    speeds = [median(took[i : i + WINDOW]) for i in range(len(took) - WINDOW + 1)]
    full = next((at[i + 1] for i, x in enumerate(speeds) if x <= 1.05 * final), at[-1])
    found = {"first_s": at[1], "full_s": full, "all_s": at[STEPS], "step_s": final, "loss": loss}
    print(json.dumps(found))


def fresh(name: str, side: str) -> dict[str, float]:
    """One side in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        names = ("LAZYTORCH_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
        caches = dict.fromkeys(names, folder)
        done = subprocess.run(
            [sys.executable, __file__, "--child", name, side],
            env={**os.environ, **caches},
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="From nothing to a hundred training steps")
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    asked = parser.parse_args()
    device = best_device()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.models or USUAL[device.type]:
        found = {side: fresh(name, side) for side in asked.sides}
        file = asked.folder / f"{device.type}_training_start_{name}.json"
        text = {"model": name, "steps": STEPS, "sides": found, "machine": machine(device)}
        file.write_text(json.dumps(text, indent=2) + "\n")
        print(name, found, flush=True)


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1] == "--child" else main()
