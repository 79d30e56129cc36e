"""A training step with a gradient scaler leaves what eager's loop with the same scaler leaves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.errors import LazyTorchError
from lazytorch.frontend.scaler import rescale
from lazytorch.report import Report

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, 3e-3),
}


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


def scaler(**more: Any) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", **{"init_scale": 1024.0, "growth_interval": 3, **more})


def batch(i: int, overflow: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(i)
    x = torch.randn(8, 6, generator=generator)
    if overflow:
        x[3, 2] = float("inf")
    return x, torch.randint(0, 3, (8,), generator=generator)


def eagerly(
    m: nn.Module, opt: torch.optim.Optimizer, by: torch.amp.GradScaler, clip: float | None
) -> Callable[..., torch.Tensor]:
    """The ordinary loop."""

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        opt.zero_grad()
        loss = functional.cross_entropy(m(x), y)
        by.scale(loss).backward()
        by.unscale_(opt)
        if clip is not None:
            nn.utils.clip_grad_norm_(m.parameters(), clip)
        by.step(opt)
        by.update()
        return loss.detach()

    return step


def left(m: nn.Module, opt: torch.optim.Optimizer) -> list[Any]:
    """What a step changes."""
    states = opt.state_dict()["state"].values()
    return [*m.state_dict().values(), *[x for s in states for x in s.values() if x is not None]]


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_steps_that_overflow_are_skipped_and_the_scale_follows(
    name: str, clip: float | None
) -> None:
    Report.events.clear()
    models = [model(), model()]
    opts = [OPTIMIZERS[name](m.parameters()) for m in models]
    scalers = [scaler(), scaler()]
    ours = lt.train_step(
        models[0], functional.cross_entropy, opts[0], clip_norm=clip, scaler=scalers[0], wait=True
    )
    theirs = eagerly(models[1], opts[1], scalers[1], clip)
    scales: list[float] = []
    for i in range(14):
        given = batch(i, i in (3, 4, 9))
        before = [p.detach().clone() for p in models[0].parameters()]
        losses = [step(*given) for step in (ours, theirs)]
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6, equal_nan=True)
        torch.testing.assert_close(
            *[left(m, o) for m, o in zip(models, opts, strict=True)],
            rtol=1e-4, atol=1e-6, equal_nan=True,
        )  # fmt: skip
        assert scalers[0].state_dict() == scalers[1].state_dict()
        scales.append(scalers[0].get_scale())
        changed = [
            not torch.equal(a, b) for a, b in zip(before, models[0].parameters(), strict=True)
        ]
        assert any(changed) != (i in (3, 4, 9))
        if i == 4:  # eager's running statistics are NaN for good now, and so are ours
            for m in models:
                m[1].reset_running_stats()  # type: ignore[operator]
        if i == 6:
            for by in scalers:
                by.set_growth_factor(4.0)
    assert max(scales) > 1024 > min(scales)
    assert [e for e in Report.events if e.kind == "backward"] == []


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_scale_that_is_too_large_for_the_first_steps(name: str) -> None:
    Report.events.clear()
    found: list[Any] = []
    for compiled in (True, False):
        m, by = model(), scaler()
        opt = OPTIMIZERS[name](m.parameters())
        step: Any = eagerly(m, opt, by, None)
        if compiled:
            step = lt.train_step(m, functional.cross_entropy, opt, scaler=by, wait=True)
        for i in range(6):
            step(*batch(i, i < 2))
            m[1].reset_running_stats()  # type: ignore[operator]
        assert not compiled or step.compiled.plans
        found.append((left(m, opt), by.state_dict()))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    assert [e for e in Report.events if e.kind == "backward"] == []


def test_a_state_dict_goes_round() -> None:
    found: list[Any] = []
    for step_of in (True, False):
        m, by = model(), scaler()
        opt = OPTIMIZERS["adamw"](m.parameters())
        step = (
            lt.train_step(m, functional.cross_entropy, opt, scaler=by, wait=True)
            if step_of
            else eagerly(m, opt, by, None)
        )
        for i in range(4):
            step(*batch(i, False))
        by.load_state_dict({**by.state_dict(), "scale": 64.0, "_growth_tracker": 2})
        for i in range(2):
            step(*batch(i, False))
        found.append(by.state_dict())
    assert found[0] == found[1]
    assert found[0]["scale"] == 128.0


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("overflow", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1.0, 3e38, 1e-40, 0.1, float("inf")])
def test_a_scale_becomes_what_torchs_kernel_makes_of_it(
    scale: float, overflow: float, interval: int
) -> None:
    by = {"growth": 1.7, "backoff": 0.3, "interval": interval}
    found, want = ((torch.tensor(scale), torch.tensor(1, dtype=torch.int32)) for _ in range(2))
    rescale(*found, torch.tensor(overflow) > 0, by)
    torch._amp_update_scale_(*want, torch.tensor(overflow), *by.values())
    for a, b in zip(found, want, strict=True):
        assert torch.equal(a, b)
        assert a.dtype is b.dtype


def test_gradients_are_kept_unscaled_and_accumulated() -> None:
    found: list[Any] = []
    for parts in (1, 2):
        m = model().eval()
        opt = OPTIMIZERS["sgd"](m.parameters())
        step = lt.train_step(
            m, functional.cross_entropy, opt, scaler=scaler(), accumulate=parts, keep_grads=True
        )
        for i in range(3):
            step(*batch(i, False))
        found.append([p.grad for p in m.parameters()])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_a_scaler_that_is_off_does_nothing() -> None:
    m = model()
    step = lt.train_step(m, None, OPTIMIZERS["sgd"](m.parameters()), scaler=scaler(enabled=False))
    assert step.scaler is None


def test_refusals() -> None:
    m = model()
    opt = OPTIMIZERS["sgd"](m.parameters())
    with pytest.raises(LazyTorchError, match="without skip_nonfinite"):
        lt.train_step(m, None, opt, scaler=scaler(), skip_nonfinite=True)
    m = nn.Linear(3, 2).half()
    opt = OPTIMIZERS["sgd"](m.parameters())
    step = lt.train_step(m, lambda y, _: y.float().sum(), opt, scaler=scaler())
    step.started = True  # with the optimizer's state loaded there is no first step of eager's
    with pytest.raises(ValueError, match="FP16"):
        step(torch.ones(1, 3).half(), None)
