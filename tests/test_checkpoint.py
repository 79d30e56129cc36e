"""torch.utils.checkpoint runs a function again in the backward pass: with what it writes."""

from typing import Any

import pytest
import torch
import torch._dynamo  # by checkpoint's first call, if not here: it would be inside a recording
from comparison import same
from torch import nn
from torch.utils.checkpoint import checkpoint

import lazytorch as lt
from lazytorch.errors import UnsupportedError


class Checkpointed(nn.Module):
    """A block that is run again, with a norm in it or without."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        middle = nn.BatchNorm1d(4) if norm else nn.Tanh()
        self.block = nn.Sequential(nn.Linear(4, 4), middle, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = checkpoint(self.block, x, use_reentrant=False)
        return result


def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x - y).square().mean()


def batch() -> torch.Tensor:
    return torch.linspace(-2, 3, 32).reshape(8, 4).sin()


def test_what_is_written_twice_in_eager_is_refused_by_name() -> None:
    model = Checkpointed(True)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(UnsupportedError, match="checkpointed function writes"):
        lt.compile(model)(batch())
    with pytest.raises(UnsupportedError, match="checkpointed function writes"):
        lt.grad(lambda x: model(x).sum())(batch())
    same(dict(model.state_dict()), before)


@pytest.mark.parametrize("mode", ["no gradients", "evaluation"])
def test_what_is_not_run_again_is_recorded(mode: str) -> None:
    eager, model = Checkpointed(True), Checkpointed(True)
    if mode == "evaluation":
        eager.eval()
        model.eval()
    compiled = lt.compile(model, fullgraph=True)
    with torch.set_grad_enabled(mode == "evaluation"):
        for _ in range(3):
            torch.testing.assert_close(compiled(batch()), eager(batch()))
    same(dict(model.state_dict()), dict(eager.state_dict()))


@pytest.mark.parametrize("norm", [False, True])
def test_a_training_step_leaves_what_eagers_does(norm: bool) -> None:
    eager, model = Checkpointed(norm), Checkpointed(norm)
    theirs = torch.optim.SGD(eager.parameters(), 0.1)
    ours = torch.optim.SGD(model.parameters(), 0.1)
    step: Any = lt.train_step(model, loss, ours)
    for _ in range(3):
        theirs.zero_grad()
        loss(eager(batch()), batch()).backward()
        theirs.step()
        step(batch(), batch())
    torch.testing.assert_close(dict(model.state_dict()), dict(eager.state_dict()))
