"""16-bit numbers in generated C++: what is one stays as it is, and float16 goes by blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import lazytorch as lt
from lazytorch.lower.cpp.toolchain import find_compiler

if find_compiler() is None:
    pytest.skip("needs a C++ compiler", allow_module_level=True)

ALL = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
"""The bits of all numbers of 16 bits."""

CHOICES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "relu": lambda x, y: x.relu(),
    "relu of the larger": lambda x, y: torch.maximum(x, y).relu(),
    "clamped": lambda x, y: x.clamp(-1.5, 2.0).abs(),
    "negative of the smaller": lambda x, y: -torch.minimum(x, y),
    "where": lambda x, y: torch.where(x > y, x, y),
    "masked_fill": lambda x, y: x.masked_fill(y > 0, -torch.inf),
}


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether all bits but those of NaN are."""
    bits = (found.nan_to_num(7).view(torch.int16), expected.nan_to_num(7).view(torch.int16))
    return torch.equal(found.isnan(), expected.isnan()) and torch.equal(*bits)


@pytest.mark.parametrize("name", CHOICES)
def test_what_chooses_among_bfloat16_rounds_nothing(name: str) -> None:
    x = ALL.view(torch.bfloat16).view(256, 256)
    y = x.flip(0).roll(1000).contiguous()
    compiled = lt.compile(CHOICES[name], wait=True)
    assert same(compiled(x, y), CHOICES[name](x, y))
    assert "lt::kept_bf16(" in compiled.source() and "lt::to_bf16(" not in compiled.source()


def test_a_number_that_is_no_bfloat16_is_rounded() -> None:
    x = ALL.view(torch.bfloat16).view(256, 256)
    compiled = lt.compile(lambda x: x.clamp(-1, 1 + 2**-9), wait=True)
    assert same(compiled(x), x.clamp(-1, 1 + 2**-9))
    assert "lt::to_bf16(" in compiled.source()


def test_a_number_for_each_row_is_a_bfloat16_too() -> None:
    x, row = torch.randn(300, 70).bfloat16(), torch.randn(300, 1).bfloat16()
    compiled = lt.compile(lambda x, row: torch.maximum(x, row).abs(), wait=True)
    assert same(compiled(x, row), torch.maximum(x, row).abs())
    assert "lt::kept_bf16(" in compiled.source()


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1023, 1024, 1025, 5000])
def test_all_float16_go_through_blocks(size: int) -> None:
    x = ALL.view(torch.float16)
    x = x[: x.numel() // size * size].view(-1, size)

    def larger(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(y > 0.5, x, y).relu()

    y = x.flip(0).contiguous()
    compiled = lt.compile(larger, wait=True)
    assert same(compiled(x, y), larger(x, y))
    assert "lt::widen(" in compiled.source() and "lt::narrow(" in compiled.source()


def test_float16_is_rounded_as_torch_rounds_it() -> None:
    x = ALL.view(torch.float16).float()
    between = x.nextafter(torch.tensor(torch.inf))  # right above, and half way to the next
    step = torch.where(x.isfinite(), (x * 2**-11).abs().clamp_min(2**-25), 0.0)
    for y in (x, between, x + step, x + 3 * step, x * 1.37):
        compiled = lt.compile(lambda y: (-y).half(), wait=True)
        assert same(compiled(y), (-y).half())
        assert "lt::narrow(" in compiled.source()


@pytest.mark.parametrize("size", [97, 1000, 1024, 2500])
def test_rows_of_float16_go_through_blocks(size: int) -> None:
    x, y, w = torch.randn(37, size).half(), torch.randn(37, size).half(), torch.rand(size).half()

    def norm(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x + y, (size,), w).softmax(-1)

    compiled = lt.compile(norm, wait=True)
    found, true = compiled(x, y, w), norm(x.double(), y.double(), w.double())
    eager = norm(x, y, w)
    assert (found - true).abs().max() <= 1.5 * (eager - true).abs().max()
    assert "lt::widen(" in compiled.source() and "lt::narrow(" in compiled.source()


def test_float16_is_written_over_what_it_is_made_of() -> None:
    x = torch.randn(50, 131).half()
    y, eager = x.clone(), x.clone()

    def write(x: torch.Tensor, y: torch.Tensor) -> None:
        x.copy_(torch.where(y > 0, x * 2, y - 1))

    lt.compile(write, wait=True)(y, y)
    write(eager, eager)
    assert same(y, eager)


def test_many_operands_of_float16_have_shorter_blocks() -> None:
    xs = torch.randn(12, 3000).half()

    def total(*xs: torch.Tensor) -> torch.Tensor:
        return functools.reduce(torch.maximum, xs)

    compiled = lt.compile(total, wait=True)
    assert same(compiled(*xs), total(*xs))
    assert "begin += 128" in compiled.source()


@pytest.mark.parametrize("numerics", ["fast", "eager"])
def test_eagers_rounding_rounds_no_choice(numerics: str) -> None:
    x, y = torch.randn(2, 100, 131).bfloat16()
    compiled = lt.compile(CHOICES["relu of the larger"], wait=True, numerics=numerics)
    assert same(compiled(x, y), CHOICES["relu of the larger"](x, y))
    assert "lt::to_bf16(" not in compiled.source()


def test_float16_with_gaps_and_in_other_orders() -> None:
    x, y = torch.randn(64, 90).half().t(), torch.randn(90, 128).half()[:, ::2]
    assert same(lt.compile(lambda x, y: (x + y).relu(), wait=True)(x, y), (x + y).relu())
