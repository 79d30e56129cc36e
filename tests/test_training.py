"""A whole training step in one graph leaves what the same eager step leaves."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from double_net import Anew
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.forecast import standing, with_state
from lazytorch.frontend.stand_in import StandIns
from lazytorch.report import Report

Optimizer = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(
        p, 0.1, momentum=0.9, dampening=0.1, weight_decay=1e-3, nesterov=False
    ),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 3e-3, weight_decay=1e-2),
    "amsgrad": lambda p: torch.optim.Adam(p, 3e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 3e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.5, centered=True),
    "own": lambda p: Signs(p, 1e-2),
    "anew": Anew,
}


class Signs(torch.optim.Optimizer):
    """A user's own: signs of an average of gradients."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr, "beta": 0.9})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["average"] = torch.zeros_like(p)
                state["average"].mul_(group["beta"]).add_(p.grad, alpha=1 - group["beta"])
                p.add_(state["average"].sign(), alpha=-group["lr"])


class Counting(Signs):
    """Keeps the number of steps as a Python number."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        for state in self.state.values():
            state["count"] = state.get("count", 0) + 1


def model(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 16),
        nn.Dropout(0.1),
        nn.GELU(),
        nn.LayerNorm(16),
        nn.Linear(16, 5),
    ).to(dtype)


def batch(i: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(i)
    x = torch.randn(8, 2, 8, 8, generator=generator, dtype=dtype)
    return x, torch.randint(0, 5, (8,), generator=generator)


def run(step: Any, count: int, optimizer: torch.optim.Optimizer | None = None) -> list[Any]:
    """The losses of some steps, each from a seed of its own; the rate halves every two."""
    losses: list[Any] = []
    for i in range(count):
        torch.manual_seed(i)
        losses.append(step(*batch(i)))
        if optimizer is not None and i % 2:
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * 0.5
    return losses


def eagerly(
    m: nn.Module, opt: torch.optim.Optimizer, clip: float | None = None, parts: int = 1
) -> Callable[..., torch.Tensor]:
    """The ordinary loop."""

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        opt.zero_grad()
        total = torch.zeros((), dtype=x.dtype)
        for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
            loss = functional.cross_entropy(m(a), b) / parts
            loss.backward()
            total = total + loss.detach()
        if clip is not None:
            nn.utils.clip_grad_norm_(m.parameters(), clip)
        opt.step()
        return total

    return step


def state_of(m: nn.Module, opt: torch.optim.Optimizer) -> list[Any]:
    """Parameters, buffers and the optimizer's tensors."""
    states = opt.state_dict()["state"].values()
    return [*m.state_dict().values(), *[x for s in states for x in s.values() if x is not None]]


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_step_leaves_what_eagers_does(name: str) -> None:
    Report.events.clear()
    ours, theirs = model(), model()
    mine, other = OPTIMIZERS[name](ours.parameters()), OPTIMIZERS[name](theirs.parameters())
    step = lt.train_step(ours, functional.cross_entropy, mine)
    losses = run(step, 6, mine)
    want = run(eagerly(theirs, other), 6, other)
    torch.testing.assert_close(losses, want, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(state_of(ours, mine), state_of(theirs, other), rtol=1e-7, atol=1e-9)
    assert all(p.grad is None for p in ours.parameters())
    assert [e for e in Report.events if e.kind == "backward"] == []
    assert len(step.compiled.programs()) <= 2  # the rate varies: it is an input


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_clipped_and_accumulated(parts: int, clip: float | None) -> None:
    ours, theirs = model(), model()
    mine, other = (torch.optim.AdamW(m.parameters(), 3e-3) for m in (ours, theirs))
    step = lt.train_step(
        ours, functional.cross_entropy, mine, clip_norm=clip, accumulate=parts, keep_grads=True
    )
    losses = run(step, 4)
    want = run(eagerly(theirs, other, clip, parts), 4)
    torch.testing.assert_close(losses, want, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(state_of(ours, mine), state_of(theirs, other), rtol=1e-7, atol=1e-9)
    grads = [[p.grad for p in m.parameters()] for m in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-7, atol=1e-9)


def test_sgd_of_the_same_gradients_is_within_an_ulp_a_step() -> None:
    w = [nn.Parameter(torch.randn(37, 5)) for _ in range(2)]
    w[1].data.copy_(w[0].data)

    class Plain(nn.Module):
        def __init__(self, weight: nn.Parameter) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.weight * x).sum()  # its gradient is x

    models = [Plain(x) for x in w]
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in models]
    step = lt.train_step(models[0], None, optimizers[0], wait=True)
    for _ in range(4):
        x = torch.randn(37, 5)
        step(x)
        optimizers[1].zero_grad()
        models[1](x).backward()
        optimizers[1].step()
        torch.testing.assert_close(w[0], w[1], rtol=5e-7, atol=1e-7)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_a_rate_that_is_a_tensor_is_read_at_every_step(kind: Any) -> None:
    Report.events.clear()
    models = [model(), model()]
    opts = [kind(m.parameters(), lr=torch.tensor(1e-2)) for m in models]
    steps = [
        lt.train_step(models[0], functional.cross_entropy, opts[0]),
        eagerly(models[1], opts[1]),
    ]
    for i in range(4):
        for step, opt in zip(steps, opts, strict=True):
            torch.manual_seed(i)
            step(*batch(i))
            opt.param_groups[0]["lr"].mul_(0.5)
    left = [state_of(m, opt) for m, opt in zip(models, opts, strict=True)]
    torch.testing.assert_close(*left, rtol=1e-7, atol=1e-9)
    assert [e for e in Report.events if e.kind == "backward"] == []


def test_what_is_not_finite_leaves_everything() -> None:
    m = model()
    opt = torch.optim.AdamW(m.parameters(), 3e-3)
    step = lt.train_step(m, functional.cross_entropy, opt, skip_nonfinite=True)
    run(step, 3)
    before = [x.clone() for x in state_of(m, opt)]
    x, y = batch(9)
    x[0, 0, 0, 0] = float("nan")
    assert not step(x, y).isfinite()
    torch.testing.assert_close(state_of(m, opt), before, rtol=0, atol=0)
    assert step(*batch(4)).isfinite()
    assert not torch.equal(state_of(m, opt)[0], before[0])


@pytest.mark.parametrize("name", ["momentum", "adamw", "anew"])
def test_an_optimizer_whose_first_step_is_skipped_has_its_state_later(name: str) -> None:
    Report.events.clear()
    ours, theirs = model(), model()
    mine, other = OPTIMIZERS[name](ours.parameters()), OPTIMIZERS[name](theirs.parameters())
    step = lt.train_step(ours, functional.cross_entropy, mine, skip_nonfinite=True)
    x, y = batch(9)
    step(x * float("nan"), y)
    assert not mine.state
    run(step, 4)
    run(eagerly(theirs, other), 4)
    torch.testing.assert_close(state_of(ours, mine), state_of(theirs, other), rtol=1e-7, atol=1e-9)
    assert step.compiled.plans and [e for e in Report.events if e.kind == "backward"] == []


def frozen(m: nn.Module, opt: torch.optim.Optimizer, on: bool) -> None:
    next(m.parameters()).requires_grad_(not on)


def joined(m: nn.Module, opt: torch.optim.Optimizer, on: bool) -> None:
    if on:
        opt.add_param_group({"params": [m.get_parameter("8.weight")], "lr": 1e-2})


def exchanged(m: nn.Module, opt: torch.optim.Optimizer, on: bool) -> None:
    params = opt.param_groups[0]["params"]
    opt.state.pop(params[-1], None)
    params[-1] = m.get_parameter("8.bias" if on else "8.weight")


def forgotten(m: nn.Module, opt: torch.optim.Optimizer, on: bool) -> None:
    opt.state.clear()


def without_momentum(m: nn.Module, opt: torch.optim.Optimizer, on: bool) -> None:
    opt.param_groups[0]["momentum"] = 0.0 if on else 0.9
    if on:
        opt.state.clear()


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("change", [frozen, joined, exchanged, forgotten, without_momentum])
def test_what_changes_between_steps(name: str, change: Callable[..., None]) -> None:
    Report.events.clear()
    found: list[Any] = []
    for compiled in (True, False):
        m = model()
        opt = OPTIMIZERS[name](list(m.parameters())[:-4])
        step = lt.train_step(m, functional.cross_entropy, opt) if compiled else eagerly(m, opt)
        for on in (True, False):
            losses = run(step, 3)
            change(m, opt, on)
        found.append((losses, run(step, 3), state_of(m, opt)))
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)
    assert [e for e in Report.events if e.kind == "backward"] == []


def test_a_state_dict_goes_round() -> None:
    first, second = model(), model()
    opt = torch.optim.Adam(first.parameters(), 1e-2)
    step = lt.train_step(first, functional.cross_entropy, opt)
    run(step, 3)
    other = torch.optim.Adam(second.parameters(), 1e-2)
    resumed = lt.train_step(second, functional.cross_entropy, other)
    run(resumed, 1)
    second.load_state_dict(first.state_dict())
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    torch.testing.assert_close(run(resumed, 3), run(step, 3), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state_of(second, other), state_of(first, opt))


def test_autocast_and_schedulers() -> None:
    ours, theirs = model(torch.float32), model(torch.float32)
    mine, other = (torch.optim.AdamW(m.parameters(), 3e-3) for m in (ours, theirs))
    rates = [torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10) for opt in (mine, other)]
    step = lt.train_step(ours, functional.cross_entropy, mine, amp=torch.bfloat16)
    for i in range(5):
        x, y = batch(i, torch.float32)
        torch.manual_seed(i)
        loss = step(x, y)
        torch.manual_seed(i)
        other.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            want = functional.cross_entropy(theirs(x), y)
        want.backward()
        other.step()
        for rate in rates:
            rate.step()
        torch.testing.assert_close(loss, want.detach(), rtol=3e-2, atol=3e-2)


def test_python_counters_and_data_dependent_models_are_eager_and_said_to_be() -> None:
    Report.events.clear()
    ours, theirs = model(), model()
    mine, other = Counting(ours.parameters(), 1e-2), Counting(theirs.parameters(), 1e-2)
    run(lt.train_step(ours, functional.cross_entropy, mine), 3)
    run(eagerly(theirs, other), 3)
    torch.testing.assert_close(state_of(ours, mine), state_of(theirs, other))
    said = [e for e in Report.events if e.kind == "backward"]
    assert len(said) == 1  # once: it is not tried again at every step
    assert "counts in Python numbers" in said[0].reason


def test_on_a_gpu_counts_of_steps_are_there_until_a_recording_is_refused() -> None:
    made = StandIns(torch.device("cuda", 0))
    m = made.module(nn.Linear(3, 2))
    x = made.tree(torch.ones(4, 3))

    def counts() -> set[str]:
        return {state["step"].device.type for state in opt.state.values()}

    def refused(*_: object) -> None:
        assert counts() == {"cuda"}
        raise lt.errors.UnsupportedError("not recorded")

    with standing(made, None):
        opt = torch.optim.AdamW(m.parameters())
        with_state(opt)
        assert counts() == {"cpu"}
        step = lt.train_step(m, lambda y, _: y.sum(), opt)
        step.compiled = refused  # type: ignore[assignment]
        step.eager = lambda *_: x  # type: ignore[method-assign]
        step(x, None)
    assert counts() == {"cpu"}  # where eager, which goes on, has them
    assert step.refused == "not recorded"


def test_parameters_that_are_not_trained_get_no_gradient() -> None:
    # A generator's loss goes through the critic, which has an optimizer of its own.
    critic, generator = nn.Linear(2, 1).double(), nn.Linear(3, 2).double()
    m = nn.Sequential(generator, critic)
    opt = torch.optim.Adam(generator.parameters(), 1e-2)
    step = lt.train_step(m, lambda y, _: y.mean(), opt)
    kept = torch.ones_like(critic.weight)
    critic.weight.grad = kept.clone()
    for _ in range(3):  # eager's first step, the recorded one, a replay
        step(torch.randn(4, 3, dtype=torch.float64), None)
        torch.testing.assert_close(critic.weight.grad, kept)
        assert critic.bias.grad is None


def test_refusals() -> None:
    m = model()
    opt = torch.optim.SGD(m.parameters(), 0.1)
    with pytest.raises(lt.errors.LazyTorchError, match="accumulate"):
        lt.train_step(m, functional.cross_entropy, opt, accumulate=0)
    step = lt.train_step(m, functional.cross_entropy, opt, accumulate=3)
    with pytest.raises(lt.errors.ShapeError, match="3 equal parts"):
        step(*batch(0))
    functional.cross_entropy(m(batch(0)[0]), batch(0)[1]).backward()
    with pytest.raises(lt.errors.LazyTorchError, match="has a gradient before"):
        lt.train_step(m, functional.cross_entropy, opt)(*batch(0))
