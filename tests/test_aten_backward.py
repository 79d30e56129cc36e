"""Overloads whose derivative looks at values: torch's engine gives it, at every call anew."""

from typing import Any

import pytest
import torch

import lazytorch as lt
from lazytorch.errors import LazyTorchError


@torch.library.custom_op("lazytorch_tests::cut", mutates_args=())
def cut(x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Each part of the rows, up to the next of `ends`, times its number."""
    parts = x.tensor_split(ends.tolist()[:-1])
    return torch.cat([part * (i + 1) for i, part in enumerate(parts)])


@cut.register_fake
def _(x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def keep(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[torch.Tensor, ...],
    output: torch.Tensor,
) -> None:
    ctx.save_for_backward(inputs[1])


def back(ctx: torch.autograd.function.FunctionCtx, g: torch.Tensor) -> tuple[torch.Tensor, None]:
    (ends,) = ctx.saved_tensors  # type: ignore[attr-defined]
    parts = g.tensor_split(ends.tolist()[:-1])
    return torch.cat([part * (i + 1) for i, part in enumerate(parts)]), None


cut.register_autograd(back, setup_context=keep)


@torch.library.custom_op("lazytorch_tests::gate", mutates_args=())
def gate(x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Three times the rows where the first of `ends` is even."""
    return x * 3 if ends[0].item() % 2 == 0 else x.clone()


@gate.register_fake
def _(x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def gate_back(
    ctx: torch.autograd.function.FunctionCtx, g: torch.Tensor
) -> tuple[torch.Tensor, None]:
    """One number, looked at in Python, decides."""
    (ends,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return g * 3 if ends[0].item() % 2 == 0 else g, None


gate.register_autograd(gate_back, setup_context=keep)
ENDS = (torch.tensor([2, 5]), torch.tensor([0, 5]), torch.tensor([4, 5]))


def loss(x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return cut(x.tanh(), ends).square().sum()


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("op", [cut, gate])
def test_the_gradient_follows_the_values(op: Any, strided: bool) -> None:
    def f(x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        return op(x.tanh(), ends).square().sum()

    g = lt.compile(lt.grad(f), wait=True)
    for ends in (*ENDS, torch.tensor([3, 5])):
        x = torch.randn(3, 5).T if strided else torch.randn(5, 3)
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(f(leaf, ends), leaf)
        torch.testing.assert_close(g(x, ends), expected)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        return loss(self.linear(x), ends)


def test_a_training_step_is_one_graph() -> None:
    ours, theirs = Net(), Net()
    mine, other = (torch.optim.SGD(net.parameters(), 0.1) for net in (ours, theirs))
    step = lt.train_step(ours, None, mine)
    for ends in ENDS:
        x = torch.randn(5, 4)
        other.zero_grad()
        expected = theirs(x, ends)
        expected.backward()
        other.step()
        torch.testing.assert_close(step(x, ends), expected.detach())
    assert not step.refused
    assert "lazytorch_tests.cut.default, derived by torch's engine" in step.explain()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))


def test_a_plan_for_a_device_that_is_not_here() -> None:
    sgd = lambda ps: torch.optim.SGD(ps, 0.1)  # noqa: E731
    plan = lt.plan(Net(), (torch.randn(5, 4), ENDS[0]), device="h200", optimizer=sgd)
    assert plan.unknown["aten_backward"] == 1


def test_a_second_derivative_says_what_is_missing() -> None:
    with pytest.raises(LazyTorchError, match=r"cut\.default needs values"):
        lt.grad(lambda x: lt.grad(loss)(x, ENDS[0]).sum())(torch.randn(5, 3))


def test_one_of_torchs_own() -> None:
    def f(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return x.index_fill(0, torch.tensor([0, 2]), value).square().sum()

    x, value = torch.randn(4, 3, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f(leaf, value), leaf)
    torch.testing.assert_close(lt.grad(f)(x, value), expected)
