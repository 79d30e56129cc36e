"""Modules that put tensors in the place of others, and all that they hold."""

from __future__ import annotations

import torch
from torch import nn


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

    sum: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.zeros(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sum = self.sum + x
        return self.sum


class Looked(nn.Module):
    """A value decides after, and before, something was replaced."""

    count: torch.Tensor

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
        self.inside.state = self.inside.state + x.detach().mean(0)
        return x + self.inside.state


class Branching(nn.Module):
    """What is replaced depends on a value; one way is only read."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum().item() > 100:
            self.mean = self.mean * 2
            return x - self.mean
        if x.sum().item() < -100:
            return x * self.mean
        self.mean = self.mean + 1
        return x * self.mean


def held(module: nn.Module) -> list[torch.Tensor]:
    plain = [x for m in module.modules() for x in vars(m).values() if isinstance(x, torch.Tensor)]
    return [*module.buffers(), *plain]
