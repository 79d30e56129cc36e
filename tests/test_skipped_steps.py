"""A step that `skip_nonfinite` skips leaves everything as it was, whatever the forward writes."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt


class Words(nn.Module):
    """Writes a parameter, statistics, a counter and its batch in its forward."""

    calls: torch.Tensor

    def __init__(self, looks: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4, max_norm=0.5)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 1)
        self.looks = looks
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, words: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        words.add_(1).remainder_(10)
        y = self.last(self.norm(self.table(words)))
        if self.looks and self.last.bias.sum() > 1e9:
            y = y * 2
        return (y.square() * scale).sum().sqrt()


class Remembers(nn.Module):
    """A loss with a buffer."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.mean.mul_(0.5).add_(y, alpha=0.5)
        return (y - target).square() + y


BAD = {"loss": float("inf"), "gradients": 0.0}  # the root's derivative at zero


class Run:
    """A model that is trained, with everything that a step may change."""

    def __init__(self, looks: bool, **options: Any) -> None:
        torch.manual_seed(0)
        self.model, self.loss = Words(looks), Remembers()
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        parameters = [*self.model.parameters(), self.frozen]
        self.optimizer = torch.optim.Adam(parameters, 1e-2)
        self.step = lt.train_step(
            self.model, self.loss, self.optimizer, skip_nonfinite=True, **options
        )

    def batch(self, scale: float) -> list[torch.Tensor]:
        return [torch.randint(10, (6,)), torch.tensor(scale), torch.tensor(0.5)]

    def state(self) -> Any:
        return copy.deepcopy(
            [self.model.state_dict(), self.loss.state_dict(), self.optimizer.state_dict()]
        )


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(("keep", "clip"), [(False, None), (True, None), (True, 0.1)])
@pytest.mark.parametrize("way", ["recorded", "refused", "within"])
def test_nothing_changes(bad: str, keep: bool, clip: float | None, way: str) -> None:
    options: dict[str, Any] = {"keep_grads": keep, "clip_norm": clip}
    run = Run(way == "refused", **options, **({"max_bytes": 2**30} if way == "within" else {}))
    other = Run(way == "refused", **options)
    other.step.refused = "compared with eager"
    for i, scale in enumerate([BAD[bad], 1.0, BAD[bad], 2.0, 1.0, BAD[bad], 1.0]):
        batch = run.batch(scale)
        if keep and i == 2:
            run.frozen.grad = torch.ones(3)
        everything = [*run.model.parameters(), run.frozen]
        before, given = run.state(), [x.clone() for x in batch]
        grads = [p.grad for p in everything]
        values = [None if g is None else g.clone() for g in grads]
        loss = run.step(*batch)
        if scale == BAD[bad]:
            assert loss.isfinite() == (bad == "gradients")
            torch.testing.assert_close([run.state(), batch], [before, given], rtol=0, atol=0)
            assert all(p.grad is g for p, g in zip(everything, grads, strict=True))
            torch.testing.assert_close(grads, values, rtol=0, atol=0)
            continue
        torch.testing.assert_close(loss, other.step(*given))
        torch.testing.assert_close(run.state(), other.state(), rtol=1e-5, atol=1e-7)
        assert all((p.grad is None) != keep for p in run.model.parameters())
        assert run.frozen.grad is None or not keep
    assert bool(run.step.refused) == (way == "refused")
    assert int(run.model.calls) == 4
