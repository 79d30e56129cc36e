"""C++ kernels along rows that begin beside each other: float64's values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

import lazytorch as lt
from lazytorch.lower.cpp import columns
from lazytorch.lower.cpp.columns import LANES, PART

SIZES = [
    (5, 40), (37, 64), (1000, 33), (PART, LANES), (PART + 1, LANES + 1), (2 * PART - 1, 1000),
    (8, 3 * LANES + 7), (3000, 49),
]  # fmt: skip
CLOSE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

FUNCTIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "sum": lambda x: (x * 2 + 1).sum(0),
    "mean": lambda x: (x * x).mean(0, keepdim=True) + 1,
    "amax": lambda x: (x * -2).amax(0),
    "amin": lambda x: (x * 2).amin(0),
    "var": lambda x: (x * 2).var(0) + 1,
    "norm": lambda x: torch.linalg.vector_norm(x + 1, dim=0),
    "softmax": lambda x: (x.t() * 0.5).softmax(-1) * 2,
    "log_softmax": lambda x: (x.t() * 0.5).log_softmax(-1) - 1,
    "logsumexp": lambda x: (x.t() * 2).logsumexp(-1) + 1,
    "layer_norm": lambda x: functional.layer_norm(x.t() * 1.5, (len(x),)) + 1,
    "of both kinds": lambda x: (x.t().relu(), (x.t() * x.t()).mean(-1, keepdim=True) + x.t()),
}

ROWS = ("softmax", "log_softmax", "layer_norm")
"""Functions whose results lie row by row: threads go along one row after the other, or turn them if
they are short."""


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def check(function: Callable[..., Any], *xs: torch.Tensor, lanes: bool = True) -> None:
    """The compiled function's results are float64's."""
    fast = lt.compile(function, wait=True)
    found, want = fast(*xs), function(*[x.double() if x.is_floating_point() else x for x in xs])
    close = CLOSE[xs[0].dtype]
    for a, b in zip(*[x if isinstance(x, tuple) else (x,) for x in (found, want)], strict=True):
        scale = max(1.0, b.abs()[b.isfinite()].max().item())  # of sums, most of which cancels
        torch.testing.assert_close(a.double(), b, rtol=close, atol=close * scale, equal_nan=True)
    assert ("lane" in fast.source()) == lanes


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_sizes(name: str, size: tuple[int, int]) -> None:
    check(FUNCTIONS[name], torch.randn(size), lanes=name not in ROWS or size[0] <= columns.SHORT)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    check(FUNCTIONS[name], torch.randn(71, 83).to(dtype), lanes=name not in ROWS)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["sum", "amax", "amin", "softmax", "logsumexp"])
def test_special_numbers(name: str, special: float) -> None:
    x = torch.randn(70, 40)
    x[3, 5] = x[69, 39] = special
    x[:, 7] = special
    check(FUNCTIONS[name], x, lanes=name not in ROWS)


def test_operands_that_are_there_once_for_a_row_or_a_place() -> None:
    x, row, place = torch.randn(50, 600), torch.randn(600), torch.randn(50, 1)
    check(lambda x, a, b: ((x - a) * b).sum(0), x, row, place)


def test_an_operand_in_another_order_and_some_of_all_columns() -> None:
    x, y, wide = torch.randn(50, 60), torch.randn(60, 50), torch.randn(50, 121)
    check(lambda x, y: (x * y.t()).sum(0), x, y)
    check(lambda x, y: (x * y).sum(0), x, wide[:, ::2][:, :60])


def test_several_dimensions_and_channels_that_lie_innermost() -> None:
    x = torch.randn(4, 48, 9, 11).to(memory_format=torch.channels_last)
    check(lambda x: (x * x).sum((0, 2, 3)), x)
    check(lambda x, g: (x * g).sum((0, 1)), torch.randn(6, 7, 80), torch.randn(6, 7, 80))


def test_integers_and_masks_are_read() -> None:
    x, mask = torch.randn(90, 64), torch.rand(90, 64) > 0.5
    check(lambda x, m, i: torch.where(m, x * i, 0).sum(0), x, mask, torch.arange(90).view(90, 1))


def test_large_sums_keep_their_accuracy() -> None:
    check(lambda x: (x + 1000).sum(0), torch.rand(200_000, 40))


def test_few_columns_stay_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    check(lambda x: (x * 2).sum(0), torch.randn(100, 64), lanes=False)


def test_a_sum_of_much_alone() -> None:
    x = torch.randn(1 << 16, 65)
    check(lambda x: x.sum(0), x)
    check(lambda x: x.mean(0), x.bfloat16())
    check(lambda x: x.sum(0), x[:1000], lanes=False)


@pytest.mark.parametrize("size", [64, 65, 300, 1000])
def test_another_operand_that_lies_row_by_row(size: int) -> None:
    x, y = torch.randn(size, 200), torch.randn(200, size)
    check(lambda x, y: (x.t() * y).sum(-1), x, y)
    check(lambda x, y: (x.t() + y).amax(-1), x, y)
