"""Every optimizer of torch's under `lt.train_step`, with its options: one graph, recorded once, and
what it leaves in parameters and state is eager's."""

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import lazytorch as lt

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "Adadelta": [{}, {"weight_decay": 0.01}, {"maximize": True}, {"foreach": True}],
    "Adafactor": [
        {}, {"weight_decay": 0.1}, {"maximize": True}, {"lr": 10.0}, {"eps": (1e-3, 9.0)},
    ],
    "Adagrad": [
        {}, {"lr_decay": 0.01, "weight_decay": 0.01}, {"maximize": True}, {"foreach": True},
        {"fused": True}, {"initial_accumulator_value": 0.1},
    ],
    "Adam": [
        {}, {"amsgrad": True}, {"weight_decay": 0.01}, {"maximize": True}, {"foreach": True},
        {"fused": True}, {"betas": (0.5, 0.7)},
    ],
    "AdamW": [{}, {"amsgrad": True}, {"maximize": True}, {"foreach": True}, {"fused": True}],
    "Adamax": [{}, {"weight_decay": 0.01}, {"maximize": True}, {"foreach": True}],
    "ASGD": [{}, {"weight_decay": 0.01}, {"maximize": True}, {"t0": 2.0, "lambd": 0.1, "lr": 0.1}],
    "Muon": [{}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw"}],
    "NAdam": [
        {}, {"weight_decay": 0.01}, {"weight_decay": 0.01, "decoupled_weight_decay": True},
        {"maximize": True}, {"foreach": True},
    ],
    "RAdam": [
        {}, {"weight_decay": 0.01}, {"weight_decay": 0.01, "decoupled_weight_decay": True},
        {"maximize": True}, {"foreach": True}, {"betas": (0.9, 0.6)},
    ],
    "RMSprop": [
        {}, {"momentum": 0.9}, {"centered": True}, {"weight_decay": 0.01}, {"maximize": True},
        {"foreach": True},
    ],
    "Rprop": [{}, {"maximize": True}, {"foreach": True}, {"etas": (0.3, 1.3)}],
    "SGD": [
        {}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.01},
        {"momentum": 0.9, "dampening": 0.1, "maximize": True}, {"momentum": 0.9, "foreach": True},
        {"momentum": 0.9, "fused": True},
    ],
}  # fmt: skip
"""By class the options of each run. ASGD's foreach form rounds its rate to float32, even in steps
of float64: torch's two forms differ, and a recorded step is the other one."""

ELSEWHERE = {
    "LBFGS": "refused: test_a_step_that_needs_a_closure_is_refused",
    "SparseAdam": "takes no dense gradients, in eager neither",
}
STEPS = 8
CASES = [
    pytest.param(name, options, dtype, id=f"{name}-{options}-{str(dtype)[6:]}")
    for name, every in OPTIONS.items()
    for options in every
    for dtype in (torch.float32, torch.float64)
]


class Given(nn.Module):
    """Parameters whose gradients are what the forward is given."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.p = nn.ParameterList([nn.Parameter(torch.randn(s, dtype=dtype)) for s in shapes])

    def forward(self, *gs: torch.Tensor) -> torch.Tensor:
        return sum(((p * g).sum() for p, g in zip(self.p, gs, strict=True)), torch.zeros(()))


def made(name: str, m: Given, options: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer, with a group of another rate."""
    first, *rest = m.p
    optimizer: Any = getattr(torch.optim, name)
    rate = inspect.signature(optimizer).parameters["lr"].default
    return optimizer([{"params": rest}, {"params": [first], "lr": rate / 3}], **options)


def shapes(name: str) -> list[tuple[int, ...]]:
    """Muon takes matrices alone."""
    every = [(9, 5), (7,), (), (1,), (3, 2, 4)]
    return [(9, 5), (4, 6)] if name == "Muon" else every


def gradients(name: str, i: int, dtype: torch.dtype) -> list[torch.Tensor]:
    gen = torch.Generator().manual_seed(i)
    return [torch.randn(s, generator=gen, dtype=dtype) for s in shapes(name)]


def left(m: nn.Module, opt: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Parameters and state."""
    states = [x for s in opt.state.values() for x in s.values() if isinstance(x, torch.Tensor)]
    return [*[p.detach() for p in m.parameters()], *states]


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest distance in units of the last place of the largest value: sums cancel."""
    largest = b.abs().max().clamp(min=torch.finfo(b.dtype).tiny)
    unit = torch.nextafter(largest, torch.full_like(largest, torch.inf)) - largest
    return float((a - b).abs().max() / unit)


@pytest.mark.parametrize(("name", "options", "dtype"), CASES)
def test_every_optimizer_is_recorded_and_leaves_what_eagers_does(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    ours, theirs = (Given(shapes(name), dtype) for _ in range(2))
    mine, other = made(name, ours, options), made(name, theirs, options)
    flags = [dict(group, params=None) for group in mine.param_groups]
    step = lt.train_step(ours, None, mine, wait=True)
    for i in range(STEPS):
        gs = gradients(name, i, dtype)
        step(*gs)
        for p, g in zip(theirs.p, gs, strict=True):
            p.grad = g.clone()
        other.step()
    assert not step.refused
    assert len(step.compiled.programs()) == 1  # no step is another program
    assert [dict(group, params=None) for group in mine.param_groups] == flags
    mine_left, other_left = left(ours, mine), left(theirs, other)
    assert [x.dtype for x in mine_left] == [x.dtype for x in other_left]
    for a, b in zip(mine_left, other_left, strict=True):
        assert far(a, b) <= 2 * STEPS


def test_every_optimizer_of_torch_is_in_the_table() -> None:
    classes = [x for x in vars(torch.optim).values() if isinstance(x, type)]
    found = {x.__name__ for x in classes if issubclass(x, torch.optim.Optimizer)}
    assert found - {"Optimizer"} <= {*OPTIONS, *ELSEWHERE}


@pytest.mark.parametrize("name", ["RAdam", "Adafactor", "ASGD", "Rprop"])
def test_steps_that_decide_by_values_in_eager_train_a_model(name: str) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    theirs = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    theirs.load_state_dict(ours.state_dict())
    mine, other = (getattr(torch.optim, name)(m.parameters()) for m in (ours, theirs))
    step = lt.train_step(ours, functional.mse_loss, mine)
    for i in range(10):
        gen = torch.Generator().manual_seed(i)
        x = torch.randn(5, 6, generator=gen, dtype=torch.float64)
        y = torch.randn(5, 3, generator=gen, dtype=torch.float64)
        step(x, y)
        other.zero_grad()
        functional.mse_loss(theirs(x), y).backward()
        other.step()
    assert not step.refused
    torch.testing.assert_close(left(ours, mine), left(theirs, other), rtol=1e-9, atol=1e-12)


def test_the_larger_of_two_numbers_is_pythons_where_one_is_none() -> None:
    """A parameter that is no number leaves Adafactor's other elements alone, as in eager."""
    found: list[torch.Tensor] = []
    for compiled in (True, False):
        m = Given([(3,)], torch.float64)
        opt = torch.optim.Adafactor(m.parameters())
        step = lt.train_step(m, None, opt)
        for i in range(3):
            g = torch.arange(1.0, 4.0, dtype=torch.float64) + i
            if i == 2:
                with torch.no_grad():
                    m.p[0][1] = torch.nan
            if compiled:
                step(g)
            else:
                m.p[0].grad = g
                opt.step()
        found.append(m.p[0].detach())
    torch.testing.assert_close(found[0], found[1], equal_nan=True)
    assert int(found[1].isnan().sum()) == 1


class Deciding(torch.optim.SGD):
    """A user's own: steps only where the gradient is large."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if self.param_groups[0]["params"][0].grad.norm() > 1e-9:
            super().step()


def test_what_stays_eager_is_said_with_its_name_and_line() -> None:
    m = Given([(3,)], torch.float64)
    step = lt.train_step(m, None, Deciding(m.parameters(), 0.1, momentum=0.9))
    for _ in range(3):
        step(torch.ones(3, dtype=torch.float64))
    first = step.explain().splitlines()[0]
    assert first.startswith("steps with Deciding are eager's own from now on: ")
    assert "decides how Python goes on" in first
    assert __file__ in first
    step.release()
    assert "eager's own" not in step.explain()


def test_a_step_that_needs_a_closure_is_refused() -> None:
    m = nn.Linear(2, 1)
    with pytest.raises(lt.errors.LazyTorchError, match="LBFGS takes the loss several times a step"):
        lt.train_step(m, functional.mse_loss, torch.optim.LBFGS(m.parameters()))
