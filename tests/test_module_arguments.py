"""Modules and optimizers among the arguments are looked into like those that a function holds."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from comparison import same
from torch import nn

import lazytorch as lt

Loss = torch.Tensor


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Loss, y: Loss) -> Loss:
    optimizer.zero_grad()
    loss = (model(x) - y).square().mean()
    loss.backward()
    optimizer.step()
    return loss


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_step_of_a_model_and_an_optimizer(name: str) -> None:
    ours = net()
    theirs = copy.deepcopy(ours)
    first, second = OPTIMIZERS[name](ours), OPTIMIZERS[name](theirs)
    fast = lt.compile(step)
    for _ in range(4):
        x, y = torch.randn(5, 3), torch.randn(5, 3)
        torch.testing.assert_close(fast(ours, first, x, y), step(theirs, second, x, y))
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)
    assert len(fast.programs()) == 1


def doubled(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x) * 2


def test_each_module_has_a_plan_that_sees_what_it_holds() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    fast, x = lt.compile(doubled), torch.randn(2, 3)
    for _ in range(2):
        for model in (first, second):
            same(fast(model, x), doubled(model, x))
    assert len(fast.programs()) == 2
    first.weight.data.mul_(2)
    second.weight = nn.Parameter(second.weight * 3)
    for model in (first, second):
        same(fast(model, x), doubled(model, x))
        fast(model, x).sum().backward()
        assert model.weight.grad is not None
    many = lt.compile(doubled)
    for _ in range(40):  # more than it keeps plans of
        model = nn.Linear(3, 3)
        same(many(model, x), doubled(model, x))


def test_modules_in_containers() -> None:
    def summed(models: Sequence[nn.Module], x: torch.Tensor) -> torch.Tensor:
        return torch.stack([model(x) for model in models]).sum(0)

    fast, x = lt.compile(summed), torch.randn(2, 3)
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    for models in ([first, second], [second, first], [first, first], [first]):
        torch.testing.assert_close(fast(models, x), summed(models, x))
