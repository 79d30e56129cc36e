"""Results that show one memory, arguments that do, and tensors that a forward puts elsewhere."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lazytorch as lt
from lazytorch.errors import LazyTorchError

RESULTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "chunks": lambda y: y.chunk(2, 1),
    "parts": lambda y: (y[:, :2], y[:, 2:]),
    "rows": lambda y: y.unbind(0),
    "a list": lambda y: list(y.split(1, 1)),
    "views that overlap": lambda y: (y.t(), y[0]),
    "the whole last": lambda y: (y[:2], y),
    "the whole first": lambda y: (y, y[:2]),
    "without history first": lambda y: (y.detach(), y),
    "a part without history": lambda y: (y[:2], y.detach()),
    "twice": lambda y: (y, y),
    "by name": lambda y: {"a": y, "b": [y]},
    "twice and a part": lambda y: (y, y, y[1:]),
}


def each(result: Any) -> list[torch.Tensor]:
    return torch.utils._pytree.tree_leaves(result)


@pytest.mark.parametrize("case", RESULTS)
def test_every_result_carries_its_gradient(case: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(8, 4), torch.randn(3, 8, requires_grad=True)

    def run(x: torch.Tensor) -> Any:
        return RESULTS[case](layer(x).tanh())

    fast = lt.compile(run, wait=True)
    for _ in range(2):
        got, want = each(fast(x)), each(run(x))
        assert [y.requires_grad for y in got] == [y.requires_grad for y in want]
        torch.testing.assert_close(got, want)
        grads: list[Any] = []
        for results in (got, want):
            loss = sum((k + 1) * y.square().sum() for k, y in enumerate(results))
            grads.append(torch.autograd.grad(loss, [x, layer.weight, layer.bias]))  # type: ignore[arg-type]
        torch.testing.assert_close(grads[0], grads[1])
    with torch.no_grad():
        torch.testing.assert_close(each(fast(x)), each(run(x)))


def pair(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.sin() * y.exp()).sum()


@pytest.mark.parametrize("requires", [False, True])
def test_arguments_on_one_memory_have_gradients_of_their_own(requires: bool) -> None:
    fast = lt.compile(pair, wait=True)
    x = torch.linspace(0, 1, 3).requires_grad_()
    y = x.detach().requires_grad_(requires)
    for _ in range(2):
        found: list[Any] = []
        for run in (fast, pair):
            x.grad = y.grad = None
            run(x, y).backward()
            found.append([x.grad, y.grad])
        torch.testing.assert_close(found[0][0], found[1][0])
        assert (found[0][1] is None) == (not requires)
        if requires:
            torch.testing.assert_close(found[0][1], found[1][1])
    x.grad = None
    fast(x, x).backward()
    (want,) = torch.autograd.grad(pair(x, x), x)
    torch.testing.assert_close(x.grad, want)


class Remembers(nn.Module):
    """A forward that puts what it computed in the place of what it read."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(4, 4)
        if buffer:
            self.register_buffer("mean", torch.zeros(4))
        else:
            self.mean = torch.zeros(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        return y - self.mean


@pytest.mark.parametrize("buffer", [True, False])
def test_what_a_forward_puts_elsewhere_is_eagers(buffer: bool) -> None:
    module, eager = Remembers(buffer), Remembers(buffer)
    fast = lt.compile(module, wait=True)
    for _ in range(4):
        x = torch.randn(3, 4)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), eager(x))
        torch.testing.assert_close(module.mean, eager.mean)
    ours, theirs = Remembers(buffer), Remembers(buffer)
    step = lt.train_step(ours, F.mse_loss, torch.optim.SGD(ours.parameters(), 0.1))
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1)
    for _ in range(4):
        x, y = torch.randn(5, 4), torch.randn(5, 4)
        loss = F.mse_loss(theirs(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(step(x, y), loss.detach())
        torch.testing.assert_close(ours.mean, theirs.mean)


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_draws_that_are_written_beside_a_result_keep_its_gradient(
    training: bool, inplace: bool
) -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        return F.rrelu(x * 1, training=training, inplace=inplace).square().sum()

    x = torch.randn(9, requires_grad=True)
    fast = lt.compile(run, wait=True)
    for _ in range(2):
        found: list[torch.Tensor] = []
        for call in (fast, run):
            torch.manual_seed(3)
            found += torch.autograd.grad(call(x), x)
        torch.testing.assert_close(*found)


def test_two_draws_are_two() -> None:
    x = torch.randn(200)
    fast = lt.compile(lambda x: F.rrelu(x, training=True) - F.rrelu(x, training=True), wait=True)
    torch.manual_seed(3)
    got, after = fast(x), torch.rand(1)
    torch.manual_seed(3)
    want = F.rrelu(x, training=True) - F.rrelu(x, training=True)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    torch.testing.assert_close(after, torch.rand(1), rtol=0, atol=0)
    assert want.any()


def test_a_draw_in_place_whose_derivative_would_draw_again_is_refused() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        return F.rrelu(x * 1, training=True, inplace=True).sum()

    with pytest.raises(LazyTorchError, match="draws random numbers"):
        lt.grad(run)(torch.randn(9))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_parameter_that_is_frozen_later_stays(optimizer: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    made = optimizer(net.parameters(), 0.1)
    step = lt.train_step(net, F.mse_loss, made, keep_grads=True)
    for _ in range(2):
        step(torch.randn(6, 4), torch.randn(6, 4))
    frozen = net[0].weight
    frozen.requires_grad_(False)
    before, state = frozen.clone(), deepcopy(made.state[frozen])
    for _ in range(3):
        step(torch.randn(6, 4), torch.randn(6, 4))
    assert torch.equal(frozen, before) and frozen.grad is None
    for name, x in state.items():
        torch.testing.assert_close(made.state[frozen][name], x, rtol=0, atol=0)


def unseen(write: Callable[[torch.Tensor], object]) -> Callable[[torch.Tensor], object]:
    """A write that autograd is told not to look at."""

    def done(y: torch.Tensor) -> object:
        with torch.no_grad():
            return write(y)

    return done


WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "data times": lambda y: y.data.mul_(2),
    "data within": lambda y: y.data.clamp_(-0.1, 0.1),
    "data masked": lambda y: y.data.masked_fill_(torch.eye(3, 4).bool(), 3.0),
    "a row of data": lambda y: y.data[0].zero_(),
    "detached, copied to": lambda y: y.detach().copy_(torch.ones(3, 4)),
    "detached, an element": lambda y: y.detach().__setitem__((0, 1), 5.0),
    "a part, detached": lambda y: y[1:].detach().mul_(3),
    "transposed data": lambda y: y.t().data.mul_(3),
    "unseen, whole": unseen(lambda y: y.mul_(2)),
    "unseen, a row": unseen(lambda y: y[0].zero_()),
    "unseen, an element": unseen(lambda y: y.__setitem__((0, 1), 5.0)),
    "unseen, a view": unseen(lambda y: y.view(-1)[::2].mul_(3)),
    "seen": lambda y: y.mul_(2),
    "seen, a row": lambda y: y[0].mul_(2),
    "seen, then not": lambda y: (y[0].mul_(2), y.data[1:].mul_(3)),
    "not, then seen": lambda y: (y.data.mul_(3), y[0].mul_(2)),
}


MADE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "clone": torch.clone,
    "elementwise": lambda x: x * 2,
    "reduced": lambda x: x.cumsum(0),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("case", WRITES)
def test_a_write_that_autograd_does_not_see_leaves_the_history(case: str, made: str) -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        y = MADE[made](x)
        WRITES[case](y)
        return (y * x).sum()

    torch.manual_seed(0)
    x = torch.randn(3, 4, requires_grad=True)
    (want,) = torch.autograd.grad(run(x), x)
    fast = lt.compile(run, wait=True)
    for _ in range(2):
        torch.testing.assert_close(fast(x), run(x))
        torch.testing.assert_close(torch.autograd.grad(fast(x), x)[0], want)
    torch.testing.assert_close(lt.grad(run)(x.detach()), want)


def test_what_is_put_into_a_new_tensor_has_its_gradient() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(4)
        y[0] = x[0] * 2
        with torch.no_grad():
            y[1] = 5.0
        y[2:] = x[2:].exp()
        return y.square().sum()

    x = torch.randn(4)
    (want,) = torch.autograd.grad(run(leaf := x.clone().requires_grad_()), leaf)
    torch.testing.assert_close(lt.grad(run)(x), want)
