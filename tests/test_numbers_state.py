"""Numbers that vary together with Python state: what a plan assumes of both, and what a forward
that keeps a number leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.compiled import Compiled
from lazytorch.errors import UnsupportedError


def recordings(fast: Compiled) -> int:
    return sum(name == "record" for name, *_ in fast.stages)


class Keeping(nn.Module):
    """Keeps a number that `keep` makes of the argument."""

    def __init__(self, keep: Callable[[float], object], last: object = 0.25) -> None:
        super().__init__()
        self.keep = keep
        self.last = last

    def forward(self, x: torch.Tensor, s: float) -> torch.Tensor:
        self.last = self.keep(s)
        return x * s


def follow(keep: Callable[[float], object], values: Sequence[float]) -> Compiled:
    """Results and the kept state are eager's at every call, of eager's types."""
    lt.reset()
    ours, theirs = Keeping(keep), Keeping(keep)
    fast = lt.compile(ours)
    x = torch.arange(1.0, 4.0)
    for s in values:
        assert torch.equal(fast(x, s), theirs(x, s))
        assert repr(ours.last) == repr(theirs.last)
        assert type(ours.last) is type(theirs.last)
    return fast


@pytest.mark.parametrize("keep", [lambda s: s, lambda s: s * 2, lambda s: (s, 1)])
def test_a_forward_that_keeps_a_number_makes_it_a_constant(keep: Callable[[float], object]) -> None:
    follow(keep, (0.5, 0.25, 0.75, 0.25, 0.5, -0.0, 0.0))
    assert "s stays a constant, because recording it as an input failed" in lt.report()


def test_a_number_that_equals_what_was_kept_before_is_a_change_all_the_same() -> None:
    ours, theirs = Keeping(lambda s: s), Keeping(lambda s: s)
    fast = lt.compile(ours)
    x = torch.ones(3)
    assert torch.equal(fast(x, 0.5), theirs(x, 0.5))
    for s in (0.25, 0.75, 0.125):
        ours.last = theirs.last = 0.25  # what the first number that varies is
        assert torch.equal(fast(x, s), theirs(x, s))
        assert ours.last == theirs.last


def test_what_is_decided_by_a_number_is_kept_and_the_number_varies() -> None:
    fast = follow(lambda s: s > 0.6, (0.5, 0.25, 0.75, 0.5, 2.0, 0.1, 0.9, 0.2))
    assert recordings(fast) <= 6
    assert "s was 0.5 and is 0.25: from now on it is an input" in lt.report()


def test_a_number_of_a_tensor_cannot_be_kept() -> None:
    class Net(nn.Module):
        last = 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last = x.sum().item()
            return x * self.last

    net = Net()
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="the forward changed last"):
            lt.compile(net)(torch.ones(3))
        assert type(net.last) is float and net.last == 1.0


def test_a_plan_holds_when_its_state_and_its_numbers_do() -> None:
    class Net(nn.Module):
        scale = 2.0

        def forward(self, x: torch.Tensor, s: float) -> torch.Tensor:
            return x * s * self.scale if s > 0.6 else x * s - self.scale

    lt.reset()
    net = Net()
    fast = lt.compile(net)
    x = torch.arange(1.0, 4.0)
    for i in range(30):
        net.scale = float(i % 3)
        s = (i % 5) / 4 + 0.01
        assert torch.equal(fast(x, s), net(x, s)), i
    assert recordings(fast) == 7, "once before s varies, then each scale on each side"
    assert "scale: " in lt.report()


def test_a_number_in_a_container_that_is_filled() -> None:
    def f(x: torch.Tensor, options: dict[str, Any], seen: list[Any]) -> torch.Tensor:
        options["rate"] = options["rate"] * 2
        seen.append(options["rate"])
        return x * options["rate"]

    fast = lt.compile(f)
    x = torch.ones(3)
    for s in (0.1, 0.2, 0.3, -0.0, float("nan")):
        ours: tuple[Any, ...] = ({"rate": s}, [1])
        theirs: tuple[Any, ...] = ({"rate": s}, [1])
        torch.testing.assert_close(fast(x, *ours), f(x, *theirs), equal_nan=True)
        assert repr(ours) == repr(theirs)
        assert type(ours[0]["rate"]) is type(ours[1][1]) is float
    assert recordings(fast) <= 4


def test_numbers_that_decide_otherwise_at_every_call_end_in_eager() -> None:
    def f(x: torch.Tensor, s: float) -> torch.Tensor:
        return x[: int(s)] * s

    lt.reset()
    fast = lt.compile(f, max_plans=3)
    x = torch.arange(1.0, 9.0)
    for i in (*range(8), *range(8)):
        assert torch.equal(fast(x, i + 0.5), f(x, i + 0.5))
    assert recordings(fast) <= 6
    assert "eager from now on" in lt.report() and "a number compares otherwise" in lt.report()
