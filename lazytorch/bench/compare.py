"""Runs one model in several ways in one process: how fast, how much memory, how right."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from lazytorch.accuracy import Accuracy, accuracy, tf32_on
from lazytorch.bench.case import Case, Model, tensors
from lazytorch.bench.measure import Timing, interleaved
from lazytorch.bench.memory import held, nbytes
from lazytorch.bench.paired import Ratio, ratio
from lazytorch.bench.side import Side
from lazytorch.bench.sides import MAX_AUTOTUNE, OURS, make_side
from lazytorch.bench.start import Start, compile_apart
from lazytorch.errors import LazyTorchError
from lazytorch.runtime.allocations import peak

Progress = Callable[[str], object]

FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+")
"""The folders of a path from the root; not those of an address on the web."""


@dataclass(frozen=True)
class Measured:
    """One way of running the model. `start` holds the cold and the warm start where measured.

    `alone` is the peak in bytes beside weights and inputs, None for CUDA graphs: they share memory
    with those of other sides, and only a process of their own tells what they take. Nor is what
    other libraries than torch allocate known.
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
    """All ways of running one model, by name, eager among them; and why others are not there.

    `failed` has the reason, in a line, of each side that could not be measured, or not started in
    a process of its own.
    """

    case: Case
    sides: dict[str, Measured]
    failed: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def right(self) -> bool:
        """Whether every side of lazytorch's was measured, with right results."""
        ours = [self.sides[name] for name in OURS if name in self.sides]
        return bool(ours) and all(x.right for x in ours) and not self.failed.keys() & set(OURS)

    def speedup(self, name: str) -> float:
        """How many times as fast as eager."""
        return self.sides["eager"].timing.median / self.sides[name].timing.median

    def ratio(self, name: str, other: str) -> Ratio:
        """How many times as fast as another side, with the bounds of that number."""
        return ratio(self.sides[name].timing, self.sides[other].timing)

    def best_peer(self) -> str:
        """The fastest side with right results that is not lazytorch; eager counts."""
        right = [name for name, side in self.sides.items() if side.right and name not in OURS]
        return min(right, key=lambda name: self.sides[name].timing.median, default="eager")


@contextmanager
def measured_convolutions(device: torch.device) -> Generator[None]:
    """cuDNN measures which kernel is best, for all sides alike, as who wants speed has it."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def compare(
    case: Case,
    names: Sequence[str] = ("eager", "lazytorch"),
    repeats: int = 30,
    progress: Progress = lambda text: None,
    model: Model | None = None,
) -> Comparison:
    """Measure the steady state of `names`, and eager, on one model under no_grad.

    `model` is the case's model where the caller has built it already. What each side returned at
    its first call and at full speed is judged against eager and a float64 run. A side that raises
    is left out with the reason; eager's errors are the caller's. On a GPU cuDNN's benchmark mode is
    on.
    """
    with torch.no_grad(), measured_convolutions(case.device):
        return compared(case, names, repeats, progress, model)


def compared(
    case: Case, names: Sequence[str], repeats: int, progress: Progress, model: Model | None
) -> Comparison:
    """`compare`, as torch is set now."""
    if model is None:
        progress("building")
        model = case.build()
    if "torch._dynamo" in sys.modules:  # which compiles a class's forward for few models at a time
        torch._dynamo.reset()
    sides: dict[str, Side] = {}
    first: dict[str, list[torch.Tensor]] = {}
    memory: dict[str, int | None] = {}
    failed: dict[str, str] = {}
    for name in dict.fromkeys(("eager", *names)):
        progress(f"compiling {name}" if name != "eager" else "running eager")
        try:
            side, first[name], memory[name] = ready(name, model, case)
        except Exception as error:  # whatever a compiler raises is a result about that compiler
            if name == "eager":
                raise
            failed[name] = reason(error)
            continue
        sides[name] = side
    progress("running in float64")
    exact = tensors(model.in_float64()()) * 2
    judged = {
        name: accuracy(first[name], first["eager"], exact, tf32_on(case.device)) for name in sides
    }
    first.clear()
    del exact
    timings = interleaved(
        {name: side.call for name, side in sides.items()},
        case.device,
        repeats,
        lambda: progress(f"timing {', '.join(sides)}"),
    )
    found = {name: Measured(timings[name], judged[name], memory[name]) for name in sides}
    return Comparison(case, found, failed)


def ready(name: str, model: Model, case: Case) -> tuple[Side, list[torch.Tensor], int | None]:
    """A side at full speed, what it returned at first and then, and the peak of its memory."""
    if name == MAX_AUTOTUNE:
        compile_apart(case, name)
    side = make_side(name, model)
    before = held(case.device)
    results = side.first_call()
    side.speed_up()
    kept = held(case.device) - before - nbytes(results)
    unknown = side.graphs or side.foreign
    memory = None if unknown else kept + peak(side.call, case.device)
    return side, results + side.results(), memory


def reason(error: Exception) -> str:
    """What an exception says, in a line; of files it has the names, not where they lie."""
    message = error.message if isinstance(error, LazyTorchError) else str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = FOLDERS.sub(".../", lines[0]) if lines else ""
    return text if isinstance(error, LazyTorchError) else f"{type(error).__name__}: {text}"
