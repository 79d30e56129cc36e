"""Training steps that compute cheap values again: their peaks and times, beside the steps without.

    python benchmarks/recompute.py FOLDER [--device cuda] [--batch 32] [--slower 0.02] [--offload]
        MODEL ...
    python benchmarks/recompute.py FOLDER --planned FOLDER MODEL ...

For each model the smallest `max_bytes` is looked for whose plan is estimated to take at most so
much longer than the plan without a bound, whose kernels take 1.4 times the roofline at least
(`lower/estimate.py`): plans alone, nothing runs; with `--offload` values may wait in the host's
memory, too, which the estimate takes for free; with `--planned` the budgets are those that a run
without the device wrote, and torch.compile's bytes, where that folder has them, what another run
measured. Then both steps are measured: the most bytes that one call allocates beyond what was
there, run directly without CUDA graphs, and milliseconds, the two in turns; and what a step of
eager's and of torch.compile's allocates. Several processes may run at the same time: a lock lets
one after the other take times. One JSON a model, those that are there are left.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from memory import Call, built, direct
from torch import nn

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench.case import MeanSquare
from lazytorch.bench.compare import reason
from lazytorch.bench.machine import machine, parse_device
from lazytorch.forecast import plan
from lazytorch.frontend import trees
from lazytorch.lower.estimate import SLOWER
from lazytorch.lower.memory_plan import MemoryPlan
from lazytorch.runtime.allocations import peak

PLANS = 5
"""Budgets that are planned for: the smallest is known to 2 % of a step's values then."""

LEAST = 0.4
"""The part of a step's values below which no budget is looked for."""

MARGIN = 16 * 2**20
"""Bytes by which a plan made on the device may need more: what its tensors' pieces leave idle. Of
small steps a `SHARE` of their values, by which little else would fit."""

SHARE = 1 / 64

WARM, TIMED = 6, 30

THEIRS = "torch_compile_peak_bytes"

PLANNED = (
    "budget", "planned", "planned_without", "estimated_slowdown", "offload", "host_bytes", THEIRS
)  # fmt: skip
"""What a plan says of a model, and what code of ours does not change."""


def smallest(name: str, batch: int, device: str, slower: float, offload: bool) -> dict[str, Any]:
    """The smallest budget whose estimate is at most so much above that without one; None where no
    plan that computes anything again is."""
    model, args, kwargs = built(name, batch, "meta", train=True)
    adam = torch.optim.AdamW

    def planned(budget: float | None) -> MemoryPlan:
        net = MeanSquare(model)
        sends = offload and budget is not None
        return plan(
            net, args, device=device, kwargs=kwargs, optimizer=adam, max_bytes=budget, offload=sends
        )

    free = planned(None)
    assert free.seconds is not None, "a device whose rates are known"
    low, high, best = LEAST, 1.0, free
    for _ in range(PLANS):
        part = (low + high) / 2
        try:
            found = planned(free.needed_bytes - (1 - part) * free.values)
        except lt.BudgetError:
            low = part
            continue
        if found.seconds is not None and found.seconds <= free.seconds * (1 + slower * SLOWER):
            high, best = part, found
        else:
            low = part
    margin = min(MARGIN, int(SHARE * free.values))
    return {
        "budget": None if best is free else best.needed_bytes + margin,
        "planned": best.values,
        "planned_without": free.values,
        "estimated_slowdown": (best.seconds or 0) / free.seconds,
        **({"offload": True, "host_bytes": best.host} if offload else {}),
    }


class Side:
    """A model with an optimizer, and its training step, with or without a budget."""

    def __init__(
        self, call: Call, device: torch.device, budget: int | None, offload: bool = False
    ) -> None:
        self.device = device
        self.model, self.args, self.kwargs = call
        net: nn.Module = MeanSquare(self.model)
        adam = torch.optim.AdamW(self.model.parameters(), 1e-6)
        first = lt.train_step(net, None, adam)  # it makes the optimizer's state, in more bytes
        first(*self.args, **self.kwargs)
        first.release()
        self.step = lt.train_step(net, None, adam, wait=True, max_bytes=budget, offload=offload)
        for _ in range(WARM):
            self.milliseconds()
        if self.step.refused:
            raise RuntimeError(f"eager's own: {self.step.refused}")

    def milliseconds(self) -> float:
        """The time of one step."""
        began = time.perf_counter()
        float(self.step(*self.args, **self.kwargs))  # which waits for the device
        return 1e3 * (time.perf_counter() - began)

    def highest(self) -> int:
        """The most bytes that a call allocates."""
        self.step.hold()
        leaves = trees.flatten(((self.step.settings(), self.args, self.kwargs), {}))[0]
        return peak(lambda: direct(self.step.compiled, leaves), self.device)

    def eager(self) -> int:
        """The most bytes that eager's own step allocates, after one that makes what stays."""
        self.step.eager(self.args, self.kwargs)
        return peak(lambda: self.step.eager(self.args, self.kwargs), self.device)


def torch_compile(call: Call, device: torch.device) -> int | str:
    """The most bytes that a step by torch.compile allocates, or why there is none."""
    model, args, kwargs = call
    adam = torch.optim.AdamW(model.parameters(), 1e-6)
    run = torch.compile(MeanSquare(model))

    def step() -> None:
        run(*args, **kwargs).backward()
        adam.step()
        adam.zero_grad()

    try:
        for _ in range(2):  # the optimizer's state is made, and what is made for it compiled
            step()
        return peak(step, device)
    except Exception as error:  # a peer's failure is a result
        return reason(error)


def measured(
    name: str, batch: int, device: torch.device, known: dict[str, Any], alone: FileLock
) -> dict[str, Any]:
    """Bytes and milliseconds of both steps."""
    call, again = (built(name, batch, str(device), train=True) for _ in range(2))
    sends = known.get("offload", False) and known["budget"] is not None
    sides = {
        "without": Side(call, device, None),
        "within": Side(again, device, known["budget"], sends),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    with alone:
        for _ in range(TIMED):
            for side, one in sides.items():
                times[side].append(one.milliseconds())
    found: dict[str, Any] = {
        "ms": {side: statistics.median(some) for side, some in times.items()},
        "slowdown": statistics.median(
            a / b for a, b in zip(times["within"], times["without"], strict=True)
        ),
        "peak_bytes": {side: one.highest() for side, one in sides.items()},
        "eager_peak_bytes": sides["without"].eager(),
    }
    del sides
    if THEIRS not in known:
        found[THEIRS] = torch_compile(built(name, batch, str(device), train=True), device)
    return known | found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("folder", type=Path)
    asked.add_argument("models", nargs="+")
    asked.add_argument("--device", default="cuda", help="cuda, or a name: plans alone")
    asked.add_argument("--planned", type=Path, help="where budgets were written before")
    asked.add_argument("--batch", type=int, default=32)
    asked.add_argument("--offload", action="store_true", help="values may wait with the host")
    asked.add_argument("--slower", type=float, default=0.02, help="part of the step's time")
    given = asked.parse_intermixed_args()
    zoo._ready_for_torchvision()
    here = given.device.startswith("cuda") and torch.cuda.is_available()
    device = parse_device(given.device if here else "cpu")
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in given.models:
        file = folder / f"{given.device}_{name}_b{given.batch}.json"
        if file.exists():
            continue
        if given.planned is None:
            found = smallest(name, given.batch, given.device, given.slower, given.offload)
        else:
            (before,) = given.planned.glob(f"*_{name}_b{given.batch}.json")
            found = {key: x for key, x in json.loads(before.read_text()).items() if key in PLANNED}
        if here:
            alone = FileLock(folder / "measuring.lock")
            found = measured(name, given.batch, device, found, alone)
        text = {"model": name, "batch": given.batch, **found, "machine": machine(device)}
        file.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
        print(name, found, flush=True)


if __name__ == "__main__":
    main()
