"""Updates by the same gradients: SGD's parameters are eager's bit by bit, Adam's within two ulp a
step, by torch's kernels and by generated ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.runtime.cudagraph import Replayer

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SHAPES = [(37, 5), (64,), (3,), (), (257, 33), (1,)]
STEPS = 9

SGD: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight decay": {"weight_decay": 0.013},
    "momentum": {"momentum": 0.9},
    "dampened": {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.013},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.013},
    "maximize": {"momentum": 0.7, "maximize": True},
}
ADAM: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, 3e-3),
    "decayed": lambda p: torch.optim.Adam(p, 3e-3, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 3e-3),
    "amsgrad": lambda p: torch.optim.AdamW(p, 3e-3, amsgrad=True, betas=(0.8, 0.99)),
}


class Given(nn.Module):
    """Parameters whose gradients are what the forward is given."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.p = nn.ParameterList([nn.Parameter(torch.randn(s, dtype=dtype)) for s in SHAPES])

    def forward(self, *gs: torch.Tensor) -> torch.Tensor:
        none = torch.zeros((), device=gs[0].device)
        return sum(((p * g).sum() for p, g in zip(self.p, gs, strict=True)), none)


def updated(
    make: Callable[[Any], torch.optim.Optimizer], dtype: torch.dtype, device: str
) -> list[list[torch.Tensor]]:
    """Parameters and state after some steps: ours and eager's; the rate changes on the way."""
    found: list[list[torch.Tensor]] = []
    for compiled in (True, False):
        m = Given(dtype).to(device)
        opt = make(m.parameters())
        step = lt.train_step(m, None, opt, wait=True)
        for i in range(STEPS):
            gen = torch.Generator().manual_seed(i)
            gs = [torch.randn(s, generator=gen, dtype=dtype).to(device) for s in SHAPES]
            if compiled:
                step(*gs)
            else:
                for p, g in zip(m.p, gs, strict=True):
                    p.grad = g.clone()
                opt.step()
            if i in (2, 5):
                for group in opt.param_groups:
                    group["lr"] *= 0.7
        if compiled and device == "cpu":
            assert "lt::fma" in step.compiled.source()  # generated kernels, which contract
        elif compiled:
            replay = step.compiled.programs()[-1].replay
            assert isinstance(replay, Replayer)
            assert replay.captured is not None, replay.why
        states = [x for s in opt.state.values() for x in s.values() if x is not None]
        found.append([x.detach().cpu() for x in (*m.p, *states)])
    return found


def ulps(a: torch.Tensor, b: torch.Tensor, step: float) -> float:
    """The largest distance in units of the last place of the value or of a step's update.

    Torch's own square root of float32 is not always the nearest number, ours is: where a parameter
    is much smaller than its update, its last place says nothing.
    """
    size = b.abs().clamp(min=step)
    unit = torch.nextafter(size, torch.tensor(float("inf"), dtype=b.dtype)) - size
    return float(((a - b).abs() / unit).max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", list(SGD))
def test_sgd_is_eagers_bit_by_bit(name: str, dtype: torch.dtype, device: str) -> None:
    ours, theirs = updated(lambda p: torch.optim.SGD(p, 0.1, **SGD[name]), dtype, device)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", list(ADAM))
def test_adam_is_within_two_ulp_a_step(name: str, dtype: torch.dtype, device: str) -> None:
    ours, theirs = updated(ADAM[name], dtype, device)
    for a, b in zip(ours, theirs, strict=True):
        assert ulps(a, b, 3e-3) <= 2 * STEPS


@pytest.mark.parametrize("device", DEVICES)
def test_one_element_is_rounded_as_eager_rounds_it(device: str) -> None:
    """A scalar's part of an update has no element-wise kernel in common with larger parameters."""
    fast = lt.compile(lambda x, y, z: x * y + z, wait=True)
    for i in range(60):
        torch.manual_seed(i)
        xs = [x.to(device) for x in torch.randn(3, dtype=torch.float64)]
        assert torch.equal(fast(*xs), xs[0] * xs[1] + xs[2])
