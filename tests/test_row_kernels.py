"""Generated kernels for whole rows: norms and softmax with what is around them, against float64."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from kernel_cases import type_of

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported
pytest.importorskip("triton")

from lazytorch.interpret import interpret
from lazytorch.ir import Builder, Graph, Op, input
from lazytorch.lower.cpp import CppTarget
from lazytorch.lower.kernel import Target
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton.binary import interpreting
from lazytorch.lower.triton.rows import HELD
from lazytorch.ops.elementary import Exp, Rsqrt, Sqrt
from lazytorch.ops.fused import Fused
from lazytorch.ops.loss import RowCrossEntropy
from lazytorch.ops.norm import LayerNorm, RmsNorm
from lazytorch.ops.pointwise import Add, Div, Mul, Sub
from lazytorch.ops.reduce import (
    Amax,
    Amin,
    LogSoftmax,
    LogSumExp,
    Mean,
    Reduction,
    SafeSoftmax,
    Softmax,
    Sum,
    VectorNorm,
)
from lazytorch.passes import along_rows, fuse
from lazytorch.text import parse
from lazytorch.types import TensorType

Check = Callable[..., None]
DEVICE = "cpu" if interpreting() else "cuda"
BOUND = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape).to(DEVICE, dtype)


def group(build: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> Fused:
    """The operations that `build` makes of the operands, as one group."""
    inputs = [input(f"a{k}", type_of(x)) for k, x in enumerate(tensors)]
    found = build(Builder(), *inputs)
    return Fused(Graph(tuple(inputs), found if isinstance(found, tuple) else (found,)))


def run(target: Target, op: Fused, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The group's outputs by its generated kernel."""
    types = tuple(map(type_of, tensors))
    kernel = target.prepare(op, types)
    target.build([kernel])
    found = target.launcher(kernel, op, types)(*tensors)
    return found if isinstance(found, tuple) else (found,)


@pytest.fixture(params=[TritonTarget, CppTarget])
def check(request: pytest.FixtureRequest) -> Check:
    """Compares what a target's kernel gives with torch and float64."""
    if request.param is CppTarget and DEVICE != "cpu":
        pytest.skip("a C++ kernel reads the CPU's memory")
    return partial(compare, request.param())


def compare(target: Target, build: Callable[..., Any], *tensors: torch.Tensor) -> None:
    """The kernel's outputs lie as torch's do and are as near to float64: within the bound of their
    type, or, where what a row holds is nearly one number, no farther than torch's."""
    op = group(build, tensors)
    theirs = op.run(*tensors)
    wide = [x.double() if x.is_floating_point() else x for x in tensors]
    exact = group(build, wide).run(*wide)
    theirs, exact = (x if isinstance(x, tuple) else (x,) for x in (theirs, exact))
    for ours, eager, reference in zip(run(target, op, tensors), theirs, exact, strict=True):
        assert (ours.shape, ours.dtype) == (eager.shape, eager.dtype)
        if not ours.is_floating_point():
            assert torch.equal(ours, eager)
            continue
        assert torch.equal(ours.isnan(), eager.isnan())
        error, theirs = (largest(x.double() - reference) for x in (ours, eager))
        scale = max(largest(reference), 1.0)
        assert error <= max(BOUND[ours.dtype] * scale, 1.1 * theirs), (error, theirs, scale)


def largest(x: torch.Tensor) -> float:
    return x.nan_to_num(0, 0, 0).abs().max().item()


def layer_norm(size: int) -> Op:
    return LayerNorm((size,), 1e-5)


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("shape", [(3, 64), (2, 3, 127), (5, 129), (1, 1, 768), (64,)], ids=str)
def test_sum_and_layer_norm_give_both(
    check: Check, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    def build(b: Builder, x: Any, y: Any, w: Any, c: Any) -> Any:
        total = b(Add(), x, y)
        return b(layer_norm(shape[-1]), total, w, c), total

    weights = [tensor(shape[-1], dtype=dtype) for _ in range(2)]
    check(build, tensor(*shape, dtype=dtype), tensor(*shape, dtype=dtype), *weights)


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("op", [Softmax(-1), LogSoftmax(1)], ids=lambda op: op.name())
def test_softmax_of_scaled_scores_with_a_mask(check: Check, dtype: torch.dtype, op: Op) -> None:
    mask = torch.zeros(1, 1, 77, device=DEVICE).masked_fill(tensor(1, 1, 77) > 1, -math.inf)
    if isinstance(op, LogSoftmax):
        op = LogSoftmax(2)

    def build(b: Builder, x: Any, m: Any) -> Any:
        return b(op, b(Add(), b(Mul(), x, 0.125), m))

    check(build, tensor(2, 3, 77, dtype=dtype), mask.to(dtype))


@pytest.mark.parametrize("eps", [None, 1e-6])
@pytest.mark.parametrize("dtype", BOUND, ids=str)
def test_rms_norm_of_a_product(check: Check, dtype: torch.dtype, eps: float | None) -> None:
    if dtype is torch.float16 and eps is None:
        pytest.skip("float64's epsilon is not float16's")

    def build(b: Builder, x: Any, y: Any, w: Any) -> Any:
        return b(RmsNorm((100,), eps), b(Mul(), x, y), w)

    check(build, tensor(4, 100, dtype=dtype), tensor(4, 100, dtype=dtype), tensor(100, dtype=dtype))


def test_rows_apart_in_memory_transposed_and_repeated(check: Check) -> None:
    def build(b: Builder, x: Any, y: Any, z: Any) -> Any:
        return b(LayerNorm((96,), 1e-5, False, False), b(Add(), b(Mul(), x, y), z))

    apart = tensor(6, 3, 200)[::2, :, 4:100]
    turned = tensor(3, 96, 3).transpose(1, 2)
    check(build, apart, turned, tensor(3, 1))


@pytest.mark.parametrize(
    "op", [layer_norm(70), Softmax(1), SafeSoftmax(1), LogSoftmax(1)], ids=lambda op: op.name()
)
def test_nan_and_infinities_come_out_as_eagers(check: Check, op: Op) -> None:
    x = tensor(6, 70)
    x[0, 3], x[1, 4], x[2, 5], x[4, :] = math.nan, math.inf, -math.inf, -math.inf
    weights = [tensor(70), tensor(70)] if isinstance(op, LayerNorm) else []

    def build(b: Builder, x: Any, y: Any, *rest: Any) -> Any:
        return b(op, b(Add(), x, y), *rest)

    check(build, x, torch.zeros_like(x), *weights)


def test_values_far_from_zero_keep_their_variance() -> None:
    def build(b: Builder, x: Any, y: Any) -> Any:
        return b(LayerNorm((256,), 1e-5, False, False), b(Add(), x, y))

    x = tensor(4, 256) + 1000
    op = group(build, [x, torch.zeros_like(x)])
    ours = run(TritonTarget(), op, [x, torch.zeros_like(x)])[0]
    exact = torch.nn.functional.layer_norm(x.double(), (256,))
    assert (ours - exact).abs().max() < 1e-3


GRAPH = """
graph(%x: f32[4, 128] on cuda:0, %y: f32[4, 128] on cuda:0) {
  %0 = add %x %y
  %1 = softmax{dim=1} %0
  return %1
}
"""


def test_fuse_joins_rows_with_what_is_around() -> None:
    graph = fuse(parse(GRAPH))
    assert [type(x.op) for x in graph.outputs] == [Fused]


@pytest.mark.parametrize(
    ("before", "after"),
    [("dim=1", "dim=0"), ("128", "4"), ("128", "100000")],
    ids=["another dimension", "short rows", "few long rows"],
)
def test_fuse_leaves_rows_alone(before: str, after: str) -> None:
    graph = parse(GRAPH.replace(before, after))
    assert fuse(graph) is graph


@pytest.mark.parametrize("op", [Softmax(1, torch.float64), LogSoftmax(1, torch.float64)], ids=str)
def test_a_result_in_float64_is_computed_in_float64(check: Check, op: Op) -> None:
    check(lambda b, x: b(op, b(Mul(), x, 2.0)), tensor(4, 90))  # the product is exact


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": lambda b, x: b(Sum((1,), True), b(Mul(), x, 0.5)),
    "mean, then arithmetic": lambda b, x: b(Sqrt(), b(Mean((1,), True), b(Mul(), x, x))),
    "largest and smallest": lambda b, x: (b(Amax((1,), True), x), b(Amin((1,), True), x)),
    "log of sum of exp": lambda b, x: b(Mul(), b(LogSumExp((1,), True), x), 2.0),
    "norm, and what it divides": lambda b, x: b(Div(), x, b(VectorNorm((1,), True), x)),
    "three in turn": lambda b, x: b(
        Sum((1,), True), b(Exp(), b(Sub(), x, b(Amax((1,), True), b(Add(), x, x))))
    ),
    "a row norm by hand": lambda b, x: b(
        Mul(), x, b(Rsqrt(), b(Add(), b(Mean((1,), True), b(Mul(), x, x)), 1e-6))
    ),
}


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("build", REDUCTIONS.values(), ids=REDUCTIONS)
def test_reductions_with_what_is_around(
    check: Check, build: Callable[..., Any], dtype: torch.dtype
) -> None:
    check(build, tensor(7, 131, dtype=dtype))


@pytest.mark.parametrize("build", REDUCTIONS.values(), ids=REDUCTIONS)
def test_rows_longer_than_a_program_holds(check: Check, build: Callable[..., Any]) -> None:
    check(build, tensor(3, HELD + 4099))


@pytest.mark.parametrize(
    "op", [Softmax(1), SafeSoftmax(1), LogSoftmax(1)], ids=lambda op: op.name()
)
def test_softmax_of_rows_longer_than_a_program_holds(check: Check, op: Op) -> None:
    x = tensor(3, HELD + 5000) * 10
    x[1, 7], x[2, :] = math.inf, -math.inf
    check(lambda b, x: b(op, b(Mul(), x, 0.5)), x)


@pytest.mark.parametrize("op", [Softmax(1), LogSumExp((1,), True)], ids=lambda op: op.name())
def test_a_row_whose_first_elements_lie_far_below_its_largest(check: Check, op: Op) -> None:
    x = tensor(3, 2 * HELD)
    x[1, :HELD] -= 1000
    x[2, -1] = 500
    check(lambda b, x: b(op, b(Mul(), x, 0.5)), x)


def test_layer_norm_of_rows_longer_than_a_program_holds(check: Check) -> None:
    size = HELD + 777
    check(
        lambda b, x, w, c: b(layer_norm(size), x, w, c),
        tensor(2, size) + 10,
        tensor(size),
        tensor(size),
    )


@pytest.mark.parametrize("place", [-1, 0, 16, 39, 40])
@pytest.mark.parametrize("size", [40, 1100])
def test_the_score_of_a_class_alone_is_read(check: Check, size: int, place: int) -> None:
    x = tensor(3, size)
    target = torch.tensor([[place], [size - 1], [0]], device=DEVICE)
    check(lambda b, x, t: b(RowCrossEntropy(-100), b(Mul(), x, 2.0), t), x, target)


@pytest.mark.parametrize("size", [8, 9, 31, 64])
def test_many_short_rows_share_a_program(check: Check, size: int) -> None:
    check(
        lambda b, x: (b(Softmax(2), x), b(Sum((2,), True), x)),
        tensor(3, 1409, size),
    )


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("size", [61, HELD + 1], ids=["held", "walked"])
def test_cross_entropy_of_rows(check: Check, size: int, dtype: torch.dtype) -> None:
    target = torch.tensor([[0], [size - 1], [-100], [17], [size], [-1]], device=DEVICE)
    check(
        lambda b, x, t: b(RowCrossEntropy(), b(Mul(), x, 2.0), t),
        tensor(6, size, dtype=dtype),
        target,
    )


@pytest.mark.parametrize("build", REDUCTIONS.values(), ids=REDUCTIONS)
def test_reductions_keep_nan_and_infinities(check: Check, build: Callable[..., Any]) -> None:
    x = tensor(5, 70)
    x[0, 3], x[1, 4], x[2, 5], x[3, :] = math.nan, math.inf, -math.inf, -math.inf
    check(build, x)


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("shape", [(17, 31), (200, 16), (3, 5, 130)], ids=str)
def test_rows_beside_each_other(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = tensor(*shape, dtype=dtype).transpose(-1, -2)
    last = x.dim() - 1

    def build(b: Builder, x: Any) -> Any:
        y = b(Mul(), x, 0.5)
        return b(Mean((last,), True), y), b(Amax((last,), True), y), b(Add(), y, 1.0)

    compare(TritonTarget(), build, x)


SUMS = [
    ("f32[4096, 300]", "sum{dims=(0,)}"),
    ("bf16[64, 300]", "mean{dims=(0,), keepdim=True}"),
    ("f32[2, 32, 9, 9]{2592, 1, 288, 32}", "mean{dims=(2, 3)}"),
    ("f16[6, 512, 40]", "amax{dims=(1,)}"),
]


@pytest.mark.parametrize(("typed", "op"), SUMS, ids=[op for _, op in SUMS])
def test_sums_over_the_first_dimensions(typed: str, op: str) -> None:
    graph = parse(f"graph(%x: {typed} on cuda:0) {{ %0 = {op} %x return %0 }}")
    fused = fuse(along_rows(graph))
    kernels = [x for x in fused.nodes if isinstance(x.op, Fused)]
    assert kernels and not any(isinstance(x.op, Reduction) for x in fused.nodes)
    x = graph.inputs[0].type
    assert isinstance(x, TensorType)
    drawn = torch.randn(x.shape).to(DEVICE, x.dtype)
    given = torch.empty_strided(x.shape, x.strides, dtype=x.dtype, device=DEVICE).copy_(drawn)
    known = {fused.inputs[0]: given}
    for node in fused.nodes:
        if isinstance(node.op, Fused):
            (known[node],) = run(TritonTarget(), on(node.op, DEVICE), [known[node.inputs[0]]])
        elif node not in known:
            known[node] = node.op.run(*[known[y] for y in node.inputs])
    (exact,) = interpret(graph, given.double())
    found = known[fused.outputs[0]]
    bound = BOUND[x.dtype] * max(1.0, exact.abs().max().item())
    assert found.dtype is x.dtype and (found - exact).abs().max() <= bound


def on(op: Fused, device: str) -> Fused:
    """A group written for a GPU, for where the kernels of this test run."""
    text = str(op.body) if device != "cpu" else str(op.body).replace(" on cuda:0", "")
    return Fused(parse(text))
