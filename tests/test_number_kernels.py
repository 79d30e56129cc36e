"""Numbers as run-time arguments of generated kernels: the very bits that literals give."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_cases import DTYPES, FLOATS, b, random, type_of
from samples import assert_same_bits

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Graph, Node, input
from lazytorch.lower.cpp import CppTarget
from lazytorch.lower.kernel import Kernel, Target
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton.binary import interpreting
from lazytorch.ops.base import Pointwise
from lazytorch.ops.compare import Eq, Ge, Gt, MaskedFill, Ne, Where
from lazytorch.ops.elementary import Exp
from lazytorch.ops.fused import Fused
from lazytorch.ops.number import ToNumber
from lazytorch.ops.pointwise import Add, Addcmul, Clamp, ClampMax, ClampMin, Div, Lerp, Mul, Sub
from lazytorch.types import ScalarType

DEVICE = "cpu" if interpreting() else "cuda"
VALUES = (0.1, -0.0, float("nan"), 1e39)
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool)

Body = Callable[[Node, Any], Node]
"""A function of a tensor and a number, the number a node or a Python float."""

BODIES: dict[str, Body] = {
    **{op.name(): lambda x, s, op=op: b(op, x, s)
       for op in (Add(), Sub(), Mul(), Div(), ClampMin(), ClampMax(), Eq(), Ne(), Gt(), Ge())},
    "number first": lambda x, s: b(Div(), s, b(Sub(), s, x)),
    "clamp": lambda x, s: b(Clamp(), x, s, s),
    "where": lambda x, s: b(Where(), b(Gt(), x, 0), x, s),
    "chain": lambda x, s: b(Add(), b(Mul(), b(Add(), x, s), s), 0.5),
}  # fmt: skip
FLOATING: dict[str, Body] = {
    "masked_fill": lambda x, s: b(MaskedFill(), x, b(Gt(), x, 0), s),
    "addcmul": lambda x, s: b(Addcmul(), x, x, x, s),
    "lerp": lambda x, s: b(Lerp(), x, b(Exp(), x), s),
}


class Groups:
    """Groups on their way through a target; all are compiled at once."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.kernels: dict[str, Kernel] = {}

    def prepare(self, op: Fused, *operands: Any) -> str:
        """The name of the group's kernel."""
        kernel = self.target.prepare(op, tuple(map(kind, operands)))
        self.kernels[kernel.name] = kernel
        return kernel.name

    def run(self, op: Fused, *operands: Any) -> Any:
        name = self.prepare(op, *operands)
        self.target.build(list(self.kernels.values()))
        return self.target.launcher(self.kernels[name], op, tuple(map(kind, operands)))(*operands)


def kind(x: Any) -> Any:
    return ScalarType(float) if isinstance(x, float) else type_of(x)


def targets() -> list[Groups]:
    every = [TritonTarget(), *([CppTarget()] if DEVICE == "cpu" else [])]
    return [Groups(target) for target in every]


def literal(body: Body, x: torch.Tensor, number: float) -> Fused:
    tensor = input("x", type_of(x))
    return Fused(Graph((tensor,), (body(tensor, number),)))


def varying(body: Body, x: torch.Tensor) -> Fused:
    tensor, scalar = input("x", type_of(x)), input("s", ScalarType(float))
    return Fused(Graph((tensor, scalar), (body(tensor, scalar),)))


@pytest.mark.parametrize("dtype", TYPES)
def test_an_argument_gives_the_bits_of_a_literal(dtype: torch.dtype) -> None:
    x = random(9, dtype=dtype).to(DEVICE)
    bodies = {**BODIES, **(FLOATING if dtype in FLOATS else {})}
    if dtype is torch.bool:  # torch has no difference of booleans
        bodies = {k: v for k, v in bodies.items() if k not in ("sub", "number first")}
    for groups in targets():
        for body in bodies.values():
            # The value is no part of the kernel: there is one for all.
            groups.prepare(varying(body, x), x, 0.1)
            for number in VALUES:
                groups.prepare(literal(body, x, number), x)
        for body in bodies.values():
            for number in VALUES:
                got = groups.run(varying(body, x), x, number)
                assert_same_bits(got, groups.run(literal(body, x, number), x))


def test_the_arithmetic_is_what_eager_computes() -> None:
    for groups in targets():
        xs = [random(50, dtype=dtype).to(DEVICE) for dtype in DTYPES]
        ops = [varying(BODIES["mul"], x) for x in xs]
        for op, x in zip(ops, xs, strict=True):
            groups.prepare(op, x, 0.3)
        for op, x in zip(ops, xs, strict=True):
            torch.testing.assert_close(groups.run(op, x, 0.3), x * 0.3, rtol=0, atol=0)


def test_several_numbers_keep_their_places() -> None:
    def body(s: Node, x: Node, t: Node, y: Node) -> Node:
        return b(Sub(), b(Mul(), x, s), b(Mul(), y, t))

    x, y = random(7, 5).to(DEVICE), random(5).to(DEVICE)
    operands = (2.0, x, 3.0, y)
    inputs = tuple(input(f"i{k}", kind(v)) for k, v in enumerate(operands))
    op = Fused(Graph(inputs, (body(*inputs),)))
    for groups in targets():
        torch.testing.assert_close(groups.run(op, *operands), x * 2.0 - y * 3.0)
        with pytest.raises(UnsupportedError):
            groups.run(op, x, 2.0, 3.0, y)


def test_a_kernel_reads_a_number_from_a_tensor() -> None:
    """A tensor's number is computed with as a number: not rounded to the other tensor's dtype."""
    made: list[tuple[Fused, torch.Tensor, torch.Tensor]] = []
    for dtype in FLOATS:
        for source in FLOATS:
            x, s = random(33, dtype=dtype).to(DEVICE), torch.tensor(0.3, dtype=source).to(DEVICE)
            nx, ns = input("x", type_of(x)), input("s", type_of(s))
            made.append((Fused(Graph((nx, ns), (b(Mul(), nx, b(ToNumber(), ns)),))), x, s))
    for groups in targets():
        for op, x, s in made:
            groups.prepare(op, x, s)
        for op, x, s in made:
            torch.testing.assert_close(groups.run(op, x, s), x * s.item(), rtol=0, atol=0)


class Whole(Pointwise, abstract=True):
    """Computes in integers, which no float may become unseen."""

    def compute_dtype(self, *xs: Any) -> torch.dtype:
        return torch.int64

    def emit(self, s: Any, *xs: Any, **_: Any) -> Any:
        return s.add(*xs)


def test_integer_arithmetic_is_refused() -> None:
    x = random(4, dtype=torch.int64).to(DEVICE)
    for groups in targets():
        with pytest.raises(UnsupportedError, match="a float that varies as a i64"):
            groups.prepare(varying(lambda x, s: b(Whole(), x, s), x), x, 1.5)


@pytest.mark.parametrize("number", [3.0, -0.1, 1e-40, 1e39, float("inf"), float("nan"), 0.0])
@pytest.mark.parametrize("varies", [False, True])
def test_triton_divides_by_a_number_as_torch_does_on_a_gpu(number: float, varies: bool) -> None:
    """By a product with the number's reciprocal: that of a subnormal number is infinite."""
    x = torch.cat([random(99), torch.tensor([0.0, -0.0, float("inf"), 3e38])]).to(DEVICE)
    groups = Groups(TritonTarget())
    if varies:
        found = groups.run(varying(lambda x, s: b(Div(), x, s), x), x, number)
    else:
        a = input("x", type_of(x))
        found = groups.run(Fused(Graph((a,), (b(Div(), a, number),))), x)
    assert_same_bits(found, x * (1 / torch.tensor(number, dtype=torch.float64)).float().to(DEVICE))
    if DEVICE == "cuda":
        assert_same_bits(found, x / number)
