"""Kernels for several members at once, on the CPU and by Triton's interpreter, against eager."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_accuracy import check_floats
from kernel_cases import type_of

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported
pytest.importorskip("triton")

from lazytorch.errors import DTypeError, ShapeError, UnsupportedError
from lazytorch.ir import Builder, Graph, Input, Node, input
from lazytorch.lower.cpp import CppTarget
from lazytorch.lower.kernel import Target
from lazytorch.lower.steps import Operand
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton.binary import interpreting
from lazytorch.ops.compare import Gt, Where
from lazytorch.ops.foreach import FLAT, Foreach
from lazytorch.ops.number import ToNumber
from lazytorch.ops.pointwise import Add, Cast, Mul, Sub
from lazytorch.types import ScalarType, Type, tensor_type

b = Builder()
SIZES = ((1,), (17,), (), (0,), (31, 37), (1024,), (4, 1023), (2, 3, 5), (2053,))
SPECIAL = (0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-40)

TARGETS: dict[str, Callable[[], Target]] = {"cpp": CppTarget}
if interpreting():
    TARGETS["triton"] = TritonTarget


def body(dtype: torch.dtype, *more: Type) -> list[Node]:
    """Two tensors of a dtype, and further inputs."""
    own = [tensor_type(FLAT, dtype), tensor_type(FLAT, dtype)]
    return [input(f"a{i}", x) for i, x in enumerate([*own, *more])]


def moved(inputs: list[Node]) -> tuple[Node, ...]:
    """A running mean and what is left: two outputs, one of which feeds the other."""
    x, g, *_ = inputs
    mean = b(Add(), b(Mul(), x, 3), g)
    return mean, b(Sub(), g, b(Mul(), mean, 2))


def built(name: str, op: Foreach, types: tuple[Operand, ...], into: tuple[int, ...] = ()) -> Any:
    target = TARGETS[name]()
    kernel = target.prepare(op, types)
    target.build([kernel])
    return target.launcher(kernel, op, types, into)


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64) * 9
    if dtype.is_floating_point and x.numel() > 100:
        x.flatten()[: len(SPECIAL)] = torch.tensor(SPECIAL, dtype=x.dtype)
    return x.to(dtype)


def compared(got: Any, want: Any, exact: Any) -> None:
    for i, (one, other, truth) in enumerate(zip(got, want, exact, strict=True)):
        assert type_of(one) == type_of(other)
        if one.dtype is torch.float64:  # of which no better truth is known
            torch.testing.assert_close(one, other, equal_nan=True)
        elif one.dtype.is_floating_point:
            check_floats(one, other, truth, f"result {i}")
        else:
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8],
    ids=str,
)
def test_members_of_all_sizes(name: str, dtype: torch.dtype) -> None:
    inputs = body(dtype)
    sizes = (*SIZES, (70001,)) if name == "cpp" else SIZES  # for several threads
    op = Foreach(Graph(tuple(inputs), moved(inputs)), len(sizes))
    xs = [drawn(s, dtype, 2 * i + k) for i, s in enumerate(sizes) for k in range(2)]
    launch = built(name, op, tuple(map(type_of, xs)))
    wide = body(torch.float64)
    exact = Foreach(Graph(tuple(wide), moved(wide)), len(sizes)).run(*[x.double() for x in xs])
    for _ in range(2):
        compared(launch(*xs), op.run(*xs), exact)


@pytest.mark.parametrize("name", TARGETS)
def test_numbers_and_0d_tensors_common_to_all_and_of_each_member(name: str) -> None:
    zero, number = tensor_type((), torch.float32), ScalarType(float)
    inputs = body(torch.float32, number, number, zero, zero, zero)
    x, g, s, t, u, v, w = inputs
    more = b(Where(), b(Gt(), x, s), b(Mul(), g, t), b(Add(), x, u))
    made = b(Mul(), b(Add(), more, v), b(ToNumber(), w))
    op = Foreach(Graph(tuple(inputs), (made, b(Cast(torch.bfloat16), more))), 5, (2, 5))
    shapes = ((3, 5), (17,), (1,), (), (1025,))

    def operands(seed: int) -> list[Any]:
        chosen = random.Random(seed)
        xs: list[Any] = [chosen.random(), drawn((), torch.float32, seed)]
        for k, shape in enumerate(shapes):
            xs += [drawn(shape, torch.float32, seed + k), drawn(shape, torch.float32, seed - k)]
            xs += [chosen.random(), *[drawn((), torch.float32, seed * k) for k in range(2)]]
        return xs

    types = tuple([ScalarType(float) if isinstance(x, float) else type_of(x) for x in operands(1)])
    launch = built(name, op, types)
    for seed in (1, 2, 3):
        for one, other in zip(launch(*operands(seed)), op.run(*operands(seed)), strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("name", TARGETS)
def test_written_over_operands_and_into_other_memory(name: str) -> None:
    inputs = body(torch.float32)
    op = Foreach(Graph(tuple(inputs), moved(inputs)), 4)
    shapes = ((17,), (1025,), (3, 1), (2050,))
    types = tuple([tensor_type(s) for s in shapes for _ in range(2)])
    launch = built(name, op, types, (0, 3, 4))
    for seed in range(3):
        xs = [drawn(s, torch.float32, seed + k) for s in shapes for k in range(2)]
        xs[3] = drawn((1025 + 1,), torch.float32, 5)[1:]  # begins at no multiple of 16 bytes
        given = [x.clone() for x in xs]
        want = op.run(*given)
        other = torch.empty(3, 1)
        got = launch(*xs, xs[0], xs[3], other)
        for one, wanted in zip(got, want, strict=True):
            torch.testing.assert_close(one, wanted, equal_nan=True)
        assert got[0] is xs[0] and got[3] is xs[3] and got[4] is other
        for i in (1, 2, 4, 5, 6, 7):
            torch.testing.assert_close(xs[i], given[i], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", TARGETS)
def test_members_that_lie_in_other_orders(name: str) -> None:
    inputs = body(torch.float32)
    op = Foreach(Graph(tuple(inputs), moved(inputs)), 4)
    xs: list[torch.Tensor] = []
    for k in range(4):
        for seed in range(2):
            x = drawn((2, 3, 5, 7), torch.float32, 2 * k + seed)
            xs.append(x.to(memory_format=torch.channels_last) if k % 2 else x)
    for one, other in zip(built(name, op, tuple(map(type_of, xs)))(*xs), op.run(*xs), strict=True):
        assert type_of(one) == type_of(other)
        torch.testing.assert_close(one, other, equal_nan=True)


def test_operands_that_do_not_fit_are_refused() -> None:
    inputs = body(torch.float32, ScalarType(float))
    op = Foreach(Graph(tuple(inputs), (b(Add(), inputs[0], inputs[1]),)), 2, (2,))
    x, number = tensor_type((3, 4)), ScalarType(float)
    assert op.infer(number, x, x, x, x).items == (x, x)
    wrong = ((number, x, x, x), (number, x, tensor_type((4, 3)), x, x))
    wrong += ((number, x, tensor_type((3, 4), strides=(1, 3)), x, x),)
    for types in wrong:
        with pytest.raises(ShapeError):
            op.infer(*types)
    for types in ((x, x, x, x, x), (number, x, tensor_type((3, 4), torch.float64), x, x)):
        with pytest.raises(DTypeError):
            op.infer(*types)
    with pytest.raises(UnsupportedError):
        CppTarget().prepare(op, (number, *[tensor_type((3,), device="cuda")] * 4))


COMPILED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from triton.backends.compiler import GPUTarget
from lazytorch.ir import Builder, Graph, input
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton.source import compile_kernel, run_source
from lazytorch.ops.foreach import FLAT, Foreach
from lazytorch.ops.pointwise import Add
from lazytorch.types import tensor_type

gpu = torch.device("cuda", 0)
inputs = tuple(input(name, tensor_type(FLAT, torch.float32, gpu)) for name in "xy")
op = Foreach(Graph(inputs, (Builder()(Add(), *inputs),)), 4)
kernel = TritonTarget().prepare(op, (tensor_type((5,), torch.float32, gpu),) * 8)
module = run_source(kernel.name, kernel.source)
compiled = compile_kernel(module, getattr(module, kernel.name), True, GPUTarget("cuda", 90, 32))
assert compiled.metadata.global_scratch_size == 0 and compiled.asm["cubin"]
print(sum("global.v4.b32" in x for x in compiled.asm["ptx"].splitlines()))
"""


def test_whole_blocks_are_vectors_on_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(tests.parent)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(tests)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 6  # two for each tensor: eight elements of a thread


def test_the_source_does_not_depend_on_sizes_and_members() -> None:
    inputs = body(torch.float32)
    for name in TARGETS:
        names: set[str] = set()
        for count in (4, 9):
            op = Foreach(Graph(tuple(inputs), moved(inputs)), count)
            types = tuple([tensor_type((k // 2 + 1,)) for k in range(2 * count)])
            names.add(TARGETS[name]().prepare(op, types).name)
        assert len(names) == 1
    assert all(isinstance(x.op, Input) for x in inputs)
