"""A training step under ten budgets: bytes that were allowed, planned and measured, and time.

    python benchmarks/budgets.py OUT.json [--device cuda] [--minutes 5] MODEL ...

Models are `small_gpt` and those of the zoo (`gpt2`, `resnet50`) or of torchvision by name; the loss
is the mean square of what they return, the optimizer AdamW. Budgets lie evenly between the smallest
that can be met, which a refusal names, and what the step takes unbounded. Measured is a step's
highest: on a GPU the allocator's own count, on the CPU what is held and the profiler's allocations.
The JSON is written after each budget and a later run goes on; OUT.svg is drawn if matplotlib is
there.
"""

import argparse
import gc
import json
import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from memory import built
from small_gpt import SmallGpt

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench.case import MeanSquare
from lazytorch.bench.machine import machine, parse_device
from lazytorch.frontend import trees
from lazytorch.runtime.allocations import peak

BUDGETS = 10
WARM = 3
TIMED = 15


def case(name: str, batch: int, device: torch.device) -> tuple[torch.nn.Module, Any, Any]:
    """A model whose call is its loss, with a call's arguments."""
    torch.manual_seed(0)
    if name == "small_gpt":
        with torch.device(device):
            model = SmallGpt(512, 128, 128, 4, 4, 0.1)
            return MeanSquare(model), (torch.randint(512, (batch, 128)),), {}
    model, args, kwargs = built(name, batch, str(device), True)
    return MeanSquare(model), args, kwargs


def one(name: str, batch: int, device: torch.device, budget: float) -> dict[str, Any]:
    """A step's bytes and milliseconds within a budget; BudgetError where it cannot be met."""
    model, args, kwargs = case(name, batch, device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    step = lt.train_step(model, None, optimizer, max_bytes=budget)
    began = time.perf_counter()
    losses: list[float] = []
    peaks: list[int] = []
    for _ in range(WARM):
        before = held(device, model, optimizer, args, kwargs)
        peaks.append(before + peak(lambda: losses.append(float(step(*args, **kwargs))), device))
    ready = time.perf_counter() - began
    times: list[float] = []
    for _ in range(TIMED):
        began = time.perf_counter()
        losses.append(float(step(*args, **kwargs)))  # which waits for the device
        times.append(1e3 * (time.perf_counter() - began))
    (stage,) = step.compiled.programs()
    return {
        "budget": int(budget), "measured": max(peaks), "first": peaks[0],
        "ms": statistics.median(times), "fastest_ms": min(times), "seconds_to_ready": ready,
        "lines": len(stage.main.lines), "losses": losses[:WARM],
    }  # fmt: skip


def held(
    device: torch.device, model: torch.nn.Module, optimizer: torch.optim.Optimizer, *given: Any
) -> int:
    """What is there before a step."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    states: list[Any] = list(optimizer.state.values())
    made = [x for state in states for x in state.values() if isinstance(x, torch.Tensor)]
    leaves = [x for x in trees.flatten(given)[0] if isinstance(x, torch.Tensor)]
    every = [*model.parameters(), *model.buffers(), *made, *leaves]
    return sum(x.nbytes for x in every)


def sweep(
    name: str, batch: int, device: torch.device, found: dict[str, Any], until: float, save: Any
) -> None:
    """The budgets of one model that were not measured yet."""
    rows: list[dict[str, Any]] = found.setdefault("rows", [])
    if "smallest" not in found:
        try:
            one(name, batch, device, 1e5)
        except lt.BudgetError as error:
            found |= {"smallest": error.smallest, "refusal": str(error)}
        free = one(name, batch, device, 1e15)
        rows.append({**free, "budget": None})
        found["largest"] = free["measured"]
        save()
    low, high = found["smallest"], max(found["largest"], found["smallest"])
    for k in range(BUDGETS):
        budget = int(low + (high - low) * k / (BUDGETS - 1))
        if any(row["budget"] == budget for row in rows) or time.monotonic() > until:
            continue
        lt.reset()
        gc.collect()
        rows.append(one(name, batch, device, budget))
        print(name, rows[-1], flush=True)
        save()
    bounded = [row for row in rows if row["budget"] is not None]
    found["never_exceeded"] = all(row["measured"] <= row["budget"] for row in bounded)


def draw(out: Path, results: dict[str, Any]) -> None:
    """Time against bytes, a curve a model."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), squeeze=False, figsize=(5 * len(results), 4))
    for (name, found), ax in zip(results.items(), axes[0], strict=True):
        rows = sorted(found["rows"], key=lambda row: row["measured"])
        ax.plot([r["measured"] / 2**20 for r in rows], [r["ms"] for r in rows], "o-")
        ax.set(title=name, xlabel="MiB at the peak, measured", ylabel="ms a step")
    figure.tight_layout()
    figure.savefig(out)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("out", type=Path)
    asked.add_argument("models", nargs="+")
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--batch", type=int, default=8)
    asked.add_argument("--minutes", type=float, default=5, help="for each model")
    given = asked.parse_intermixed_args()
    zoo._ready_for_torchvision()
    device = parse_device(given.device)
    every: dict[str, Any] = {"machine": machine(device), "batch": given.batch, "models": {}}
    if given.out.exists():
        every = json.loads(given.out.read_text(encoding="utf-8"))

    def save() -> None:
        given.out.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")

    for name in given.models:
        until = time.monotonic() + 60 * given.minutes
        found = every["models"].setdefault(name, {})
        sweep(name, every["batch"], device, found, until, save)
        save()
    with suppress(ImportError):
        draw(given.out.with_suffix(".svg"), every["models"])


if __name__ == "__main__":
    main()
