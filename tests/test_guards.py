"""What a compiled function reads besides its arguments: never baked in, guarded, bounded."""

import functools
from typing import Any

import pytest
import torch
from comparison import check, randn, same
from torch import nn

import lazytorch as lt
from lazytorch.errors import UnsupportedError

GLOBAL_SCALE = torch.tensor(2.0)


def test_factories_and_random_numbers_are_not_baked_in() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(3) + torch.rand_like(x)
        return x + noise + torch.zeros(3).add_(x) + torch.arange(3)

    check(f, randn((3,)))


def test_closures_and_globals_are_read_at_every_call() -> None:
    scale = torch.tensor(3.0)

    def f(x: torch.Tensor) -> torch.Tensor:
        return x * scale * GLOBAL_SCALE

    fast = lt.compile(f)
    x = torch.randn(4)
    same(fast(x), f(x))
    scale.add_(1)
    same(fast(x), f(x))
    scale = torch.tensor(5.0)
    same(fast(x), f(x))
    globals()["GLOBAL_SCALE"] = torch.tensor(7.0)
    same(fast(x), f(x))


def test_numbers_in_closures_and_globals_are_guarded() -> None:
    factor = 2

    def f(x: torch.Tensor) -> torch.Tensor:
        return x * factor

    fast = lt.compile(f)
    x = torch.randn(4)
    same(fast(x), f(x))
    factor = 3
    same(fast(x), f(x))


class Counted(nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.scale = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x * self.count * self.scale


def test_buffers_advance_once_per_call_and_attributes_are_guarded() -> None:
    model = Counted()
    fast = lt.compile(model)
    x = torch.ones(2)
    assert [fast(x)[0].item() for _ in range(3)] == [2, 4, 6]
    model.scale = 10.0
    assert fast(x)[0].item() == 40
    assert model.count.item() == 4
    model.count = torch.tensor(100.0)
    assert fast(x)[0].item() == 1010


def test_attributes_of_every_kind_are_guarded() -> None:
    class Settings:
        def __init__(self) -> None:
            self.scale = 2.0

    class Configured(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool1d(2)
            self.factors = [1.0, 2.0]
            self.config = Settings()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pool(x) * self.factors[1] * self.config.scale

    model = Configured()
    fast = lt.compile(model)
    x = torch.randn(1, 8)
    same(fast(x), model(x))
    model.config.scale = 5.0
    same(fast(x), model(x))
    model.factors = [1.0, 7.0]
    same(fast(x), model(x))
    model.pool.kernel_size = 4
    model.pool.stride = (4,)
    same(fast(x), model(x))


def test_a_forward_that_changes_an_attribute_is_refused_and_undone() -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.last = x
            return x + 1

    model = Remembering()
    with pytest.raises(UnsupportedError, match="calls"):
        lt.compile(model)(torch.ones(2))
    assert model.calls == 0 and not hasattr(model, "last")


def test_plans_are_bounded_and_recompiles_are_reported() -> None:
    lt.reset()
    fast = lt.compile(lambda x: x + 1, max_plans=3)
    for n in range(1, 8):
        fast(torch.ones(n))
    assert len(fast.plans) == 3
    assert sum(line.startswith("recompile") for line in lt.report().splitlines()) == 6


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference_modes(mode: Any) -> None:
    model = nn.Linear(3, 3)
    fast = lt.compile(model)
    x = torch.randn(2, 3)
    with mode():
        same(fast(x), model(x))
        same(fast(x), model(x))


def test_autocast_is_part_of_the_signature() -> None:
    model = nn.Linear(3, 3)
    fast = lt.compile(model)
    x = torch.randn(2, 3)
    with torch.no_grad():
        same(fast(x), model(x))
        with torch.autocast("cpu", torch.bfloat16):
            same(fast(x), model(x))
        same(fast(x), model(x))


def test_functools_partial_and_methods() -> None:
    class Holder:
        def __init__(self) -> None:
            self.model = nn.Linear(2, 2)

        def apply(self, x: torch.Tensor, k: int) -> torch.Tensor:
            return self.model(x) * k

    holder = Holder()
    x = torch.randn(3, 2)
    fast = lt.compile(functools.partial(holder.apply, k=3))
    with torch.no_grad():
        same(fast(x), holder.apply(x, 3))
        holder.model.weight.zero_()
        same(fast(x), holder.apply(x, 3))
