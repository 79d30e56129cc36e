"""Training curves of `lt.train_step` beside eager's own, from the same seeds.

    python benchmarks/curves.py [resnet18 gpt ...]

Both round differently, and training is chaotic: curves part from each other. How far they may is
what a control says, eager itself from weights that are one unit in the last place away. What is
compared is the root mean square over the steps of a curve's difference from eager's; lazytorch's is
at most `ORDER` times the control's, over the first tenth of the steps and over all of them. One
JSON a model in benchmarks/results/curves: the curves, the differences, and the machine.
"""

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from small_gpt import SmallGpt
from torch import nn
from torch.nn import functional
from training import Batch, loss_of

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench import best_device, machine
from lazytorch.report import Report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "curves"
STEPS = 200
ORDER = 10.0
"""How many times the control's difference is still of the same order."""


@dataclass(frozen=True)
class Training:
    """A model, its optimizer, and its batches by number."""

    model: nn.Module
    optimizer: Callable[[Any], torch.optim.Optimizer]
    batch: Callable[[int], Batch]


def resnet18(count: int = 16, size: int = 64, classes: int = 10) -> Training:
    """ResNet-18 on pictures of its classes: each class a pattern, under noise as strong as it."""
    patterns = torch.randn(classes, 3, size // 8, size // 8)
    patterns = functional.interpolate(patterns, scale_factor=8.0, mode="bilinear")

    def batch(i: int) -> Batch:
        generator = torch.Generator().manual_seed(i)
        y = torch.randint(0, classes, (count,), generator=generator)
        return patterns[y] + torch.randn(count, 3, size, size, generator=generator), y

    model = zoo.build("resnet18", train=True)[0]
    assert isinstance(model.fc, nn.Linear)
    model.fc = nn.Linear(model.fc.in_features, classes)
    return Training(model, lambda p: torch.optim.SGD(p, 0.02, momentum=0.9), batch)


def gpt(count: int = 8, length: int = 64, width: int = 128) -> Training:
    """A GPT of four layers, its dropout on, on the characters of this project's own prose."""
    text = "".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
    letters = sorted(set(text))
    data = torch.tensor([letters.index(letter) for letter in text])

    def batch(i: int) -> Batch:
        generator = torch.Generator().manual_seed(i)
        begins = torch.randint(0, len(data) - length, (count,), generator=generator)
        rows = data[begins[:, None] + torch.arange(length + 1)]
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    model = SmallGpt(len(letters), length, width, layers=4, heads=4, dropout=0.1)
    return Training(model, lambda p: torch.optim.AdamW(p, 3e-3), batch)


MODELS = {"resnet18": resnet18, "gpt": gpt}


def compiled(training: Training) -> Callable[..., torch.Tensor]:
    """A step by lazytorch."""
    optimizer = training.optimizer(training.model.parameters())
    return lt.train_step(training.model, loss_of, optimizer)


def eager(training: Training) -> Callable[..., torch.Tensor]:
    """The loop that people write."""
    optimizer = training.optimizer(training.model.parameters())

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(training.model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


@torch.no_grad()
def shaken(training: Training) -> Training:
    """The same from weights that are each one unit in the last place up or down."""
    for p in training.model.parameters():
        ends = torch.where(torch.rand_like(p) < 0.5, -torch.inf, torch.inf)
        p.copy_(torch.nextafter(p, ends))
    return training


def curve(
    step: Callable[..., torch.Tensor], training: Training, steps: int, device: torch.device
) -> list[float]:
    """The losses; the random numbers of each step come from a seed of its own."""
    found: list[float] = []
    for i in range(steps):
        x, y = training.batch(i)
        torch.manual_seed(i)
        found.append(float(step(x.to(device), y.to(device))))
    return found


def apart(one: list[float], other: list[float]) -> float:
    """The root mean square of the difference of two curves."""
    difference = torch.tensor(one, dtype=torch.float64) - torch.tensor(other, dtype=torch.float64)
    return float(difference.square().mean().sqrt())


def compared(curves: dict[str, list[float]]) -> dict[str, Any]:
    """How far lazytorch and the control are from eager, and whether these are of one order."""
    steps = len(curves["eager"])
    found: dict[str, Any] = {"follows": True}
    for span in (max(1, steps // 10), steps):
        far = {
            side: apart(curves[side][:span], curves["eager"][:span])
            for side in ("lazytorch", "control")
        }
        found[f"first {span} steps"] = far
        unit = torch.finfo(torch.float32).eps * max(curves["eager"])  # a loss is no finer
        found["follows"] &= far["lazytorch"] <= ORDER * max(far["control"], unit)
    return found


def measured(training: Training, steps: int, device: torch.device) -> dict[str, Any]:
    """The three curves of one model and what they say."""
    training.model.to(device)
    ours, control = copy.deepcopy(training), shaken(copy.deepcopy(training))
    sides = {"eager": (eager, training), "lazytorch": (compiled, ours), "control": (eager, control)}
    Report.events.clear()
    curves = {name: curve(made(x), x, steps, device) for name, (made, x) in sides.items()}
    eagerly = [e.reason for e in Report.events if e.kind == "backward"]
    return {"curves": curves, "eager instead": eagerly, **compared(curves)}


def main(*names: str) -> None:
    """Run the models that are named, or all; end with an error where a curve does not follow."""
    device = best_device()
    RESULTS.mkdir(parents=True, exist_ok=True)
    wrong: list[str] = []
    for name in names or MODELS:
        torch.manual_seed(0)
        found = measured(MODELS[name](), STEPS, device)
        file = RESULTS / f"{device.type}_{name}.json"
        file.write_text(json.dumps({"model": name, **found, "machine": machine(device)}) + "\n")
        ends = {side: (losses[0], losses[-1]) for side, losses in found.pop("curves").items()}
        print(name, ends, found, flush=True)
        wrong += [] if found["follows"] and not found["eager instead"] else [name]
    if wrong:
        sys.exit(f"not eager's curve: {', '.join(wrong)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
