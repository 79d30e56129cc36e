"""C++ kernels over rows so short that many are computed at a time, turned so that they lie beside
each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_cases import type_of
from test_row_kernels import DEVICE, compare, group, tensor

from lazytorch.ir import Builder
from lazytorch.lower.cpp import CppTarget
from lazytorch.lower.cpp.toolchain import find_compiler
from lazytorch.ops.compare import Where
from lazytorch.ops.loss import RowCrossEntropy
from lazytorch.ops.norm import LayerNorm, RmsNorm
from lazytorch.ops.pointwise import Add, Mul
from lazytorch.ops.reduce import (
    Amax,
    Amin,
    LogSoftmax,
    LogSumExp,
    Mean,
    Softmax,
    Std,
    Sum,
    Var,
    VectorNorm,
)

if find_compiler() is None or DEVICE != "cpu":
    pytest.skip("needs a C++ compiler, and operands on the CPU", allow_module_level=True)

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def check(build: Callable[..., Any], *tensors: torch.Tensor) -> None:
    """The kernel turns rows, and gives what eager gives."""
    kernel = CppTarget().prepare(group(build, tensors), tuple(map(type_of, tensors)))
    assert "lt::beside(" in kernel.source
    compare(CppTarget(), build, *tensors)


def last(x: Any) -> tuple[int]:
    return (len(x.type.shape) - 1,)


ROWS: dict[str, Callable[[Builder, Any], Any]] = {
    "softmax": lambda b, x: b(Softmax(*last(x)), x),
    "log softmax": lambda b, x: b(LogSoftmax(*last(x)), x),
    "log of a sum of exponentials": lambda b, x: b(LogSumExp(last(x), True), x),
    "layer norm": lambda b, x: b(LayerNorm(x.type.shape[-1:], 1e-5, False, False), x),
    "mean square": lambda b, x: b(RmsNorm(x.type.shape[-1:], 1e-5), x),
    "extremes": lambda b, x: (b(Amax(last(x), True), x), b(Amin(last(x), True), x)),
    "sums": lambda b, x: (b(Sum(last(x), True), x), b(Mean(last(x), True), x)),
    "deviations": lambda b, x: (b(Var(last(x), True, 0), x), b(Std(last(x), True, 0), x)),
    "norm": lambda b, x: b(VectorNorm(last(x), True, 2), x),
}


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        *[(dtype, (33, 9)) for dtype in DTYPES],
        *[(torch.float32, shape) for shape in [(16, 17), (5, 40, 3), (300, 16), (2, 1, 70, 24)]],
    ],
    ids=str,
)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_rows_of_what_is_computed(row: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, y = tensor(*shape, dtype=dtype), tensor(*shape, dtype=dtype)
    check(lambda b, x, y: row(b, b(Add(), x, y)), x, y)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2, 16, 48])
def test_operands_that_lie_otherwise(size: int, dtype: torch.dtype) -> None:
    def build(b: Builder, x: Any, bias: Any, scale: Any, w: Any, hidden: Any) -> Any:
        scores = b(Add(), b(Mul(), x, scale), bias)
        scores = b(Where(), hidden, scores, -100.0)
        return b(Softmax(3), b(Mul(), scores, w)), scores

    x = tensor(3, 2, 49, size, dtype=dtype)
    bias = tensor(2, 49, size, dtype=dtype)
    scale, w = tensor(3, 1, 49, 1, dtype=dtype), tensor(size, dtype=dtype) * 0.1
    check(build, x, bias, scale, w, tensor(3, 1, 49, size) > 0)
    wide = tensor(3, 2, 49, size + 5, dtype=dtype)[..., 2 : size + 2]
    check(build, wide, bias, scale, w, tensor(49, size) > 0)
    across = tensor(3, 2, size, 49, dtype=dtype).transpose(2, 3)
    check(build, across, bias, scale, w, tensor(49, size) > 0)


def test_the_class_of_each_row() -> None:
    numbers = torch.randint(-1, 12, (50, 1), generator=torch.Generator().manual_seed(0)) - 1
    numbers[numbers < 0] = -100
    check(lambda b, x, c: b(RowCrossEntropy(-100), b(Mul(), x, 2.0), c), tensor(50, 10), numbers)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_nan_and_infinities(row: Any) -> None:
    x = tensor(64, 9)
    x[3, 2], x[4, 4], x[5, 5], x[6] = math.nan, math.inf, -math.inf, -math.inf
    x[40, 8], x[41, 0] = math.nan, -math.inf
    check(lambda b, x, y: row(b, b(Add(), x, y)), x, torch.zeros_like(x))


@pytest.mark.parametrize(("rows", "size"), [(15, 16), (100, 65), (1, 8)])
def test_few_or_longer_rows_are_walked(rows: int, size: int) -> None:
    x = tensor(rows, size)
    kernel = CppTarget().prepare(group(ROWS["softmax"], [x]), (type_of(x),))
    assert "lt::beside(" not in kernel.source
    compare(CppTarget(), ROWS["softmax"], x)


def test_sums_of_float32_are_turned_only_where_rows_are_shortest() -> None:
    for dtype, size, turned in (
        (torch.float32, 24, True), (torch.float32, 25, False), (torch.bfloat16, 25, True),
    ):  # fmt: skip
        x = tensor(100, size, dtype=dtype)
        source = CppTarget().prepare(group(ROWS["sums"], [x]), (type_of(x),)).source
        assert ("lt::beside(" in source) is turned


@pytest.mark.parametrize(
    ("rows", "size", "turned"), [(17, 17, True), (31, 64, True), (17, 64, False), (33, 64, False)]
)
def test_rows_that_would_leave_lanes_empty(rows: int, size: int, turned: bool) -> None:
    x, y = tensor(2, rows, size), tensor(rows, size)

    def build(b: Builder, x: Any, y: Any) -> Any:
        return b(Softmax(2), b(Add(), x, y))

    kernel = CppTarget().prepare(group(build, [x, y]), (type_of(x), type_of(y)))
    assert ("lt::beside(" in kernel.source) is turned
    compare(CppTarget(), build, x, y)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("shape", [(40, 8, 4), (6, 50, 5, 7), (33, 1, 15, 2)], ids=str)
def test_few_rows_before_an_operand_begins_again(row: Any, shape: tuple[int, ...]) -> None:
    x, bias, scale = tensor(*shape), tensor(*shape[-2:]), tensor(*shape[:-1], 1)
    check(lambda b, x, y, z: row(b, b(Mul(), b(Add(), x, y), z)), x, bias, scale)
