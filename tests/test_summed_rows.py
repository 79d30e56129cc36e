"""Rows that are only read, once each: walked from a shorter length on, by blocks on their way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_row_kernels import DEVICE, compare, tensor

from lazytorch.alone import better_alone
from lazytorch.ir import Builder, Graph, input
from lazytorch.lower.kernel import once
from lazytorch.lower.triton import TritonTarget, rows
from lazytorch.ops.fused import Fused
from lazytorch.ops.loss import RowCrossEntropy
from lazytorch.ops.norm import LayerNorm
from lazytorch.ops.philox import Dropout, PhiloxMask
from lazytorch.ops.pointwise import Add, Mul, Sub
from lazytorch.ops.reduce import Amax, LogSumExp, Mean, Softmax, Sum, Var
from lazytorch.types import tensor_type

Build = Callable[..., Any]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"HELD": 256, "SUMMED": 64, "BLOCK": 16, "PIECE": 16, "SHORTER": 16, "ALONE": 0}
    for name, size in sizes.items():
        monkeypatch.setattr(rows, name, size)
    monkeypatch.setattr(rows, "ONCE", (32, 1))


def body(build: Build, *shapes: tuple[int, ...]) -> Graph:
    inputs = tuple(
        input(f"a{k}", tensor_type(shape, torch.float32, DEVICE)) for k, shape in enumerate(shapes)
    )
    made = build(Builder(None), *inputs)
    return Graph(inputs, made if isinstance(made, tuple) else (made,))


def source(build: Build, *shapes: tuple[int, ...]) -> str:
    """The kernel for operands of float32."""
    graph = body(build, *shapes)
    types: Any = tuple(x.type for x in graph.inputs)
    return TritonTarget().prepare(Fused(graph), types).source


ONE_PASS: dict[str, Build] = {
    "sum": lambda b, x: b(Sum((1,), True), x),
    "sum of squares": lambda b, x: b(Sum((1,), True), b(Mul(), x, x)),
    "two": lambda b, x: (b(Amax((1,), True), x), b(Mean((1,), True), b(Mul(), x, 0.5))),
    "what is made of it": lambda b, x: b(Mul(), b(LogSumExp((1,), True), x), 2.0),
}
MORE: dict[str, Build] = {
    "of another's": lambda b, x: b(Sum((1,), True), b(Sub(), x, b(Mean((1,), True), x))),
    "behind more": lambda b, x: b(
        Amax((1,), True), b(Mul(), b(Add(), x, b(Amax((1,), True), x)), 0.5)
    ),
    "norm": lambda b, x: b(Sum((1,), True), b(LayerNorm((300,), 0.1, False, False), x)),
    "variance": lambda b, x: b(Var((1,), True), x),
}


@pytest.mark.parametrize("build", ONE_PASS.values(), ids=ONE_PASS)
def test_one_pass_gives_reductions_that_do_not_wait(build: Build) -> None:
    assert once(body(build, (3, 300)))


@pytest.mark.parametrize("build", MORE.values(), ids=MORE)
def test_one_pass_does_not_give_what_waits(build: Build) -> None:
    assert not once(body(build, (3, 300)))


def test_rows_that_are_read_once_are_held_up_to_a_shorter_length() -> None:
    assert "tl.range(" in source(ONE_PASS["sum of squares"], (3, 65))
    assert "for start" not in source(ONE_PASS["sum of squares"], (3, 64))
    assert "for start" not in source(MORE["of another's"], (3, 200))
    assert "for start" not in source(lambda b, x: b(Softmax(1), x), (3, 200))


def test_longer_rows_are_walked_in_larger_blocks_if_these_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "tl.arange(0, 16)" in source(ONE_PASS["sum"], (3, 256))
    assert "tl.arange(0, 32)" in source(ONE_PASS["sum"], (3, 257))
    monkeypatch.setattr(rows, "SHARED", 16 * 4 + 1)
    text = source(ONE_PASS["sum"], (3, 257))
    assert "tl.arange(0, 16)" in text and "num_stages=2" in text


def test_exponentials_are_summed_in_the_pass_that_finds_the_largest() -> None:
    assert source(ONE_PASS["what is made of it"], (3, 300)).count("tl.range(") == 1


def test_only_the_last_block_asks_what_is_there_and_is_read_ahead() -> None:
    text = source(ONE_PASS["sum"], (5, 299))
    before, rest = text.split("for start in tl.range(")
    first, last = (
        next(x for x in before.splitlines() if x.strip().startswith(f"{name} = tl.load("))
        for name in ("v0", "v0_end")
    )
    assert "mask" not in first and "mask_end" in last and "tl.load" in rest


def test_what_lies_between_rows_is_not_read() -> None:
    x = input("x", tensor_type((5, 299), torch.float32, DEVICE, (303, 1)))
    graph = Graph((x,), (ONE_PASS["sum"](Builder(None), x),))
    text = TritonTarget().prepare(Fused(graph), (x.type,)).source  # type: ignore[arg-type]
    loads = [line for line in text.splitlines() if line.startswith("    v0 = tl.load(")]
    assert "down + at" in text and len(loads) == 1 and "mask" in loads[0]


def test_what_all_rows_share_is_not_read_before_its_begin() -> None:
    def build(b: Builder, x: Any, w: Any) -> Any:
        return b(Sum((1,), True), b(Mul(), x, w))

    before, _ = source(build, (5, 299), (299,)).split("for start in tl.range(")
    shared = [x for x in before.splitlines() if "tl.load(p1 + col" in x]
    assert shared and all("mask" in x for x in shared)
    compare(TritonTarget(), build, tensor(5, 299), tensor(301)[1:-1])


SIZES = (65, 79, 80, 96, 97, 128, 257, 287, 288, 289, 303)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_rows_of_any_length(dtype: torch.dtype) -> None:
    for size in SIZES:
        compare(
            TritonTarget(),
            lambda b, x: (
                b(Sum((1,), True), x),
                b(Amax((1,), True), x),
                b(LogSumExp((1,), True), x),
            ),
            tensor(5, size, dtype=dtype),
        )


@pytest.mark.parametrize("size", [60, 200, 300])
def test_log_sum_exp_keeps_nan_and_infinities(size: int) -> None:
    x = tensor(8, size)
    x[0, 3], x[1, 4], x[2, 5], x[3, :] = math.nan, math.inf, -math.inf, -math.inf
    x[4, 1:3] = torch.tensor([math.inf, math.nan])
    x[5, :], x[5, -1], x[6, -1], x[7, -2:] = -math.inf, math.nan, 300.0, math.inf
    compare(TritonTarget(), ONE_PASS["what is made of it"], x)


@pytest.mark.parametrize("size", [129, 2000])
def test_few_rows_take_all_threads(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ALONE", 3)
    monkeypatch.setattr(rows, "APIECE", 1)
    text = source(ONE_PASS["sum"], (3, size))
    assert "'num_warps': 32" in text and "num_stages" not in text
    assert "'num_warps': 32" not in source(ONE_PASS["sum"], (4, size))
    assert "'num_warps': 2" in source(ONE_PASS["sum"], (3, 64))
    for build in ONE_PASS.values():
        compare(TritonTarget(), build, tensor(3, size))


def losses(b: Builder, x: Any, t: Any) -> Any:
    return b(RowCrossEntropy(), b(Mul(), x, 2.0), t)


@pytest.mark.parametrize("size", [20, 60, 200, 203, 300])
@pytest.mark.parametrize("programs", [1, 512], ids=["rows together", "rows alone"])
def test_the_score_of_a_class_is_read_alone(
    size: int, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PROGRAMS", programs)
    numbers = [0, size - 1, size, -1, 15, 16, -100, size // 2, 2**40]
    target = torch.tensor(numbers, device=DEVICE)[:, None]
    compare(TritonTarget(), losses, tensor(9, size), target)
    x = input("x", tensor_type((9, size), torch.float32, DEVICE))
    t = input("t", tensor_type((9, 1), torch.int64, DEVICE))
    graph = Graph((x, t), (losses(Builder(None), x, t),))
    text = TritonTarget().prepare(Fused(graph), (x.type, t.type)).source  # type: ignore[arg-type]
    assert "col ==" not in text and "tl.minimum(tl.maximum(" in text


def test_the_score_of_a_class_is_found_with_64_bit_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "REACH", 100)
    target = torch.tensor([[0], [202], [-1], [203], [100]], device=DEVICE)
    compare(TritonTarget(), losses, tensor(5, 203), target)


@pytest.mark.parametrize("size", [60, 304])
def test_the_score_of_a_class_that_is_drawn_for_is_found_among_all(size: int) -> None:
    def build(b: Builder, x: Any, seed: Any, offset: Any, t: Any) -> Any:
        kept = b(PhiloxMask((4, size), (size, 1), 2**31, 4, 2048), seed, offset)
        return b(RowCrossEntropy(), b(Dropout(2.0), x, kept), t)

    seed, offset = (torch.tensor(n, device=DEVICE) for n in (12345, 8))
    target = torch.tensor([[0], [size - 1], [-1], [33]], device=DEVICE)
    compare(TritonTarget(), build, tensor(4, size), seed, offset, target)


def test_on_a_gpu_log_sum_exp_alone_is_a_kernel() -> None:
    for device, alone in (("cuda:0", True), ("cpu", False)):
        x = input("x", tensor_type((500, 3000), torch.float32, device))
        assert better_alone(Builder(None)(LogSumExp((1,), True), x)) is alone
