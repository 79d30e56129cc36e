"""Numbers that count, in generated kernels: every walk has an element's own index.

`TRITON_INTERPRET=0 pytest tests/test_counting_kernels.py` runs the same on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported
pytest.importorskip("triton")

from lazytorch.ir import Builder, Graph, Node, input
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton.binary import interpreting
from lazytorch.ops.compare import BitwiseAnd, Where
from lazytorch.ops.copies import Cat, Clone
from lazytorch.ops.counting import Counting
from lazytorch.ops.elementary import Cos
from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import Add, Mul
from lazytorch.ops.reduce import Softmax
from lazytorch.passes.counting import Band, Line, numbers
from lazytorch.types import Shape, TensorType, tensor_type

DEVICE = torch.device("cpu") if interpreting() else torch.device("cuda", 0)

Build = Callable[[Builder, Node], Node]


def same(build: Build, x: TensorType) -> None:
    """A kernel computes what torch computes one by one."""
    given = input("x", x)
    op = Fused(Graph((given,), (build(Builder(), given),)))
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(x.shape, generator=generator).to(DEVICE)
    drawn = drawn > 0 if x.dtype is torch.bool else drawn.to(x.dtype)
    value = torch.empty_strided(x.shape, x.strides, dtype=x.dtype, device=DEVICE).copy_(drawn)
    target = TritonTarget()
    found = target.prepare(op, (x,))
    target.build([found])
    got, wanted = target.launcher(found, op, (x,))(value), op.run(value)
    assert isinstance(got, torch.Tensor)
    assert got.stride() == wanted.stride()
    torch.testing.assert_close(got, wanted)


def band(x: Node, shape: Shape, low: int | None, high: int | None) -> Node:
    return numbers(Band(low, high), x, shape)


@pytest.mark.parametrize(
    ("shape", "low", "high"),
    [((3, 1, 5, 7), None, 0), ((2, 3, 33, 65), -4, 2), ((1, 1, 128, 128), -1, None)],
)
@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.bfloat16])
def test_masks(shape: Shape, low: int | None, high: int | None, kind: torch.dtype) -> None:
    def build(b: Builder, x: Node) -> Node:
        inside = band(x, shape, low, high)
        if kind is torch.bool:
            inside = b(BitwiseAnd(), inside, x)
            return b(Where(), inside, 0.0, float("-inf"))
        return b(Where(), inside, x, float("-inf"))

    keys = (shape[0], 1, 1, shape[-1])
    same(build, tensor_type(keys if kind is torch.bool else shape, kind, DEVICE))


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
)
def test_positions(dim: int, dtype: torch.dtype) -> None:
    line = Line(dim - 3, 60, -3)

    def build(b: Builder, x: Node) -> Node:
        counted = Counting((5, 3, 17), dim, line.start, line.step, dtype, DEVICE)
        return b(Mul(), x, b(counted))

    same(build, tensor_type((5, 3, 17), torch.float32, DEVICE))
    same(build, tensor_type((5, 3, 17), torch.float32, DEVICE, (1, 85, 5)))


def test_rows_of_masked_scores() -> None:
    def build(b: Builder, x: Node) -> Node:
        return b(Softmax(2), b(Where(), band(x, (3, 9, 40), None, 3), x, float("-inf")))

    same(build, tensor_type((3, 9, 40), torch.float32, DEVICE))


def test_a_kernel_that_reads_across() -> None:
    def build(b: Builder, x: Node) -> Node:
        counted = b(Counting((40, 36), 0, 2, 1, torch.float32, DEVICE))
        return b(Clone((1, 40)), b(Add(), x, counted))

    same(build, tensor_type((40, 36), torch.float32, DEVICE))


def test_tables_that_are_joined() -> None:
    def build(b: Builder, x: Node) -> Node:
        angles = b(Mul(), x, b(Counting((6, 8), 0, 0, 1, torch.float32, DEVICE)))
        return b(Cos(), b(Cat(1), angles, x, angles))

    same(build, tensor_type((6, 8), torch.float32, DEVICE))
