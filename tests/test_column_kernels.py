"""Sums over the first dimensions of what arithmetic makes, as Triton kernels: against float64."""

from __future__ import annotations

from functools import reduce

import pytest
import torch
from test_batch_norm_kernels import by_kernels, drawn

from lazytorch.interpret import interpret
from lazytorch.ir import Builder, Graph, input
from lazytorch.lower.triton import rows
from lazytorch.lower.triton.kernel import plan
from lazytorch.lower.triton.rows import TritonRows
from lazytorch.ops.base import Pointwise
from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import Mul
from lazytorch.ops.reduce import Reduction, Sum
from lazytorch.passes import along_rows, cse, early_views, fuse
from lazytorch.text import parse
from lazytorch.types import tensor_type

CLOSE = {"f32": 2e-5, "f16": 2e-2, "bf16": 1e-1}


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("shape", [(520, 48), (1000, 33), (37, 264), (4096, 16)], ids=str)
def test_values_of_a_weights_derivative(shape: tuple[int, int], dtype: str) -> None:
    rows, columns = shape
    typed, narrow = f"{dtype}[{rows}, {columns}] on cuda:0", f"f32[{rows}, 1] on cuda:0"
    graph = parse(
        f"""
        graph(%g: {typed}, %x: {typed}, %m: {narrow}, %r: {narrow}, %b: f32[{columns}] on cuda:0) {{
          %0 = sub %x %m
          %1 = mul %0 %r
          %2 = add %1 %b
          %3 = mul %g %2
          %4 = sum{{dims=(0,)}} %3
          %5 = mul %1 2.0
          return %4, %5
        }}
        """
    )
    after = fuse(cse(early_views(along_rows(graph))))
    assert not any(isinstance(x.op, Pointwise | Reduction) for x in after.nodes)
    values = drawn(graph, shift=0.5)
    exact = interpret(graph, *[x.cpu().double() for x in values])
    for found, expected in zip(by_kernels(after, values), exact, strict=True):
        scale = max(1.0, expected.abs().max().item())
        assert (found.cpu().double() - expected).abs().max() <= CLOSE[dtype] * scale


@pytest.mark.parametrize("across", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_what_is_on_its_way_fits_into_any_gpus_shared_memory(
    count: int, dtype: torch.dtype, across: bool
) -> None:
    typed = tensor_type(
        (8192, 60000), dtype, torch.device("cuda", 0), (1, 8192) if across else None
    )
    xs = tuple(input(f"x{i}", typed) for i in range(count))
    b = Builder(None)
    product = reduce(lambda x, y: b(Mul(), x, y), xs)
    op = Fused(Graph(xs, (b(Sum((1,), True, dtype), product),)))
    _, walk = plan(op, (typed,) * count, 0)
    assert isinstance(walk, TritonRows) and walk.across is across and not walk.pieces
    block = walk.together * walk.block * dtype.itemsize
    assert (walk.stages - 1) * count * block <= rows.SHARED
    if count == 1:
        assert walk.stages == rows.STAGES
    if not walk.stages:  # another block of everything would not fit
        assert count * dtype.itemsize * (2048 if across else walk.block) > rows.SHARED
