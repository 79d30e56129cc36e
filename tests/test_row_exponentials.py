"""Exponentials of a row less its largest element: which function they are, and that both round."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_cases import type_of
from test_row_kernels import DEVICE, group, run, tensor

from lazytorch.ir import Builder
from lazytorch.lower.cpp import CppTarget
from lazytorch.lower.kernel import Target
from lazytorch.lower.triton import TritonTarget
from lazytorch.ops.elementary import Exp, Tanh
from lazytorch.ops.loss import RowCrossEntropy
from lazytorch.ops.pointwise import Mul, Neg, Sub
from lazytorch.ops.reduce import Amax, LogSumExp, Softmax


@pytest.mark.parametrize("target", [TritonTarget, CppTarget])
@pytest.mark.parametrize("value", [torch.finfo(torch.float32).min, -1e9, 3e12])
@pytest.mark.parametrize("factor", [0.3, 0.7, 1 / 3])
def test_a_row_of_one_huge_number_scaled_is_even(
    target: type[Target], value: float, factor: float
) -> None:
    """The difference of a product and the largest rounded one is 0, though contracted it is not."""
    if target is CppTarget and DEVICE != "cpu":
        pytest.skip("a C++ kernel reads the CPU's memory")
    x, classes = torch.full((3, 40), value, device=DEVICE), torch.ones(3, 1, device=DEVICE).long()

    def build(b: Builder, x: Any, t: Any) -> Any:
        scaled = b(Mul(), x, factor)
        written_out = b(Exp(), b(Sub(), scaled, b(Amax((1,), True), scaled)))
        return b(Softmax(-1), scaled), written_out, b(RowCrossEntropy(-100), scaled, t)

    found = [run(target(), group(lambda b, *xs, k=k: build(b, *xs)[k], (x, classes)), (x, classes))
             for k in range(3)]  # fmt: skip
    for (result,), even in zip(found, (1 / 40, 1.0, math.log(40)), strict=True):
        torch.testing.assert_close(result, torch.full_like(result, even))


@pytest.mark.parametrize("target", [TritonTarget, CppTarget])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exponential_of_a_product_less_what_another_kernel_rounded_is_one(
    target: type[Target], dtype: torch.dtype
) -> None:
    if target is CppTarget and DEVICE != "cpu":
        pytest.skip("a C++ kernel reads the CPU's memory")
    x = torch.full((3, 40), torch.finfo(dtype).min, dtype=dtype, device=DEVICE)

    def build(b: Builder, x: Any, m: Any) -> Any:
        apart = b(Sub(), b(Mul(), x, 0.3), m)
        return b(Exp(), apart), b(Exp(), b(Mul(), apart, 2.0)), b(Tanh(), b(Neg(), apart))

    found = [run(target(), group(lambda b, *xs, k=k: build(b, *xs)[k], (x, x)), (x, x * 0.3))[0]
             for k in range(3)]  # fmt: skip
    assert [y.unique().tolist() for y in found] == [[1.0], [1.0], [0.0]]


def exponential(build: Callable[..., Any], *tensors: torch.Tensor) -> str:
    """Which of the two exponentials a C++ kernel calls."""
    op = group(build, tensors)
    source = CppTarget().prepare(op, tuple(map(type_of, tensors))).source
    (called,) = {name for name in ("exp", "exp_nonpositive") if f"lt::{name}(" in source}
    return called


@pytest.mark.skipif(DEVICE != "cpu", reason="a C++ kernel reads the CPU's memory")
def test_a_row_less_its_largest_element_is_known_to_be_no_more_than_zero() -> None:
    x, other = tensor(3, 40), tensor(3, 1)
    assert exponential(lambda b, x: b(Softmax(-1), b(Mul(), x, 2.0)), x) == "exp_nonpositive"
    assert exponential(lambda b, x: b(LogSumExp((1,), True), x), x) == "exp_nonpositive"

    def written_out(b: Builder, x: Any) -> Any:
        return b(Exp(), b(Sub(), x, b(Amax((1,), True), x)))

    assert exponential(written_out, x) == "exp_nonpositive"
    assert exponential(lambda b, x, y: b(Exp(), b(Sub(), x, y)), x, other) == "exp"
    assert exponential(lambda b, x: b(Exp(), b(Sub(), b(Amax((1,), True), x), x)), x) == "exp"


def test_on_a_gpu_16_bits_take_the_exponential_of_one_instruction() -> None:
    def called(dtype: torch.dtype, build: Callable[..., Any], rounding: bool = False) -> bool:
        x = tensor(3, 40, dtype=dtype)
        source = TritonTarget(rounding).prepare(group(build, (x,)), (type_of(x),)).source
        return "lt.exp_near(" in source

    def scaled(b: Builder, x: Any) -> Any:
        return b(Softmax(-1), b(Mul(), x, 2.0))

    assert called(torch.bfloat16, scaled)
    assert not called(torch.float32, scaled)
    assert not called(torch.bfloat16, lambda b, x: b(Exp(), b(Mul(), x, 2.0)))
    assert not called(torch.bfloat16, scaled, rounding=True)
