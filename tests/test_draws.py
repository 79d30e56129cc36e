"""Dropout's draws on the CPU: torch's own numbers, many at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import lazytorch as lt
from lazytorch.errors import LazyTorchError
from lazytorch.lower.cpp.toolchain import load
from lazytorch.ops.random import Bernoulli
from lazytorch.options import environment
from lazytorch.runtime.cache import DiskCache
from lazytorch.runtime.draws import SOURCE, Draws


@pytest.fixture(scope="module")
def draws() -> Draws:
    here = environment()
    try:
        return Draws(load(SOURCE, cxx=here.cxx, store=DiskCache(here.cache).get_or_build))
    except LazyTorchError:
        pytest.skip("no compiler")


def same(draws: Draws, out: torch.Tensor, p: float, before: int) -> None:
    """The numbers, and those that are drawn afterwards: normal ones come in pairs."""
    ours, theirs = torch.Generator(), torch.Generator()
    for generator in (ours, theirs):
        generator.manual_seed(before)
        torch.rand(before, generator=generator)
        torch.randn(3, generator=generator)
    wanted = out.clone().bernoulli_(p, generator=theirs)
    assert draws.fill(out, p, ours)
    assert torch.equal(out, wanted)
    assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1 / 3, 0.9, 1.0])
@pytest.mark.parametrize("count", [256, 311, 312, 313, 623, 624, 625, 5003])
@pytest.mark.parametrize("before", [0, 1, 300, 623, 624, 625])
def test_numbers_and_state_are_torchs(draws: Draws, p: float, count: int, before: int) -> None:
    if not draws.agrees():
        pytest.skip("this torch draws otherwise")
    same(draws, torch.empty(count, dtype=torch.bool), p, before)


def test_memory_is_filled_in_its_own_order(draws: Draws) -> None:
    if not draws.agrees():
        pytest.skip("this torch draws otherwise")
    image = torch.empty(2, 8, 9, 7, dtype=torch.bool)
    same(draws, image.contiguous(memory_format=torch.channels_last), 0.4, 5)
    same(draws, torch.empty(40, 30, dtype=torch.bool).t(), 0.4, 5)


def test_what_has_gaps_is_few_or_of_another_type_is_torchs(draws: Draws) -> None:
    gaps = torch.empty_strided((40, 30), (64, 1), dtype=torch.bool)
    few, other = torch.empty(200, dtype=torch.bool), torch.empty(1000)
    assert not any(draws.fill(x, 0.5) for x in (gaps, few, other))


def test_another_generator_is_not_believed(draws: Draws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "run", lambda *_: 1)
    assert not draws.agrees()


def test_compiled_dropout_draws_eagers_numbers() -> None:
    def dropped(x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.3, True) * 2

    fast = lt.compile(dropped, wait=True)
    x = torch.randn(100, 77)
    for seed in range(4):
        torch.manual_seed(seed)
        wanted, behind = dropped(x), torch.rand(3)
        torch.manual_seed(seed)
        torch.testing.assert_close(fast(x), wanted)
        assert torch.equal(torch.rand(3), behind)
    assert Draws.started


def test_torch_draws_where_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bernoulli, "compiled", None)
    torch.manual_seed(1)
    got = Bernoulli((300,), torch.bool, torch.device("cpu"), None, 0.5).run()
    torch.manual_seed(1)
    assert torch.equal(got, torch.empty(300, dtype=torch.bool).bernoulli_(0.5))
