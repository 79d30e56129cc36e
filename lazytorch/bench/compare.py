"""Runs one model in several ways in one process: how fast, how much memory, how right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lazytorch.accuracy import Accuracy, accuracy, tf32_on
from lazytorch.bench.case import Case, Model, tensors
from lazytorch.bench.measure import Timing, interleaved
from lazytorch.bench.memory import held, nbytes, peak
from lazytorch.bench.sides import Side, make_side
from lazytorch.bench.start import Start

Progress = Callable[[str], object]


@dataclass(frozen=True)
class Measured:
    """One way of running the model. `start` holds the cold and the warm start where measured.

    `alone` is the peak in bytes beside weights and inputs, None for CUDA graphs: they share memory
    with those of other sides, and only a process of their own tells what they take.
    """

    timing: Timing
    accuracy: Accuracy
    alone: int | None
    start: tuple[Start, Start] | None = None

    @property
    def memory(self) -> int | None:
        """The peak in bytes beside weights and inputs; None if unknown."""
        return self.start[1].memory if self.start is not None else self.alone

    @property
    def right(self) -> bool:
        """Whether every result that was looked at keeps the accuracy rule."""
        return self.accuracy.right and not any(start.fault for start in self.start or ())


@dataclass(frozen=True)
class Comparison:
    """All ways of running one model, by name, eager among them."""

    case: Case
    sides: dict[str, Measured]

    def speedup(self, name: str) -> float:
        """How many times as fast as eager."""
        return self.sides["eager"].timing.median / self.sides[name].timing.median


@torch.no_grad()
def compare(
    case: Case,
    names: Sequence[str] = ("eager", "lazytorch"),
    repeats: int = 30,
    progress: Progress = lambda text: None,
    model: Model | None = None,
) -> Comparison:
    """Measure the steady state of `names`, and eager, on one model under no_grad.

    `model` is the case's model where the caller has built it already. What each side returned at
    its first call and at full speed is judged against eager and a float64 run.
    """
    if model is None:
        progress("building")
        model = case.build()
    sides: dict[str, Side] = {}
    first: dict[str, list[torch.Tensor]] = {}
    memory: dict[str, int | None] = {}
    for name in dict.fromkeys(("eager", *names)):
        progress(f"compiling {name}" if name != "eager" else "running eager")
        side = sides[name] = make_side(name, model)
        before = held(case.device)
        first[name] = side.first_call()
        side.speed_up()
        kept = held(case.device) - before - nbytes(first[name])
        memory[name] = None if side.graphs else kept + peak(side.call, case.device)
        first[name] += [x.clone() for x in tensors(side.call())]
    progress("running in float64")
    exact = tensors(model.in_float64()()) * 2
    judged = {
        name: accuracy(found, first["eager"], exact, tf32_on(case.device))
        for name, found in first.items()
    }
    first.clear()
    timings = interleaved(
        {name: side.call for name, side in sides.items()},
        case.device,
        repeats,
        lambda: progress(f"timing {', '.join(sides)}"),
    )
    return Comparison(
        case, {name: Measured(timings[name], judged[name], memory[name]) for name in sides}
    )
