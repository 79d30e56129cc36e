"""Means and variances of C++ kernels: of numbers that have much in common, and of none at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

import lazytorch as lt
from lazytorch.lower.cpp.toolchain import find_compiler

if find_compiler() is None:
    pytest.skip("needs a C++ compiler", allow_module_level=True)


def generated(fn: Callable[..., torch.Tensor], *xs: torch.Tensor) -> torch.Tensor:
    """A function's result by a kernel of ours."""
    fast = lt.compile(fn, wait=True)
    with torch.no_grad():
        found = [fast(*xs) for _ in range(3)][-1]
    assert any(call.generated for stage in fast.programs() for call in stage.main.calls)
    return found


@pytest.mark.parametrize("value", [100.1, 3000.3, 1e5 + 0.1])
@pytest.mark.parametrize("size", [512, 1000, 5000])
def test_a_row_of_one_number_has_no_variance(size: int, value: float) -> None:
    x = torch.full((8, size), value)
    assert not generated(lambda x: functional.layer_norm(x, (size,)), x).any()
    assert not generated(lambda x: functional.layer_norm(x + x, (size,)), x).any()
    for spread in (torch.var, torch.std):
        assert not generated(lambda x, spread=spread: spread(x + x, -1), x).any()
        columns = torch.full((size, max(96, 16 * torch.get_num_threads())), value)
        assert not generated(lambda x, spread=spread: spread(x, 0), columns).any()


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("offset", [0.0, 1e5, 1e6])
def test_a_variance_far_from_zero_is_exact(dim: int, offset: float) -> None:
    x = torch.randn(1000, 600, generator=torch.Generator().manual_seed(0)) + offset
    exact = 4 * x.double().var(dim)
    found = generated(lambda x: (x * 2).var(dim), x)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0.0)


def test_moments_of_what_is_dear_to_compute() -> None:
    x = torch.randn(7, 600)
    exact = functional.layer_norm(x.double().exp(), (600,))
    found = generated(lambda x: functional.layer_norm(x.exp(), (600,)), x)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_narrower_type_rounds_first_as_torch_does() -> None:
    x = torch.randn(64, 1024) * 20
    for fn in (
        lambda x: torch.softmax(x, -1, dtype=torch.bfloat16),
        lambda x: torch.log_softmax(x, -1, dtype=torch.bfloat16),
        lambda x: (x * 2000).sum(0, dtype=torch.float16),
    ):
        fast = lt.compile(fn, wait=True)
        assert torch.equal(fast(x).nan_to_num(), fn(x).nan_to_num())
    with pytest.raises(RuntimeError):
        lt.compile(lambda x: torch.linalg.vector_norm(x, dim=0, dtype=torch.float32), wait=True)(
            torch.ones(600, 600).double()
        )
