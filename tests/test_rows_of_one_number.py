"""Rows whose elements are equal, or have much in common: nothing is left of them less their mean.

A mean is a rounded sum: `100.1` a thousand times has another, and a layer norm would show it.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_row_kernels import DEVICE, group, run, tensor

from lazytorch.ir import Builder
from lazytorch.lower.cpp import CppTarget
from lazytorch.lower.triton import TritonTarget, rows
from lazytorch.ops.norm import LayerNorm
from lazytorch.ops.pointwise import Add, Mul
from lazytorch.ops.reduce import Amax, Var

WALKS = {"held": 16384, "in pieces or in blocks": 64}

TARGETS = [TritonTarget] if DEVICE == "cuda" else [TritonTarget, CppTarget]


@pytest.fixture(params=WALKS.values(), ids=WALKS)
def walk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of more elements than that are held in pieces if written again, else walked."""
    monkeypatch.setattr(rows, "HELD", request.param)
    monkeypatch.setattr(rows, "PIECE", 64)
    monkeypatch.setattr(rows, "BLOCK", 32)
    monkeypatch.setattr(rows, "ONCE", (32, 1))


def norm(b: Builder, x: Any) -> Any:
    return b(LayerNorm(x.type.shape[-1:], 1e-5, False, False), x)


GROUPS = {
    "layer norm": norm,
    "of a product": lambda b, x: norm(b, b(Mul(), x, 1.1)),
    "of a sum that is kept": lambda b, x: (norm(b, total := b(Add(), x, x)), b(Mul(), total, 0.0)),
    "variance": lambda b, x: b(Var((1,), True), x),
    "variance of a product": lambda b, x: b(Var((1,), True), b(Mul(), x, 1.1)),
    "layer norm of what is less the largest": lambda b, x: norm(
        b, b(Add(), x, b(Mul(), b(Amax((1,), True), x), -0.3))
    ),
}


@pytest.mark.usefixtures("walk")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [64, 300, 1000])
@pytest.mark.parametrize("build", GROUPS.values(), ids=GROUPS)
def test_nothing_is_left(target: Any, build: Any, size: int) -> None:
    numbers = torch.tensor([[100.1], [3000.3], [1e5 + 0.1], [-7.77], [0.0]], device=DEVICE)
    x = numbers.expand(5, size).contiguous()
    for found in run(target(), group(build, [x]), [x]):
        assert found.abs().max() < 1e-6


@pytest.mark.usefixtures("walk")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("size", [64, 300, 1000])
def test_what_numbers_have_in_common_costs_no_digits(
    target: Any, size: int, transposed: bool
) -> None:
    x = tensor(6, size) + 1e6
    x = x.t().contiguous().t() if transposed else x
    exact = torch.nn.functional.layer_norm(x.double(), (size,))
    (found,) = run(target(), group(norm, [x]), [x])
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=2e-6)
    spread = group(lambda b, x: b(Var((1,), True), b(Add(), x, 0.0)), [x])
    (found,) = run(target(), spread, [x])
    torch.testing.assert_close(found.double(), x.double().var(1, keepdim=True), rtol=1e-6, atol=0.0)


@pytest.mark.usefixtures("walk")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [15, 17, 600, 3000])
def test_first_elements_that_are_far_from_the_others(
    target: Any, size: int, dtype: torch.dtype
) -> None:
    far = torch.tensor([[0.0], [3.0], [-50.0], [1e4], [1e8], [1e12], [1e18], [math.inf]])
    x = tensor(8, size)
    x[:, : min(size // 2, 16)] += far.to(DEVICE)
    x = x.to(dtype)
    rtol, atol = {
        torch.float32: (2e-6, 3e-6), torch.float64: (1e-13, 1e-13), torch.bfloat16: (1e-2, 2e-2),
    }[dtype]  # fmt: skip
    if target is TritonTarget and size > rows.HELD:  # lanes sum what is off their own first number
        rtol *= 200
    (found,) = run(target(), group(lambda b, x: b(Var((1,), True), x), [x]), [x])
    exact = x.double().var(1, keepdim=True)
    torch.testing.assert_close(found.double(), exact, rtol=rtol, atol=0.0, equal_nan=True)
    (found,) = run(target(), group(norm, [x]), [x])
    exact = torch.nn.functional.layer_norm(x.double(), (size,))
    torch.testing.assert_close(found.double(), exact, rtol=rtol, atol=atol, equal_nan=True)
