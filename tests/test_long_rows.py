"""Rows that a program walks in passes: several reductions in one, and numbers far apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_row_kernels import DEVICE, compare, tensor

from lazytorch.ir import Builder, Graph, input
from lazytorch.lower.triton import TritonTarget, rows
from lazytorch.ops.fused import Fused
from lazytorch.ops.loss import RowCrossEntropy
from lazytorch.ops.norm import LayerNorm
from lazytorch.ops.pointwise import Add, Mul
from lazytorch.ops.reduce import Amax, LogSoftmax, LogSumExp, Mean, Softmax, Std, Var
from lazytorch.types import tensor_type


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "HELD", 64)
    monkeypatch.setattr(rows, "ALONE", 0)
    for name in ("BLOCK", "PIECE"):
        monkeypatch.setattr(rows, name, 16)
    monkeypatch.setattr(rows, "ONCE", (16, 1))


TOGETHER: dict[str, Callable[..., Any]] = {
    "the largest": lambda b, x: (b(Softmax(1), x), b(Amax((1,), True), x)),
    "mean and variance": lambda b, x: (
        b(LayerNorm((300,), 0.1, False, False), x),
        b(LogSoftmax(1), x),
    ),
    "two sums of exponentials": lambda b, x: (
        b(LogSumExp((1,), True), x),
        b(LogSumExp((1,), True), b(Mul(), x, -0.5)),
    ),
    "a sum, and what is stored": lambda b, x: (
        b(Add(), x, 1.0),
        b(Mean((1,), True), x),
        b(LogSumExp((1,), True), x),
    ),
}


@pytest.mark.parametrize("build", TOGETHER.values(), ids=TOGETHER)
def test_reductions_of_one_pass_where_exponentials_are_summed_again(
    build: Callable[..., Any],
) -> None:
    x = tensor(3, 300)
    x[1, :64] -= 1000
    x[2, -1] = 500
    compare(TritonTarget(), build, x)


def source(build: Callable[[Builder, Any], Any]) -> str:
    """The kernel for long rows of float32."""
    typed = tensor_type((3, 300), torch.float32, DEVICE)
    x = input("x", typed)
    made = build(Builder(None), x)
    body = Graph((x,), made if isinstance(made, tuple) else (made,))
    return TritonTarget().prepare(Fused(body), (typed,)).source


def test_blocks_of_rows_that_are_only_read_are_on_their_way_ahead() -> None:
    only_read = source(lambda b, x: b(Mean((1,), True), b(Mul(), x, x)))
    assert f"num_stages={rows.STAGES}" in only_read and "evict" not in only_read
    written = source(lambda b, x: (b(Mul(), x, 2.0), b(Mean((1,), True), x)))
    assert "num_stages" not in written


WHOLE: dict[str, Callable[..., Any]] = TOGETHER | {
    "mean and variance": lambda b, x: (
        b(LayerNorm((256,), 0.1, False, False), x),
        b(Var((1,), True), b(Mul(), x, 0.5)),
    ),
    "deviation": lambda b, x: (b(Std((1,), True, 3), x), b(Var((1,), True, 0), x)),
}


@pytest.mark.parametrize("build", WHOLE.values(), ids=WHOLE)
def test_rows_of_whole_steps(build: Callable[..., Any]) -> None:
    x = tensor(3, 256)
    x[1, :128] -= 1000
    x[2, -1] = 500
    compare(TritonTarget(), build, x)


@pytest.mark.parametrize("op", [Softmax(1), LogSumExp((1,), True)], ids=lambda op: op.name())
@pytest.mark.parametrize("rest", [-200.0, -95.0, 3.0])
def test_rows_that_begin_with_minus_infinity(op: Any, rest: float) -> None:
    x = tensor(3, 300) + rest
    x[0, :64] = x[1, ::2] = -math.inf
    x[2, :] = -math.inf
    compare(TritonTarget(), lambda b, x: b(op, b(Mul(), x, 1.0)), x)


def test_float64_keeps_its_precision_in_norms() -> None:
    x = tensor(3, 333, dtype=torch.float64) + 3

    def build(b: Builder, x: Any) -> Any:
        return b(LayerNorm((333,), 1e-5, False, False), x)

    compare(TritonTarget(), build, x)


def test_one_number_for_many_rows_is_read_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PROGRAMS", 2)
    scale = torch.tensor(0.5, device=DEVICE)
    compare(TritonTarget(), lambda b, x, s: b(Softmax(1), b(Mul(), x, s)), tensor(40, 9), scale)


ODD: dict[str, Callable[..., Any]] = {
    "held in pieces": lambda b, x: b(Softmax(1), b(Mul(), x, 0.5)),
    "walked once": lambda b, x: b(LogSumExp((1,), True), x),
    "two results": lambda b, x: (b(Add(), x, 1.0), b(Mean((1,), True), x)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("build", ODD.values(), ids=ODD)
def test_rows_that_begin_anywhere(build: Callable[..., Any], dtype: torch.dtype) -> None:
    for size in (65, 79, 80, 97, 303):
        compare(TritonTarget(), build, tensor(17, size, dtype=dtype))


@pytest.mark.parametrize("build", ODD.values(), ids=ODD)
def test_rows_apart_that_begin_anywhere(build: Callable[..., Any]) -> None:
    compare(TritonTarget(), build, tensor(9, 211)[:, 5:150])
    compare(TritonTarget(), build, tensor(9, 211)[::2, 16:])


def test_cross_entropy_picks_an_element_of_any_block() -> None:
    size = 131
    target = torch.tensor([[0], [130], [-100], [15], [16], [131], [-1], [64]], device=DEVICE)
    compare(
        TritonTarget(),
        lambda b, x, t: b(RowCrossEntropy(), b(Mul(), x, 2.0), t),
        tensor(8, size),
        target,
    )
