"""A tiny model, and ways of running it that stand for compilers which are not installed."""

from collections.abc import Callable

import torch
from torch import nn

from lazytorch.bench import Model
from lazytorch.bench.measure import Pending
from lazytorch.bench.side import Side

HERE = torch.device("cpu")
CUDA = torch.device("cuda")


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
        return {"second": self.linear(x) * scale, "first": torch.relu(x)}


def tiny() -> Model:
    torch.manual_seed(0)
    return Model(Tiny().eval(), (torch.randn(4, 16),), {"scale": 2.0})


def fake(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Model], Side]:
    def side(model: Model) -> Side:
        def call() -> Pending:
            found = model()
            return Pending(lambda: [change(x) for x in (found["second"], found["first"])])

        return Side(name, call, foreign=True)

    return side


def broken(model: Model) -> Side:
    raise ValueError("cannot\nread this model")
