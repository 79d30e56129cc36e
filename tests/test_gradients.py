"""Gradients through a compiled function are eager's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparison import same
from torch import nn

import lazytorch as lt
from lazytorch.runtime.backward import random_state


class Sign(torch.autograd.Function):
    """Straight-through estimator: backward is the identity, which is not sign's derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return g * 3


def gradient_functions() -> dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    def no_grad_inside(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            shift = (x * w).mean()
        return (x * w - shift).square().sum()

    return {
        "plain": lambda x, w: (x @ w).relu().sum(),
        "detach": lambda x, w: (x @ w * (x @ w).detach()).sum(),
        "no_grad": no_grad_inside,
        "custom": lambda x, w: (Sign.apply(x) @ w).sum(),
        "in_place": lambda x, w: (x @ w).mul_(2).add_(1).square().sum(),
        "dropout": lambda x, w: torch.dropout(x @ w, 0.5, True).square().sum(),
        "view": lambda x, w: (x * 2).t()[0].square().sum() + w.sum(),
    }


def gradients(y: torch.Tensor, *xs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """None where `y` does not depend on an x."""
    return torch.autograd.grad(y, xs, allow_unused=True)


@pytest.mark.parametrize("name", list(gradient_functions()))
def test_gradients_are_eagers(name: str) -> None:
    fn = gradient_functions()[name]
    fast = lt.compile(fn, wait=True)
    for _ in range(2):
        x = torch.randn(4, 4, requires_grad=True)
        w = torch.randn(4, 4, requires_grad=True)
        torch.manual_seed(5)
        y = fast(x, w)
        ours = gradients(y, x, w)
        torch.manual_seed(5)
        z = fn(x, w)
        same(y, z)
        theirs = gradients(z, x, w)
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b)


def test_results_require_grad_exactly_where_eagers_do() -> None:
    def f(x: torch.Tensor) -> Any:
        with torch.no_grad():
            a = x + 1
        return a, x.detach(), x.argmax(), x > 0, x * 2, torch.zeros_like(x), x[0], x.long()

    fast = lt.compile(f)
    for flag in (True, False):
        x = torch.randn(3, requires_grad=flag)
        assert [y.requires_grad for y in fast(x)] == [y.requires_grad for y in f(x)]


def test_double_backward_through_a_compiled_module() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    fast = lt.compile(model)

    def penalty(f: Any) -> torch.Tensor:
        x = torch.linspace(0, 1, 6).reshape(3, 2).requires_grad_()
        (g,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        model.zero_grad()
        g.square().sum().backward()
        grad = model.get_parameter("0.weight").grad
        assert grad is not None
        return grad.clone()

    torch.testing.assert_close(penalty(fast), penalty(model))


def test_training_a_step_with_buffers_follows_eager() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
        return net, torch.optim.SGD(net.parameters(), 0.1)

    (ours, our_step), (theirs, their_step) = build(), build()
    fast = lt.compile(ours, wait=True)
    for seed in range(4):
        x = torch.randn(16, 4)
        for net, step in ((fast, our_step), (theirs, their_step)):
            torch.manual_seed(seed)
            step.zero_grad()
            net(x).square().mean().backward()
            step.step()
        same(ours.state_dict(), theirs.state_dict())


def test_a_branch_first_taken_later_has_gradients() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return (x * w).sum()
        return (x * w * w).sum() if x.sum() > -5 else w.sum() * 3

    fast = lt.compile(f)
    for sign in (1.0, -1.0, 1.0, -2.0, -1.0, -2.0):
        ours = torch.ones(3, requires_grad=True)
        theirs = torch.ones(3, requires_grad=True)
        x = torch.arange(1.0, 4.0) * sign
        fast(x, ours).backward()
        f(x, theirs).backward()
        same(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("fn", "draws"),
    [
        (lambda x: x * 2, False),
        (lambda x: nn.functional.dropout(x, 0.5), True),
        (lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)), True),
        (lambda x: x * 2 if x.sum() > 0 else x * 3, True),  # what follows a cut is not known
    ],
)
def test_a_random_state_is_kept_where_something_may_be_drawn(fn: Any, draws: bool) -> None:
    fast = lt.compile(fn, wait=True)
    x = torch.randn(4, requires_grad=True)
    fast(x)
    assert bool(random_state(fast.programs()[0])) == draws
