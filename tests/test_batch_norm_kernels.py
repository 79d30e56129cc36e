"""Batch norm of a training step as generated kernels: run, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_row_kernels import DEVICE, on, run

from lazytorch.interpret import interpret
from lazytorch.ir import Graph
from lazytorch.lower.triton.kernel import TritonTarget
from lazytorch.ops.batch_norm import BatchNormBackward, BatchNormTrain
from lazytorch.ops.fused import Fused
from lazytorch.ops.reduce import Reduction
from lazytorch.passes import along_rows, batch_norm_columns, cse, fuse
from lazytorch.text import parse
from lazytorch.types import TensorType, strides_in_order

CLOSE = {"f32": 2e-5, "f16": 2e-2, "bf16": 1e-1}
SHAPES = [(2, 32, 16, 8), (3, 16, 14, 14), (520, 48), (2, 136, 2, 4, 8)]


def image(shape: tuple[int, ...], dtype: str) -> str:
    """The text of an image's type, its channels innermost."""
    strides = strides_in_order(shape, (0, *range(2, len(shape)), 1))
    return f"{dtype}{list(shape)}{{{', '.join(map(str, strides))}}} on cuda:0"


def forward(shape: tuple[int, ...], dtype: str) -> Graph:
    """A norm, its relu, and all else that a training step has of it."""
    channels = f"f32[{shape[1]}] on cuda:0"
    return parse(
        f"""
        graph(%x: {image(shape, dtype)}, %w: {channels}, %b: {channels}, %m: {channels}, %v: {channels}) {{
          %0 = batch_norm_saving{{momentum=0.3, eps=1e-05}} %x %w %b %m %v
          %1 = item{{index=0}} %0
          %2 = relu %1
          %3 = item{{index=1}} %0
          %4 = item{{index=2}} %0
          %5 = item{{index=3}} %0
          %6 = item{{index=4}} %0
          return %2, %3, %4, %5, %6
        }}
        """  # noqa: E501
    )


def backward(shape: tuple[int, ...], dtype: str) -> Graph:
    """A norm and its relu, and the derivative of both."""
    channels = f"f32[{shape[1]}] on cuda:0"
    typed = image(shape, dtype)
    return parse(
        f"""
        graph(%x: {typed}, %w: {channels}, %b: {channels}, %m: {channels}, %v: {channels}, %g: {typed}) {{
          %0 = batch_norm_saving{{momentum=0.3, eps=1e-05}} %x %w %b %m %v
          %1 = item{{index=0}} %0
          %2 = relu %1
          %3 = item{{index=3}} %0
          %4 = item{{index=4}} %0
          %5 = le %2 0
          %6 = where %5 0.0 %g
          %7 = batch_norm_backward{{eps=1e-05}} %6 %x %w %3 %4
          %8 = item{{index=0}} %7
          %9 = item{{index=1}} %7
          %10 = item{{index=2}} %7
          return %2, %8, %9, %10
        }}
        """  # noqa: E501
    )


def drawn(graph: Graph, shift: float) -> list[torch.Tensor]:
    """Values of a graph's inputs; the first one, the image, is `shift` off zero."""
    generator = torch.Generator().manual_seed(5)
    values: list[torch.Tensor] = []
    for x in graph.inputs:
        t = x.type
        assert isinstance(t, TensorType)
        value = torch.randn(t.shape, generator=generator)
        value = value + shift if not values else value.abs() if t.rank == 1 else value
        given = torch.empty_strided(t.shape, t.strides, dtype=t.dtype, device=DEVICE)
        values.append(given.copy_(value))
    return values


def by_kernels(graph: Graph, values: list[torch.Tensor]) -> list[Any]:
    """The outputs of a graph, its groups run as generated kernels."""
    known: dict[Any, Any] = dict(zip(graph.inputs, values, strict=True))
    for node in graph.nodes:
        if isinstance(node.op, Fused):
            found = run(TritonTarget(), on(node.op, DEVICE), [known[y] for y in node.inputs])
            known[node] = found if len(node.op.body.outputs) > 1 else found[0]
        elif node not in known:
            known[node] = node.op.run(*[known[y] for y in node.inputs])
    return [known[x] for x in graph.outputs]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("build", [forward, backward])
def test_values_are_a_batch_norms(build: Any, shape: tuple[int, ...], dtype: str) -> None:
    graph = build(shape, dtype)
    after = fuse(cse(batch_norm_columns(graph)))
    apart = BatchNormTrain | BatchNormBackward | Reduction
    assert not any(isinstance(x.op, apart) for x in after.nodes)
    values = drawn(graph, shift=0.5)
    exact = interpret(graph, *[x.cpu().double() for x in values])
    for found, expected in zip(by_kernels(after, values), exact, strict=True):
        scale = max(1.0, expected.abs().max().item())
        wrong = (found.cpu().double() - expected).abs() > CLOSE[dtype] * scale
        # An element that 16 bits, or a sum in another order, put on the other side of zero.
        assert wrong.sum() <= expected.numel() * (0.002 if dtype != "f32" else 0)


def test_a_mean_far_from_zero() -> None:
    graph = forward((4, 32, 16, 16), "f32")
    values = drawn(graph, shift=300.0)
    after = fuse(cse(batch_norm_columns(graph)))
    exact = interpret(graph, *[x.cpu().double() for x in values])
    for found, expected in zip(by_kernels(after, values), exact, strict=True):
        torch.testing.assert_close(found.cpu().double(), expected, rtol=3e-4, atol=3e-4)


@pytest.mark.parametrize(
    ("typed", "returned"),
    [
        ("f32[4, 32, 16, 16]{8192, 1, 512, 32}", "%1"),
        ("f32[4, 32, 16, 16] on cuda:0", "%1"),
        ("f64[512, 32] on cuda:0", "%1"),
        ("f32[512, 8] on cuda:0", "%1"),
        ("f32[64, 32] on cuda:0", "%1"),
        ("f32[512, 32] on cuda:0", "%0"),
    ],
    ids=["CPU", "row-major", "float64", "few channels", "few elements", "the tuple is returned"],
)
def test_declines(typed: str, returned: str) -> None:
    norm = "batch_norm_train{momentum=0.1, eps=1e-05, weight=False, bias=False, stats=False}"
    text = f"%0 = {norm} %x %1 = item{{index=0}} %0 return {returned}"
    graph = parse(f"graph(%x: {typed}) {{ {text} }}")
    assert batch_norm_columns(graph) is graph


VARIANCES = ["var{dims=(0,), correction=0}", "var{dims=(0,)}", "std{dims=(0,), correction=3}"]


@pytest.mark.parametrize("op", VARIANCES)
def test_variances_of_columns(op: str) -> None:
    graph = parse(f"graph(%x: f32[1200, 40] on cuda:0) {{ %0 = {op} %x return %0 }}")
    values = drawn(graph, shift=40.0)
    after = fuse(along_rows(graph))
    assert not any(isinstance(x.op, Reduction) for x in after.nodes)
    (exact,) = interpret(graph, values[0].cpu().double())
    torch.testing.assert_close(
        by_kernels(after, values)[0].cpu().double(), exact, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("squares", [40, 400])
def test_long_chains_behind_a_norm_end(squares: int) -> None:
    chain = " ".join(f"%s{i + 1} = mul %s{i} %s{i}" for i in range(squares))
    text = """
        graph(%x: f32[512, 32] on cuda:0, %g: f32[512, 32] on cuda:0) {
          %0 = batch_norm_saving{momentum=0.1, eps=1e-05, weight=False, bias=False, stats=False} %x
          %s0 = item{index=0} %0
          CHAIN
          %3 = item{index=1} %0
          %4 = item{index=2} %0
          %5 = mul %sN %g
          %6 = batch_norm_backward{eps=1e-05, weight=False} %5 %x %3 %4
          %7 = item{index=0} %6
          return %7
        }
    """
    graph = parse(text.replace("CHAIN", chain).replace("%sN", f"%s{squares}"))
    after = batch_norm_columns(graph)
    assert not any(isinstance(x.op, BatchNormTrain | BatchNormBackward) for x in after.nodes)
    assert len(after.nodes) < 3 * squares + 200
