"""What is written between a compiled forward and its backward, and by a backward of the user's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.report import Report

Fn = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

UNREAD: dict[str, tuple[Fn, str]] = {
    "sum": (lambda x, w: x + w, "xw"),
    "scaled": (lambda x, w: (x * 2 - w / 3).sum(), "xw"),
    "views": (lambda x, w: x.t()[1:] + w[1:].flip(0), "xw"),
    "one_side": (lambda x, w: x.sin() @ x + w, "w"),
    "product": (lambda x, w: x * w.detach(), "x"),
    "mean": (lambda x, w: (x - w).mean(0, keepdim=True) + x, "xw"),
}


def tensors(requires: str) -> list[torch.Tensor]:
    return [torch.randn(3, 3).requires_grad_(name in requires) for name in "xw"]


@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize("requires", ["x", "w", "xw"])
def test_what_the_derivative_does_not_need_may_be_written(name: str, requires: str) -> None:
    fn, unread = UNREAD[name]
    fast = lt.compile(fn, wait=True)
    for which in unread * 2:
        given = tensors(requires)
        found: list[Any] = []
        for run in (fast, fn):
            x, w = [t.detach().clone().requires_grad_(t.requires_grad) for t in given]
            y = run(x, w)
            with torch.no_grad():
                (x if which == "x" else w).mul_(2)
            if y.requires_grad:
                y.square().sum().backward()
            found.append([x.grad, w.grad])
        torch.testing.assert_close(*found)


@pytest.mark.parametrize("which", "xw")
def test_what_it_needs_is_refused(which: str) -> None:
    fast = lt.compile(lambda x, w: x * w, wait=True)
    for requires in ("xw", "w" if which == "x" else "x"):
        x, w = tensors(requires)
        y = fast(x, w)
        with torch.no_grad():
            (x if which == "x" else w).mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_a_history_that_goes_on_is_the_one_before_the_write() -> None:
    def run(fn: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        h = x * 3
        y = fn(h)
        h.mul_(2)
        return torch.autograd.grad(y.sum() + h.sum(), x)[0]

    fast = lt.compile(lambda h: h * 5, wait=True)
    for _ in range(2):
        x = torch.randn(3, requires_grad=True)
        torch.testing.assert_close(run(fast, x), run(lambda h: h * 5, x))


def branching(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x * w if x.sum() > -1e9 else x


@pytest.mark.parametrize("which", "xw")
@pytest.mark.parametrize("way", ["create_graph", "pieces"])
def test_what_is_computed_again_must_be_as_it_was(which: str, way: str) -> None:
    """Also tensors that have no gradient."""
    fast = lt.compile(branching if way == "pieces" else lambda x, w: x * w, wait=True)
    for written in (False, True):
        x, w = tensors("w" if which == "x" else "x")
        y = fast(x, w)
        wanted = [t for t in (x, w) if t.requires_grad]
        if not written:
            (g,) = torch.autograd.grad(y.sum(), wanted, create_graph=way == "create_graph")
            torch.testing.assert_close(g, x if which == "x" else w)
            continue
        with torch.no_grad():
            (x if which == "x" else w).mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(y.sum(), wanted, create_graph=way == "create_graph")


def test_statistics_move_on_between_two_forwards_and_their_backwards() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    fast = lt.compile(model, wait=True)
    for create in (False, True):
        a, b = torch.randn(5, 3), torch.randn(5, 3)
        found: list[Any] = []
        for run in (fast, model):
            loss = run(a).square().sum() + run(b).sin().sum()
            found.append(torch.autograd.grad(loss, list(model.parameters()), create_graph=create))
        torch.testing.assert_close(*found)


class Counting(torch.autograd.Function):
    """Doubles; its backward counts."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        ctx.count = count
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        ctx.count.add_(1)
        return g * 2, None


def test_what_a_users_backward_writes_is_written() -> None:
    """The recording is over when `backward()` is called: eager's own backward runs, by name."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Counting.apply(self.weight * x, self.count).sum()  # type: ignore[no-any-return]

    Report.events.clear()
    model = Model()
    fast = lt.compile(model)
    for i in range(3):
        fast(torch.ones(3)).backward()
        assert model.count == i + 1
        assert model.weight.grad is not None
        assert torch.equal(model.weight.grad, torch.full((3,), 2.0 * (i + 1)))
    assert any("Counting.backward writes" in event.reason for event in Report.events)
