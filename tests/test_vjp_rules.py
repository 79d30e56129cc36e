"""Derivative rules against torch's autograd: values, second derivatives, which operations have one.

Rules run by the interpreter: no compiler decides here whether they are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from samples import Sample, by_op

from lazytorch.autodiff.rules import rule
from lazytorch.autodiff.vjp import vjp
from lazytorch.interpret import interpret
from lazytorch.ir import Builder, Graph, Item, Node, Op, constant, input
from lazytorch.ops.aten import value_type
from lazytorch.ops.calculus import Calculus, is_tensor, tensor
from lazytorch.types import TupleType

SAMPLES = by_op()
NEAR = {
    torch.float64: 1e-9,
    torch.float32: 2e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
"""How far rules may be from torch's formulas, relative to the largest finite number."""


def differentiable(x: Any) -> bool:
    """Whether a derivative is taken by an operand."""
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def is_complex(x: Any) -> bool:
    """Whether there are complex numbers in it: those have derived rules only."""
    return isinstance(x, torch.Tensor) and x.is_complex()


def flat(value: Any) -> list[Any]:
    """The results of an operation, one or several."""
    return list(value) if isinstance(value, tuple | list) else [value]


def moving(results: Sequence[Any]) -> list[torch.Tensor]:
    """The results that derivatives flow through."""
    return [y for y in results if isinstance(y, torch.Tensor) and y.requires_grad]


def torchs(sample: Sample) -> tuple[list[int], list[torch.Tensor], list[Any]] | None:
    """Positions of the moving results, their cotangents, and torch's gradients of the floating
    operands; None where torch has none to compare with."""
    given = [x.detach().requires_grad_() if differentiable(x) else x for x in sample.operands]
    torch.manual_seed(0)
    try:
        results = flat(sample.reference(*given))
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    seeds = [torch.randn(y.shape, dtype=torch.float64).to(y.dtype) for y in moving(results)]
    wanted = [x for x in given if differentiable(x)]
    if not seeds or not wanted:
        return None
    try:
        found = torch.autograd.grad(moving(results), wanted, seeds, allow_unused=True)
    except (RuntimeError, NotImplementedError):
        return None
    places = [i for i, y in enumerate(results) if isinstance(y, torch.Tensor) and y.requires_grad]
    return places, seeds, list(found)


def pulled(op: Op, operands: Sequence[Any], places: Sequence[int]) -> tuple[Graph, list[Node]]:
    """The graph of the gradients by the floating operands, from the operands and cotangents of
    the results at `places`, and the operands' nodes."""
    b = Builder()
    nodes = [
        input(f"x{i}", value_type(x)) if isinstance(x, torch.Tensor) else constant(x)
        for i, x in enumerate(operands)
    ]
    out = b(op, *nodes)
    several = isinstance(out.type, TupleType)
    results = [b(Item(i), out) if several else out for i in places]
    seeds = [input(f"g{i}", tensor(y)) for i, y in enumerate(results)]
    wanted = [n for n, x in zip(nodes, operands, strict=True) if differentiable(x)]
    s = Calculus()
    found = [
        s.full(x, 0.0) if g is None else g
        for g, x in zip(vjp(results, seeds, wanted, rule), wanted, strict=True)
    ]
    inputs = tuple([n for n in nodes if is_tensor(n)])
    return Graph((*inputs, *seeds), tuple(found)), nodes


def ours(sample: Sample, places: Sequence[int], seeds: Sequence[torch.Tensor]) -> list[Any]:
    """The gradients by our rules."""
    graph, _ = pulled(sample.op, sample.operands, places)
    torch.manual_seed(0)
    tensors = [x for x in sample.operands if isinstance(x, torch.Tensor)]
    return list(interpret(graph, *tensors, *seeds))


def assert_near(got: torch.Tensor, want: torch.Tensor | None) -> None:
    """Equal type; values near each other in units of the largest finite one; the same NaN."""
    if want is None:
        want = torch.zeros_like(got)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    finite = want[want.isfinite()].double().abs()
    scale = max(float(finite.median()) if finite.numel() else 0.0, 1e-3)
    near = NEAR[want.dtype]
    torch.testing.assert_close(got, want, rtol=near, atol=near * scale, equal_nan=True)


def real(name: str) -> list[Sample]:
    """The samples of an operation without complex operands."""
    return [x for x in SAMPLES[name] if not any([is_complex(y) for y in x.operands])]


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_rule_gives_torchs_numbers(name: str) -> None:
    for sample in real(name):
        known = torchs(sample)
        if known is None:
            continue
        places, seeds, want = known
        try:
            for one, other in zip(ours(sample, places, seeds), want, strict=True):
                assert_near(one, other)
        except Exception as error:
            error.add_note(
                f"{sample.op} {sample.label} of {[value_type(x) for x in sample.operands]}"
            )
            raise
