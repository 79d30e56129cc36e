"""Generated kernels that choose where to read: joins, padding, windows and what is around them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_row_kernels import DEVICE, compare, tensor

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported
pytest.importorskip("triton")

from lazytorch.errors import UnsupportedError
from lazytorch.interpret import interpret
from lazytorch.ir import Builder, Graph, input
from lazytorch.lower.cpp import CppTarget
from lazytorch.lower.steps import steps
from lazytorch.lower.triton import TritonTarget
from lazytorch.ops.activation import Relu
from lazytorch.ops.copies import Cat, Clone, Flip, Pad
from lazytorch.ops.norm import LayerNorm
from lazytorch.ops.pointwise import Add, Mul, Neg
from lazytorch.ops.pool import AvgPool, MaxPool
from lazytorch.ops.reduce import Softmax
from lazytorch.passes import fuse, why_apart
from lazytorch.text import parse
from lazytorch.types import contiguous_strides, tensor_type

Build = Callable[..., Any]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check(build: Build, *tensors: torch.Tensor) -> None:
    compare(TritonTarget(), build, *tensors)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


JOINS: dict[str, tuple[Build, tuple[tuple[int, ...], ...]]] = {
    "two": (lambda b, x, y: b(Cat(1), x, y), ((3, 5, 7), (3, 9, 7))),
    "of vectors": (lambda b, x, y: b(Cat(0), x, y), ((5,), (17,))),
    "one of size 1": (lambda b, x, y: b(Cat(2), x, y), ((3, 4, 1), (3, 4, 1))),
    "a half turned": (
        lambda b, x, y: b(Mul(), b(Cat(3), b(Neg(), x), x), y),
        ((2, 3, 4, 8), (1, 1, 4, 16)),
    ),
    "a row for all inside": (
        lambda b, x, y, z: b(Cat(1), b(Add(), x, y), z),
        ((3, 5, 7), (7,), (3, 1, 7)),
    ),
    "a join of joins": (
        lambda b, x, y: b(Cat(1), b(Cat(1), x, y), b(Neg(), b(Cat(1), y, x))),
        ((3, 5), (3, 4)),
    ),
    "rows of a join": (
        lambda b, x, y: b(Softmax(1), b(Cat(1), x, b(Neg(), y))),
        ((5, 33), (5, 40)),
    ),
    "rows of one after the other": (
        lambda b, x, y: b(LayerNorm((77,), 1e-5, False, False), b(Cat(1), x, y)),
        ((2, 1, 77), (2, 9, 77)),
    ),
    "padding": (lambda b, x: b(Pad((1, 2, 0, 3), 0.5), x), ((3, 4, 5),)),
    "cutting": (lambda b, x: b(Pad((-1, 2), -1.0), b(Mul(), x, 2.0)), ((3, 9),)),
    "reversal": (lambda b, x: b(Add(), b(Flip((0, 2)), x), 1.0), ((3, 4, 9),)),
    "another layout": (lambda b, x: b(Mul(), b(Clone((1, 3)), x), 2.0), ((3, 9),)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("build", "shapes"), JOINS.values(), ids=JOINS)
def test_joins(build: Build, shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> None:
    check(build, *[tensor(*shape, dtype=dtype) for shape in shapes])


@pytest.mark.parametrize("sizes", [(16, 32, 16), (64, 64, 64), (3, 5, 8)], ids=str)
def test_channels_of_images_are_joined_with_what_follows(sizes: tuple[int, ...]) -> None:
    images = [channels_last(tensor(2, size, 6, 5)) for size in sizes]
    weights = tensor(sum(sizes), 1, 1)

    def build(b: Builder, x: Any, y: Any, z: Any, w: Any) -> Any:
        return b(Relu(), b(Mul(), b(Cat(1), x, y, z), w))

    check(build, *images, weights)


def test_a_join_of_integers_keeps_them() -> None:
    x, y = torch.arange(6, device=DEVICE), torch.arange(5, device=DEVICE) - 2**40
    check(lambda b, x, y: b(Cat(0), x, y), x, y)


POOLS = {
    "largest": MaxPool((3, 3), (2, 2), (1, 1), (1, 1)),
    "largest, hanging over": MaxPool((3, 2), (2, 3), (1, 0), (1, 1), True),
    "largest, far apart": MaxPool((2, 2), (1, 1), (1, 1), (2, 3)),
    "mean": AvgPool((2, 2), (2, 2), (0, 0)),
    "mean with padding counted": AvgPool((3, 3), (1, 1), (1, 1)),
    "mean of what is there": AvgPool((3, 3), (2, 1), (1, 1), True, False),
    "mean by another count": AvgPool((3, 2), (2, 2), (1, 1), True, True, 5),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["rows", "last"])
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_windows(pool: Any, layout: Any, dtype: torch.dtype) -> None:
    x = layout(tensor(2, 8, 9, 11, dtype=dtype))
    check(lambda b, x: b(Relu(), b(pool, b(Add(), x, 1.0))), x)


@pytest.mark.parametrize("pool", [POOLS["largest"], POOLS["mean"]], ids=lambda op: op.name())
def test_windows_keep_nan_and_infinities(pool: Any) -> None:
    x = tensor(1, 1, 8, 8)
    x[0, 0, 1, 1], x[0, 0, 4, 4], x[0, 0, 6, :2] = math.nan, math.inf, -math.inf
    x[0, 0, :, 6:] = -math.inf
    check(lambda b, x: b(pool, x), x)


GAPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "the begin of each row": lambda x: x[:, :37],
    "every third of a row": lambda x: x[:, 1::3],
    "rows far apart": lambda x: x[::2],
    "repeated rows": lambda x: x[:, None].expand(13, 5, 40),
    "repeated columns": lambda x: x[:, :1].expand(13, 40),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", GAPS.values(), ids=GAPS)
def test_copies_of_what_has_gaps_or_repeats(view: Any, dtype: torch.dtype) -> None:
    x = view(tensor(13, 40, dtype=dtype))
    check(lambda b, x: b(Clone(contiguous_strides(x.type.shape)), x), x)


@pytest.mark.parametrize(("place", "kernels"), [("", 0), (" on cuda:0", 1)], ids=["cpu", "gpu"])
def test_a_copy_of_what_has_gaps_is_a_kernel_on_a_gpu(place: str, kernels: int) -> None:
    whole = f"graph(%x: f32[4, 9]{place}) {{ %0 = clone{{strides=(9, 1)}} %x return %0 }}"
    part = f"graph(%x: f32[4, 7]{{9, 1}}{place}) {{ %0 = clone{{strides=(7, 1)}} %x return %0 }}"
    assert "fused" not in str(fuse(parse(whole)))
    assert str(fuse(parse(part))).count("fused") == kernels


def test_the_cpu_refuses_by_name() -> None:
    graph = parse("graph(%x: f32[4]) { %0 = cat{dim=0} %x %x %1 = relu %0 return %1 }")
    assert fuse(graph) is graph
    assert "only a GPU has generated kernels that choose where to read" in why_apart(graph).values()
    body = parse("graph(%x: f32[4]) { %0 = cat{dim=0} %x %x return %0 }")
    from lazytorch.ops.fused import Fused

    with pytest.raises(UnsupportedError, match="own place"):
        CppTarget().prepare(Fused(body), (body.inputs[0].type,))  # type: ignore[arg-type]


CUDA = " on cuda:0"
TURNED = """
graph(%q: f32[2, 8]{C}, %s: f32[2, 16]{C}) {{
  %0 = neg %q
  %1 = cat{{dim=1}} %0 %q
  %2 = mul %1 %s
  return %2{extra}
}}
"""


def graph_of(text: str, extra: str = "") -> Any:
    return parse(text.replace("{C}", CUDA).replace("{{", "{").replace("}}", "}").replace(
        "{extra}", extra))  # fmt: skip


def test_what_a_join_alone_reads_is_computed_in_its_kernel() -> None:
    fused = fuse(graph_of(TURNED))
    assert [x.op.name() for x in fused.nodes if x.inputs] == ["fused"]
    x, y = torch.randn(2, 8), torch.randn(2, 16)
    assert torch.equal(*[interpret(g, x, y)[0] for g in (fused, graph_of(TURNED))])


@pytest.mark.parametrize(
    ("text", "kernels"),
    [
        (graph_of(TURNED, ", %0"), 1),  # another reader: it is stored, by torch's kernel
        (graph_of(TURNED.replace("neg %q", "softmax{{dim=1}} %q")), 2),  # a row, not an element
    ],
    ids=["read elsewhere too", "rows"],
)
def test_a_join_reads_from_memory_what_others_need(text: Any, kernels: int) -> None:
    assert sum(x.op.name() == "fused" for x in fuse(text).nodes) == kernels


def test_a_window_does_not_compute_what_it_reads_many_times() -> None:
    text = """
    graph(%x: f32[1, 8, 9, 9] on cuda:0) {
      %0 = exp %x
      %1 = tanh %0
      %2 = max_pool{kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %1
      %3 = relu %2
      return %3
    }
    """
    kernels = [x for x in fuse(parse(text)).nodes if x.op.name() == "fused"]
    assert len(kernels) == 2


TURNS: dict[str, tuple[Callable[[], tuple[torch.Tensor, ...]], Build]] = {
    "a transposed operand": (
        lambda: (tensor(70, 133), tensor(133, 70).t()),
        lambda b, x, y: b(Add(), b(Mul(), x, 2.0), y),
    ),
    "in a batch, with a row and a column for all": (
        lambda: (tensor(3, 17, 65), tensor(3, 65, 17).transpose(1, 2), tensor(65), tensor(17, 1)),
        lambda b, x, y, r, c: b(Add(), b(Mul(), b(Add(), x, y), r), c),
    ),
    "images in two layouts": (
        lambda: (tensor(2, 33, 9, 7), channels_last(tensor(2, 33, 9, 7))),
        lambda b, x, y: (b(Add(), x, y), b(Relu(), x)),
    ),
    "a join of a turned half": (
        lambda: (tensor(40, 20).t(), tensor(20, 30)),
        lambda b, x, y: b(Relu(), b(Cat(1), x, y)),
    ),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tensors", "build"), TURNS.values(), ids=TURNS)
def test_operands_that_lie_in_different_orders(
    tensors: Callable[[], tuple[torch.Tensor, ...]], build: Build, dtype: torch.dtype
) -> None:
    check(build, *[x.to(dtype) for x in tensors()])


REPEATED: dict[str, tuple[Callable[[], tuple[torch.Tensor, ...]], Build]] = {
    "one number": (
        lambda: (tensor(1).expand(9), tensor(8)),
        lambda b, x, y: b(Cat(0), x, y),
    ),
    "a number for each run": (
        lambda: (tensor(5, 1).expand(5, 12), tensor(5, 20)),
        lambda b, x, y: b(Relu(), b(Cat(1), x, y)),
    ),
    "in rows": (
        lambda: (tensor(1).expand(5, 12), tensor(5, 20)),
        lambda b, x, y: b(Softmax(1), b(Cat(1), x, y)),
    ),
    "in tiles": (
        lambda: (tensor(1).expand(2, 17, 19), tensor(1, 19, 17).transpose(1, 2)),
        lambda b, x, y: b(Relu(), b(Cat(0), x, y)),
    ),
}


@pytest.mark.parametrize(("tensors", "build"), REPEATED.values(), ids=REPEATED)
def test_joins_of_what_is_repeated(
    tensors: Callable[[], tuple[torch.Tensor, ...]], build: Build
) -> None:
    check(build, *tensors())


def test_why_a_reader_at_other_places_has_its_operand_stored() -> None:
    text = "%1 = max_pool{kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %0"
    graph = fuse(parse(f"graph(%x: f32[1, 8, 9, 9] on cuda:0) {{ %0 = exp %x {text} return %1 }}"))
    assert list(why_apart(graph).values()) == ["read at other places than it is computed at"]


def test_a_chain_may_be_longer_than_pythons_stack() -> None:
    b, x = Builder(), input("x", tensor_type((4,)))
    y = x
    for _ in range(3000):
        y = b(Add(), y, x)
    assert len(steps(Graph((x,), (y,)), (4,)).all) == 3001
