"""Tensors that a forward puts in the place of others: every call puts there what eager's would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from replacing import Branching, Given, Looked, Mean, Plain, Returned, Swapped, held
from torch import nn

import lazytorch as lt
from lazytorch.errors import UnsupportedError

CALLS = 8
"""Enough for a call that is recorded, some that are looked up, and those that replay."""


KINDS: list[Callable[[], nn.Module]] = [Mean, Swapped, Given, Returned, Looked, Plain]


def called(run: Any, module: nn.Module, inputs: list[torch.Tensor]) -> list[Any]:
    """All calls of one side, before the other's: what one of them sets must not help the other."""
    return [(run(x), [y.clone() for y in held(module)]) for x in inputs]


@pytest.mark.parametrize("kind", [*KINDS, Branching])
@pytest.mark.parametrize("options", [{}, {"wait": True}, {"wait": True, "freeze": True}])
@torch.no_grad()
def test_every_call_leaves_what_eager_leaves(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    eager, module = kind().eval(), kind().eval()
    fast = lt.compile(module, **options)
    inputs = [torch.randn(4, 3) + 100 * (i > 4) for i in range(CALLS)]
    inputs += [x - 200 for x in inputs[-2:]] + inputs[:2]
    got, wanted = called(fast, module, inputs), called(eager, eager, inputs)
    for i, (one, other) in enumerate(zip(got, wanted, strict=True)):
        torch.testing.assert_close(one, other, msg=f"call {i}")
    assert sum(map(len, fast.plans.values())) == 1


@torch.no_grad()
def test_a_forward_that_fails_in_a_new_branch_loses_nothing() -> None:
    class Failing(Branching):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            if self.mean.sum().item() > 11:
                raise ValueError("too much")
            return y

    module = Failing()
    fast = lt.compile(module, wait=True)
    for _ in range(2):
        fast(torch.zeros(3))
    with pytest.raises(ValueError, match="too much"):
        fast(torch.zeros(3))
    torch.testing.assert_close(module.mean, torch.full((3,), 3.0))


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


def differentiated(run: Any, module: nn.Module, inputs: list[torch.Tensor], late: bool) -> Any:
    """Gradients of every call and what it leaves; `late`, when all calls are done."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    left, losses = [], []
    for x in leaves:
        losses.append(run(x).square().sum())
        left.append([y.clone() for y in held(module)])
        if not late:
            losses[-1].backward()
    for loss in losses if late else ():
        loss.backward()
    return [x.grad for x in leaves], left, [p.grad for p in module.parameters()]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", [Mean, Swapped, Looked, Branching])
def test_gradients_are_eagers(kind: Any, late: bool) -> None:
    if kind is Swapped and late:
        pytest.skip("it writes what an earlier backward reads, which eager refuses, too")
    torch.manual_seed(0)
    eager, module = kind(), kind()
    inputs = [torch.randn(4, 3) + 100 * (i % 3 - 1) for i in range(CALLS)]
    got = differentiated(lt.compile(module, wait=True), module, inputs, late)
    torch.testing.assert_close(got, differentiated(eager, eager, inputs, late))


def test_what_a_new_branch_writes_is_differentiated_with_what_was_there() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x[0, 1].item() < 0:
                self.mean += 1
            return x * self.mean

    eager, module = Written(), Written()
    inputs = [torch.full((4, 3), float(sign)) for sign in (1, -1, 1, -1)]
    got = differentiated(lt.compile(module, wait=True), module, inputs, late=False)
    torch.testing.assert_close(got, differentiated(eager, eager, inputs, late=False))


def test_a_tensor_assigned_before_the_backward_is_not_read_by_it() -> None:
    module = Branching()
    fast = lt.compile(module, wait=True)
    x = torch.full((3,), -100.0).requires_grad_()
    y = fast(x)
    module.mean = torch.full((3,), 7.0)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3))
    torch.testing.assert_close(module.mean, torch.full((3,), 7.0))


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


class Shared:
    """What a function finds on a class."""

    total = torch.zeros(3)


@torch.no_grad()
def test_a_class_holds_what_a_function_puts_there() -> None:
    def summed(x: torch.Tensor) -> torch.Tensor:
        Shared.total = Shared.total + x
        return Shared.total * 2

    fast, total = lt.compile(summed, wait=True), torch.zeros(3)
    for _ in range(CALLS):
        x = torch.randn(3)
        total = total + x
        torch.testing.assert_close(fast(x), total * 2)
        torch.testing.assert_close(Shared.total, total)


@pytest.mark.parametrize("grad", [False, True])
def test_a_module_that_was_compiled_by_itself_is_found_inside(grad: bool) -> None:
    torch.manual_seed(0)
    eager, module = Mean(), Mean()
    inside = lt.compile(module, wait=True)
    fast = lt.compile(lambda x: inside(inside(x)), wait=True)
    for _ in range(CALLS):
        x = torch.randn(4, 3)
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(fast(x), eager(eager(x)))
        torch.testing.assert_close(module.mean, eager.mean)


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


class Both(nn.Module):
    """Two buffers that change places, in a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = Swapped()

    def forward(self, y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (self.inside(y) - t).mean()


def test_whatever_is_replaced_keeps_a_step_from_being_skipped_unseen() -> None:
    first = nn.Sequential(nn.Linear(3, 3), Plain())
    for net, loss in ((first, nn.MSELoss()), (nn.Linear(3, 3), Both())):
        sgd = torch.optim.SGD(net.parameters(), 0.1)
        step = lt.train_step(net, loss, sgd, skip_nonfinite=True)
        x = torch.randn(4, 3)
        step(x, x)
        before = [y.clone() for m in (net, loss) for y in [*held(m), *m.parameters()]]
        step(x, torch.full_like(x, torch.nan))
        after = [y for m in (net, loss) for y in [*held(m), *m.parameters()]]
        torch.testing.assert_close(after, before)
        assert "replaces" in step.why


@pytest.mark.parametrize("flag", [False, True])
def test_what_a_gradient_belongs_to_is_refused_by_name(flag: bool) -> None:
    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3), flag)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.weight = nn.Parameter(self.weight.detach() * 1.1, flag)
            return x * self.weight

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = torch.zeros(3).requires_grad_()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.tanh(x + self.hidden)
            self.hidden = h.detach().requires_grad_() if flag else h
            return h

    for module in (Weights(), Hidden()):
        with pytest.raises(UnsupportedError, match="the forward changed"):
            lt.compile(module)(torch.randn(3).requires_grad_())


def test_what_has_a_history_may_take_the_place_of_what_has_none() -> None:
    class Kept(Mean):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mean = x.mean(0) * self.scale
            return x - self.mean

    ours, theirs = Kept(), Kept()
    fast = lt.compile(ours)
    for step in range(5):
        x = torch.randn(4, 3)
        with torch.set_grad_enabled(step != 2):
            torch.testing.assert_close(fast(x), theirs(x))
        assert ours.mean.requires_grad == theirs.mean.requires_grad
        if step != 2:
            for module in (ours, theirs):
                module.scale.grad = None
                module.mean.square().sum().backward()
            torch.testing.assert_close(ours.scale.grad, theirs.scale.grad)


@torch.no_grad()
def test_what_runs_eagerly_may_replace_too() -> None:
    class Counted(Mean):
        @lt.disable
        def count(self, x: torch.Tensor) -> torch.Tensor:
            self.mean = self.mean + 1
            return x * 2

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.count(x) + self.mean

    module, eager = Counted(), Counted()
    inputs = [torch.randn(4, 3) for _ in range(CALLS)]
    got = called(lt.compile(module, wait=True), module, inputs)
    torch.testing.assert_close(got, called(eager, eager, inputs))


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


@pytest.mark.parametrize("early", [True, False])
@torch.no_grad()
def test_what_eager_code_took_out_of_its_place_is_not_read_from_there(early: bool) -> None:
    """A tensor that was taken, and perhaps read, before eager code replaced it."""

    class Taken(nn.Module):
        mean: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))

        @lt.disable
        def put(self, x: torch.Tensor) -> torch.Tensor:
            self.mean = 2 * x
            return x

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            old = self.mean
            y = self.put(x + old if early else x + 1)
            return y + old + self.mean

    class Copied(Taken):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            old = self.mean.clone()
            return self.put(x + 1) + old + self.mean

    with pytest.raises(UnsupportedError, match="mean was taken before a function") as caught:
        lt.compile(Taken())(torch.ones(3))
    assert "return y + old + self.mean" in str(caught.value)
    ours, theirs = Copied(), Copied()
    fast = lt.compile(ours, wait=True)
    for i in range(CALLS):
        torch.testing.assert_close(fast(torch.full((3,), i)), theirs(torch.full((3,), i)))
