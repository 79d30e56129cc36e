"""From nothing to a hundred training steps, each side in a fresh process with empty caches.

    python benchmarks/training_start.py FOLDER [resnet18 gpt_small ...]

Models and optimizers are those of benchmarks/training.py. The clock starts when the model is built
and everything is imported, and stops after the last step: compiling is in it. One JSON a model.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from training import AMP, MODELS, USUAL, loss_of, ordinary

import lazytorch as lt
from lazytorch.bench import best_device, machine

SIDES = ("lazytorch", "eager", "torch.compile")
STEPS = 100


def child(name: str, side: str) -> None:
    """Print the seconds to the first step and to the last one."""
    device = best_device()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    model, (x, y) = MODELS[name]()
    model, batch = model.to(device), (x.to(device), y.to(device))
    began = time.perf_counter()
    if side == "lazytorch":
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
        whole = lt.train_step(model, loss_of, optimizer, amp=AMP.get(device.type))
        step = partial(whole, *batch)
    else:
        run = torch.compile(model) if side == "torch.compile" else model
        step = ordinary(model, run, batch)
    at = [0.0, 0.0]
    for i in range(STEPS):
        loss = float(step())
        at[min(i, 1)] = time.perf_counter() - began
    print(json.dumps({"first_s": at[0], "all_s": at[1], "loss": loss}))


def fresh(name: str, side: str) -> dict[str, float]:
    """One side in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        caches = {"LAZYTORCH_CACHE": folder, "TORCHINDUCTOR_CACHE_DIR": folder}
        done = subprocess.run(
            [sys.executable, __file__, "--child", name, side],
            env={**os.environ, **caches},
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def main(folder: str, *names: str) -> None:
    device = best_device()
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or USUAL[device.type]:
        found = {side: fresh(name, side) for side in SIDES}
        file = Path(folder) / f"{device.type}_training_start_{name}.json"
        text = {"model": name, "steps": STEPS, "sides": found, "machine": machine(device)}
        file.write_text(json.dumps(text, indent=2) + "\n")
        print(name, found, flush=True)


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1] == "--child" else main(*sys.argv[1:])
