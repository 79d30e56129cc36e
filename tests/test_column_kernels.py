"""Sums over the first dimensions of what arithmetic makes, as Triton kernels: against float64."""

from __future__ import annotations

import pytest
from test_batch_norm_kernels import by_kernels, drawn

from lazytorch.interpret import interpret
from lazytorch.ops.base import Pointwise
from lazytorch.ops.reduce import Reduction
from lazytorch.passes import along_rows, cse, early_views, fuse
from lazytorch.text import parse

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
