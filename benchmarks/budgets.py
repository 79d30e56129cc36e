"""A training step under ten budgets: bytes that were allowed, planned and measured, and time.

    python benchmarks/budgets.py FOLDER [--device cuda] [--minutes 3.3] [--offload] MODEL ...

The models and their batches are those of `training.py` (`gpt2`, `resnet50`; `gpt_small` and
`resnet18` for a CPU), the optimizer AdamW, on a GPU under bfloat16 autocast. Budgets lie evenly
between the smallest that can be met, which a refusal names, and what the step is planned to take
unbounded; the smallest comes first, since a CUDA graph's pool keeps what it once took. The first
step, which makes the optimizer's state, is eager's own. `measured` is a step's highest: on a GPU
the allocator's own count while the program runs directly and is captured, on the CPU what is held
and the profiler's allocations. `replayed` is the same of replays, with what lies idle in the pools
of CUDA graphs. With `--offload` values may wait in the host's memory. One JSON a model, written
after each budget; a later run goes on where one stopped.
FOLDER/budgets.svg is drawn of all that are there (`budget_curves.py`).
"""

import argparse
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from budget_curves import drawn
from torch import nn
from training import AMP, MODELS, Batch, loss_of

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench.machine import machine, parse_device
from lazytorch.forecast import plan
from lazytorch.lower.program import waiting
from lazytorch.runtime.allocations import peak
from lazytorch.runtime.setting import storages

BUDGETS = 10
WARM = 4
"""Steps before the time counts: kernels are built, and on a GPU captured."""

TIMED = 15


class Sweep:
    """A model and its optimizer, which take the same steps from the same values in each budget."""

    def __init__(
        self, model: nn.Module, batch: Batch, device: torch.device, offload: bool = False
    ) -> None:
        self.device = device
        self.offload = offload
        self.model = model.to(device).train()
        self.batch = tuple(x.to(device) for x in batch)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-5)
        self.amp = AMP.get(device.type)
        lt.train_step(self.model, loss_of, self.optimizer, amp=self.amp)(*self.batch)
        self.begin = [x.detach().cpu().clone() for x in self.tensors()]

    def tensors(self) -> list[torch.Tensor]:
        """What a step changes."""
        states: list[Any] = list(self.optimizer.state.values())
        made = [x for state in states for x in state.values() if isinstance(x, torch.Tensor)]
        return [*self.model.parameters(), *self.model.buffers(), *made]

    def restart(self) -> None:
        """As it was when the sweep began."""
        gc.collect()
        with torch.no_grad():
            for x, before in zip(self.tensors(), self.begin, strict=True):
                x.copy_(before)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def step(self, budget: float) -> lt.TrainStep:
        """A step within a budget."""
        return lt.train_step(
            self.model, loss_of, self.optimizer, amp=self.amp, wait=True,
            max_bytes=budget, offload=self.offload,
        )  # fmt: skip

    def smallest(self) -> int:
        """The smallest budget that can be met, as a refusal says."""
        try:
            self.step(1)(*self.batch)
        except lt.BudgetError as error:
            return error.smallest
        raise AssertionError("a step in one byte")

    def largest(self) -> int:
        """What the step is planned to need if nothing bounds it."""
        return plan(
            self.model, self.batch, loss_fn=loss_of, optimizer=self.optimizer, amp=self.amp
        ).needed_bytes

    def highest(self, call: Any) -> int:
        """The most bytes that are there during a call."""
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device)
        else:
            before = sum(storages((*self.tensors(), *self.batch)).values())
        return before + peak(call, self.device)

    def one(self, budget: int | None) -> dict[str, Any]:
        """A step's bytes and milliseconds within a budget, or without one."""
        self.restart()
        step = self.step(1e15 if budget is None else budget)
        losses: list[float] = []
        call = lambda: losses.append(float(step(*self.batch)))  # noqa: E731
        began = time.perf_counter()
        highest = [self.highest(call) for _ in range(WARM)]
        ready = time.perf_counter() - began
        replayed = self.highest(call) + idle(self.device)
        times: list[float] = []
        for _ in range(TIMED):
            began = time.perf_counter()
            call()  # which waits for the device
            times.append(1e3 * (time.perf_counter() - began))
        (stage,) = step.compiled.programs()
        host = sum(x.nbytes for x in waiting(stage.main))
        found = {
            "budget": budget, "measured": max(highest), "replayed": replayed,
            "ms": statistics.median(times), "fastest_ms": min(times), "seconds_to_ready": ready,
            "lines": len(stage.main.lines), "host": host, "losses": losses[:WARM],
        }  # fmt: skip
        step.release()
        return found


def idle(device: torch.device) -> int:
    """Bytes in the pools of CUDA graphs that the allocator does not count as taken."""
    if device.type != "cuda":
        return 0
    segments = torch.cuda.memory_snapshot()
    private = [x for x in segments if tuple(x["segment_pool_id"]) != (0, 0)]
    return sum(x["total_size"] - x["allocated_size"] for x in private)


def swept(sweep: Sweep, found: dict[str, Any], until: float, save: Any) -> None:
    """The budgets that were not measured yet, while there is time; the step without one comes
    last."""
    rows: list[dict[str, Any]] = found.setdefault("rows", [])
    if "largest" not in found:
        found |= {"smallest": sweep.smallest(), "largest": sweep.largest()}
    low, high = found["smallest"], max(found["largest"], found["smallest"])
    budgets = [int(low + (high - low) * k / (BUDGETS - 1)) for k in range(BUDGETS)]
    for budget in (*budgets, None):
        if any(row["budget"] == budget for row in rows) or time.monotonic() > until:
            continue
        rows.append(sweep.one(budget))
        bounded = [row for row in rows if row["budget"] is not None]
        found["never_exceeded"] = all(
            max(row["measured"], row["replayed"]) <= row["budget"] for row in bounded
        )
        save()
        print(found["model"], rows[-1], flush=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("folder", type=Path)
    asked.add_argument("models", nargs="+", choices=MODELS)
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--offload", action="store_true", help="values may wait with the host")
    asked.add_argument("--minutes", type=float, default=3.3, help="for each model")
    given = asked.parse_intermixed_args()
    zoo._ready_for_torchvision()
    device = parse_device(given.device)
    torch.set_float32_matmul_precision("high")
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.models:
        until = time.monotonic() + 60 * given.minutes
        title = f"{name}_offload" if given.offload else name
        file: Path = given.folder / f"{device.type}_{title}.json"
        found: dict[str, Any] = {"model": title, "machine": machine(device)}
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
        torch.manual_seed(0)
        model, batch = MODELS[name]()

        def save(file: Path = file, found: dict[str, Any] = found) -> None:
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

        swept(Sweep(model, batch, device, given.offload), found, until, save)
        save()
    results = [json.loads(x.read_text(encoding="utf-8")) for x in given.folder.glob("*.json")]
    (given.folder / "budgets.svg").write_text(drawn(results), encoding="utf-8")


if __name__ == "__main__":
    main()
