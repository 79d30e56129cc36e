"""Tensors that a forward puts in the place of others: every call puts there what eager's would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.errors import UnsupportedError

CALLS = 8
"""Enough for a call that is recorded, some that are looked up, and those that replay."""


class Mean(nn.Module):
    """A moving average by assignment, read after it was replaced."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return (x - self.mean) * self.scale


class Swapped(nn.Module):
    """Two buffers that change places."""

    a: torch.Tensor
    b: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("a", torch.zeros(3))
        self.register_buffer("b", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.a, self.b = self.b, self.a
        self.b += 1
        return x + self.a


class Given(nn.Module):
    """The argument stays."""

    last: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x - self.last
        self.last = x
        return y


class Returned(nn.Module):
    """What stays is the result, too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.zeros(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sum = self.sum + x
        return self.sum


class Looked(nn.Module):
    """A value decides after, and before, something was replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count = self.count + 1
        if self.count.item() > 2:
            self.count = self.count - 2
            return x * self.count
        return x - self.count


class Plain(nn.Module):
    """An attribute that is no buffer, of a module inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(3, 3)
        self.inside.state = torch.ones(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inside.state = self.inside.state + x.mean(0)
        return x + self.inside.state


KINDS: list[Callable[[], nn.Module]] = [Mean, Swapped, Given, Returned, Looked, Plain]


def held(module: nn.Module) -> list[torch.Tensor]:
    plain = [x for m in module.modules() for x in vars(m).values() if isinstance(x, torch.Tensor)]
    return [*module.buffers(), *plain]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"wait": True}, {"wait": True, "freeze": True}])
def test_every_call_leaves_what_eager_leaves(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    eager, module = kind().eval(), kind().eval()
    fast = lt.compile(module, **options)
    for i in range(CALLS):
        x = torch.randn(4, 3)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), eager(x), msg=f"call {i}")
        for a, b in zip(held(module), held(eager), strict=True):
            torch.testing.assert_close(a, b, msg=f"after call {i}")
    assert sum(map(len, fast.plans.values())) == 1


def test_objects_are_those_of_eager() -> None:
    module, x = Given(), torch.randn(4, 3)
    fast = lt.compile(module, wait=True)
    for _ in range(CALLS):
        fast(x)
        assert module.last is x
    summing = Returned()
    fast = lt.compile(summing, wait=True)
    before = summing.sum
    for _ in range(CALLS):
        y = fast(x)
        assert summing.sum is y
    assert not before.any()
    swapped = Swapped()
    a, b = swapped.a, swapped.b
    fast = lt.compile(swapped, wait=True)
    fast(x)
    assert swapped.a is b and swapped.b is a
    fast(x)
    assert swapped.a is a and swapped.b is b


@pytest.mark.parametrize("kind", [Mean, Swapped, Looked])
def test_gradients_are_eagers(kind: Any) -> None:
    torch.manual_seed(0)
    eager, module = kind(), kind()
    fast = lt.compile(module, wait=True)
    for _ in range(CALLS):
        xs = [torch.randn(4, 3).requires_grad_() for _ in range(2)]
        xs[1].data.copy_(xs[0].detach())
        for run, x in zip((fast, eager), xs, strict=True):
            run(x).square().sum().backward()
        torch.testing.assert_close(xs[0].grad, xs[1].grad)
        for a, b in zip(held(module), held(eager), strict=True):
            torch.testing.assert_close(a, b)
    for p, q in zip(module.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("kind", [Mean, Looked])
def test_gradients_of_gradients_find_what_the_call_found(kind: Any) -> None:
    torch.manual_seed(0)
    eager, module = kind(), kind()
    fast = lt.compile(module, wait=True)
    for _ in range(CALLS):
        value, found = torch.randn(4, 3), []
        for run in (fast, eager):
            x = value.clone().requires_grad_()
            (g,) = torch.autograd.grad(run(x).pow(3).sum(), x, create_graph=True)
            found.append(torch.autograd.grad(g.square().sum(), x)[0])
        torch.testing.assert_close(*found)
        for a, b in zip(held(module), held(eager), strict=True):
            torch.testing.assert_close(a, b)


def test_a_training_step_replaces_as_eagers_does() -> None:
    torch.manual_seed(0)
    nets = [Mean(), Mean()]
    sgds = [torch.optim.SGD(net.parameters(), 0.1) for net in nets]
    step = lt.train_step(nets[0], lambda y, t: (y - t).square().mean(), sgds[0])
    for _ in range(CALLS):
        x, t = torch.randn(4, 3), torch.randn(4, 3)
        loss = (nets[1](x) - t).square().mean()
        loss.backward()
        sgds[1].step()
        sgds[1].zero_grad()
        torch.testing.assert_close(step(x, t), loss.detach())
        torch.testing.assert_close(nets[0].mean, nets[1].mean)
    assert not step.refused
    torch.testing.assert_close(nets[0].scale, nets[1].scale)


def test_a_step_that_is_skipped_puts_back_what_was_replaced() -> None:
    net = Mean()
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    step = lt.train_step(net, lambda y, t: (y - t).mean(), sgd, skip_nonfinite=True)
    x = torch.randn(4, 3)
    step(x, x)
    mean, before = net.mean, net.mean.clone()
    assert before.any()
    step(x, torch.full_like(x, torch.nan))
    assert net.mean is mean
    torch.testing.assert_close(net.mean, before)
    step(x, x)
    assert "replaces mean" in step.why
    torch.testing.assert_close(net.mean, 0.9 * before + 0.1 * x.mean(0))


@pytest.mark.parametrize(
    "new",
    [lambda x: x.mean(0, dtype=torch.float64), lambda x: x[:, 0], lambda x: x.mean(0) * 2],
    ids=["another dtype", "another shape", "with a gradient"],
)
def test_a_tensor_of_another_type_is_refused_by_name(new: Any) -> None:
    class Other(Mean):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mean = new(x)
            return x

    module = Other()
    before = module.mean
    with pytest.raises(UnsupportedError, match="the forward changed mean") as caught:
        lt.compile(module)(torch.randn(4, 3).requires_grad_())
    assert "self.mean = new(x)" in str(caught.value)
    assert module.mean is before


def test_what_runs_eagerly_after_something_was_replaced_is_refused() -> None:
    class Outside(Mean):
        @lt.disable
        def outside(self, x: torch.Tensor) -> torch.Tensor:
            return x - self.mean

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mean = self.mean + x.mean(0)
            return self.outside(x)

    module = Outside()
    before = module.mean
    with pytest.raises(UnsupportedError, match="after the forward replaced mean"), torch.no_grad():
        lt.compile(module)(torch.randn(4, 3))
    assert module.mean is before and not before.any()


def test_what_a_hook_of_the_backward_replaces_is_not_lost() -> None:
    module = Swapped()
    x = torch.randn(4, 3).requires_grad_()

    def backward(x: torch.Tensor) -> torch.Tensor:
        y = x * 2

        def swap(g: torch.Tensor) -> None:
            module.a, module.b = module.b, module.a

        y.register_hook(swap)
        return y + module.a

    fast = lt.compile(backward, wait=True)
    a, b = module.a, module.b
    for i in range(3):
        fast(x).sum().backward()
        assert (module.a is b) == (i % 2 == 0)
        assert (module.a is a) == (i % 2 == 1)
