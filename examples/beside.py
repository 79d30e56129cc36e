"""What the examples share: eager's step, results compared with eager's, times beside eager's."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from lazytorch.bench import interleaved, machine
from lazytorch.bench.paired import ratio

CPU = torch.device("cpu")
Step = Callable[..., torch.Tensor]


def losses(step: Step, batches: Iterable[Sequence[Any]]) -> torch.Tensor:
    """The losses of some steps, the random numbers of each drawn from a seed of its own."""
    found: list[torch.Tensor] = []
    for i, batch in enumerate(batches):
        torch.manual_seed(i)
        found.append(step(*batch).detach())
    return torch.stack(found)


def ordinary(loss: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """A training step as eager does it, by a module that computes its loss."""

    def step(*batch: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        found = loss(*batch)
        found.backward()
        optimizer.step()
        return found

    return step


def agree(what: str, ours: Any, theirs: Any, tolerance: float) -> None:
    """Print the largest difference relative to the largest magnitude; end if it is too large."""
    pairs = zip(
        torch.utils._pytree.tree_leaves(ours),
        torch.utils._pytree.tree_leaves(theirs),
        strict=True,
    )
    worst = 0.0
    for x, y in pairs:
        size = float(y.detach().abs().max()) or 1.0
        difference = float((x.detach() - y.detach()).abs().max()) / size
        worst = max(worst, difference) if difference == difference else difference
    print(f"{what}: differs from eager's by {worst:.1e} of the largest (at most {tolerance:.0e})")
    if not worst <= tolerance:
        sys.exit(f"{what}: not what eager computes")


def beside(eager: Callable[[], Any], fast: Callable[[], Any], rounds: int) -> float:
    """How many times as fast as eager, measured in turns and printed with its 95 % interval."""
    times = interleaved({"lazytorch": fast, "eager": eager}, CPU, rounds)
    found = ratio(times["lazytorch"], times["eager"])
    ms = {side: timing.median * 1e3 for side, timing in times.items()}
    print(
        f"lazytorch {ms['lazytorch']:.3f} ms, eager {ms['eager']:.3f} ms: {found.median:.2f} times "
        f"as fast ({found.low:.2f} to {found.high:.2f}); "
        f"{machine(CPU)['cpu']}, {torch.get_num_threads()} threads"
    )
    return found.median
