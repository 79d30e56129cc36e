"""Measures what libraries take while they compute, for the table of this device that ships.

    python benchmarks/workspaces.py [--device cuda] [--minutes 9] [--batch 8] [MODEL ...]

Models of the zoo run line by line, in inference and one training step, in float32 and, for
inference, in 16 bits; each library call's bytes beside its results go into
lazytorch/lower/workspace_tables/DEVICE.json, where earlier runs' entries stay. `stays` is what is
allocated for good once libraries were called: the workspaces of cuBLAS and cuBLASLt.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench.case import MeanSquare
from lazytorch.bench.lines import walk
from lazytorch.bench.machine import parse_device
from lazytorch.compiled import Compiled
from lazytorch.frontend import trees
from lazytorch.lower.allocation import allocation
from lazytorch.lower.workspaces import FOLDER, call_key

KINDS = (("inference", "float32"), ("inference", "bfloat16"), ("train", "float32"))


def prepared(
    name: str, mode: str, dtype: torch.dtype, batch: int, device: torch.device
) -> tuple[Compiled, list[Any]]:
    """A model's compiled call or step, run once, and the leaves of its arguments."""
    model, args, kwargs = zoo.build(name, dtype, device, batch, mode == "train")
    if mode == "inference":
        compiled = lt.compile(model, wait=True)
        with torch.no_grad():
            compiled(*args, **kwargs)
        return compiled, trees.flatten((args, kwargs))[0]
    adam = torch.optim.AdamW(model.parameters(), 1e-6)
    step = lt.train_step(MeanSquare(model), None, adam, wait=True)
    for _ in range(2):
        step(*args, **kwargs)
    if step.refused:
        raise RuntimeError(f"eager's own: {step.refused}")
    step.hold()
    return step.compiled, trees.flatten(((step.settings(), args, kwargs), {}))[0]


def taken(compiled: Compiled, leaves: list[Any], device: torch.device) -> dict[str, int]:
    """Bytes by call."""
    (stage,) = compiled.programs()
    with torch.no_grad():
        inputs = [*stage.state.inputs(leaves, []), *stage.values]
        seen = walk(stage.main, inputs, device)
        return {
            call_key(x.line.node): x.scratch
            for x in seen
            if x.line.node is not None
            and x.line.does == "call"
            and not allocation(x.line.node, x.line.site).generated
        }


def staying(device: torch.device) -> int:
    """What cuBLAS and cuBLASLt allocate for good at a first product; asked before anything else
    runs."""
    if device.type != "cuda":
        return 0
    x = torch.ones(256, 256, dtype=torch.half, device=device)
    before = torch.cuda.memory_allocated(device)
    y = torch.addmm(x[0], x, x)
    torch.cuda.synchronize(device)
    return torch.cuda.memory_allocated(device) - before - y.untyped_storage().nbytes()


def opened(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """The table of a device by its name, and its file; a new one where there is none."""
    file = folder / f"{name.lower().replace(' ', '_')}.json"
    if file.exists():
        return file, json.loads(file.read_text(encoding="utf-8"))
    stays = staying(torch.device("cpu" if name == "cpu" else "cuda"))
    empty: dict[str, Any] = {"done": [], "calls": {}}
    return file, {"device": name, "torch": torch.__version__, "stays": stays, **empty}


def name_of(device: torch.device) -> str:
    """What a device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def written(file: Path, table: dict[str, Any]) -> None:
    """Put a table into its file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(table, indent=0) + "\n", encoding="utf-8")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("models", nargs="*")
    asked.add_argument("--device", default="cuda")
    asked.add_argument("--batch", type=int, default=8)
    asked.add_argument("--minutes", type=float, default=9)
    asked.add_argument("--folder", type=Path, default=FOLDER)
    given = asked.parse_intermixed_args()
    zoo._ready_for_torchvision()
    device, until = parse_device(given.device), time.monotonic() + 60 * given.minutes
    file, table = opened(given.folder, name_of(device))
    for model in given.models or zoo.models():
        for mode, dtype in KINDS:
            label = f"{model} {mode} {dtype} {given.batch}"
            if label in table["done"] or time.monotonic() > until:
                continue
            try:
                made = prepared(model, mode, getattr(torch, dtype), given.batch, device)
                table["calls"] |= taken(*made, device)
                print(label, len(table["calls"]), "calls", flush=True)
            except Exception as error:
                print(label, f"{type(error).__name__}: {str(error)[:200]}", flush=True)
            table["done"].append(label)
            lt.reset()
            written(file, table)


if __name__ == "__main__":
    main()
