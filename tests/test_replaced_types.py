"""Tensors of other types in the places of others, and caches that a forward fills."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from replacing import Mean
from torch import nn

import lazytorch as lt


@pytest.mark.parametrize(
    "new",
    [lambda x: x.mean(0, dtype=torch.float64), lambda x: x[:, 0]],
    ids=["another dtype", "another shape"],
)
def test_a_tensor_of_another_type_has_a_plan_of_its_own(new: Any) -> None:
    class Other(Mean):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            before = self.mean.sum()
            self.mean = new(x)
            return x + before

    ours, theirs = Other(), Other()
    fast = lt.compile(ours)
    for rows in (4, 4, 5, 4, 5, 5, 4, 5):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(fast(x), theirs(x))
        torch.testing.assert_close(ours.mean, theirs.mean)
    assert len([x for plans in fast.plans.values() for x in plans]) <= 6


def test_what_grows_at_every_call_is_eager_in_the_end() -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(0, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = torch.cat([self.seen, x])
            return self.seen.sum(0)

    ours, theirs = Growing(), Growing()
    fast = lt.compile(ours, max_plans=4)
    for _ in range(10):
        x = torch.randn(2, 3)
        torch.testing.assert_close(fast(x), theirs(x))
        torch.testing.assert_close(ours.seen, theirs.seen)
    assert "eager from now on" in lt.report()


def test_training_steps_fill_caches_and_keep_what_they_like() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.scales: dict[int, torch.Tensor] = {}
            self.position: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.position is None:
                self.position = torch.arange(3.0)
            if len(x) not in self.scales:
                self.scales[len(x)] = torch.full((len(x), 1), 2.0)
            self.last = self.linear(x).detach()
            result = torch.zeros_like(x)
            result[:, 0] = self.linear(x)[:, 0]
            result[:, 1:] = self.linear(x * self.position)[:, 1:]
            return result * self.scales[len(x)]

    ours = Caching()
    theirs = copy.deepcopy(ours)
    optimizers = [torch.optim.AdamW(x.parameters(), 0.01) for x in (ours, theirs)]
    loss = nn.MSELoss()
    step = lt.train_step(ours, loss, optimizers[0])
    for rows in (5, 4, 5, 4, 4, 5):
        x, t = torch.randn(rows, 3), torch.randn(rows, 3)
        optimizers[1].zero_grad()
        want = loss(theirs(x), t)
        want.backward()
        optimizers[1].step()
        torch.testing.assert_close(step(x, t), want)
        torch.testing.assert_close(ours.last, theirs.last)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q)
    assert not step.why and step.compiled.plans
