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
from lazytorch.autodiff.vjp import carries, vjp
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
"""How far rules may be from torch's formulas, in units of the result or of its median."""
ROUNDED = {"hardsigmoid": 1e-7}
"""Where torch's own float64 formula has constants of float32."""
LARGE = 2000
"""Elements of the largest operand of a second derivative."""


def differentiable(x: Any) -> bool:
    """Whether a derivative is taken by an operand."""
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def is_complex(x: Any) -> bool:
    """Whether there are complex numbers in it: those have derived rules only."""
    return isinstance(x, torch.Tensor) and x.is_complex()


def flat(value: Any) -> list[Any]:
    """The results of an operation, one or several."""
    return list(value) if isinstance(value, tuple | list) else [value]


def like(x: torch.Tensor) -> torch.Tensor:
    """A random cotangent."""
    return torch.randn(x.shape, dtype=torch.float64).to(x.dtype)


class Torchs:
    """What torch's engine makes of a sample: `given` are its operands, `results` those that
    derivatives flow through, at `places`; `found` the gradients of the floating operands from
    `seeds`."""

    def __init__(self, sample: Sample, again: bool = False) -> None:
        self.given = [
            x.detach().requires_grad_() if differentiable(x) else x for x in sample.operands
        ]
        torch.manual_seed(0)
        results = flat(sample.reference(*self.given))
        self.places = [
            i for i, y in enumerate(results) if isinstance(y, torch.Tensor) and y.requires_grad
        ]
        self.results = [results[i] for i in self.places]
        self.seeds = [like(y).requires_grad_(again) for y in self.results]
        self.wanted = [x for x in self.given if differentiable(x)]
        self.found: tuple[Any, ...] = ()
        if self.results and self.wanted:
            self.found = torch.autograd.grad(
                self.results, self.wanted, self.seeds, allow_unused=True, create_graph=again
            )


def known(sample: Sample, again: bool = False) -> Torchs | None:
    """The same, None where torch has nothing to compare with."""
    try:
        found = Torchs(sample, again)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    return found if found.found else None


def pulled(op: Op, operands: Sequence[Any], places: Sequence[int]) -> Graph:
    """From the tensors among the operands and the cotangents of the results at `places` to the
    gradients of the floating operands."""
    b = Builder()
    nodes = [
        input(f"x{i}", value_type(x)) if isinstance(x, torch.Tensor) else constant(x)
        for i, x in enumerate(operands)
    ]
    out = b(op, *nodes)
    several = isinstance(out.type, TupleType)
    results = [b(Item(i), out) if several else out for i in places]
    seeds = [row_major(f"g{i}", y) for i, y in enumerate(results)]
    wanted = [n for n, x in zip(nodes, operands, strict=True) if differentiable(x)]
    found = gradients(results, seeds, wanted)
    return Graph((*[n for n in nodes if is_tensor(n)], *seeds), tuple(found))


def row_major(label: str, y: Node) -> Node:
    """A cotangent that the caller gives."""
    return input(label, tensor(y).with_shape(tensor(y).shape))


def gradients(results: Sequence[Node], seeds: Sequence[Node], wanted: Sequence[Node]) -> list[Node]:
    """Cotangents, zeros where nothing flows."""
    found = vjp(results, seeds, wanted, rule)
    s = Calculus()
    return [s.full(x, 0.0) if g is None else g for g, x in zip(found, wanted, strict=True)]


def assert_near(got: torch.Tensor, want: torch.Tensor | None, loose: float = 0.0) -> None:
    """Equal type; values near each other, and the same NaN."""
    want = torch.zeros_like(got) if want is None else want.detach()
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    finite = want[want.isfinite()].double().abs()
    scale = max(float(finite.median()) if finite.numel() else 0.0, 1e-3)
    near = max(NEAR[want.dtype], loose)
    torch.testing.assert_close(got, want, rtol=near, atol=near * scale, equal_nan=True)


def tensors(operands: Sequence[Any]) -> list[torch.Tensor]:
    """The operands that are tensors."""
    return [x.detach() for x in operands if isinstance(x, torch.Tensor)]


def real(name: str) -> list[Sample]:
    """The samples of an operation without complex operands."""
    return [x for x in SAMPLES[name] if not any([is_complex(y) for y in x.operands])]


def described(sample: Sample) -> str:
    """What a failure prints."""
    types = ", ".join([str(value_type(x)) for x in sample.operands])
    return f"{sample.op} {sample.label} of {types}"


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what torch's formulas warn of


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_rule_gives_torchs_numbers(name: str) -> None:
    for sample in real(name):
        theirs = known(sample)
        if theirs is None:
            continue
        try:
            graph = pulled(sample.op, sample.operands, theirs.places)
            torch.manual_seed(0)
            got = interpret(graph, *tensors(sample.operands), *theirs.seeds)
            for one, other in zip(got, theirs.found, strict=True):
                assert_near(one, other, ROUNDED.get(name, 0.0))
        except Exception as error:
            error.add_note(described(sample))
            raise


def doubled(sample: Sample) -> Sample | None:
    """The sample in float64, None where it is another sample then, or too large, or at a kink."""
    floating = [x for x in sample.operands if differentiable(x)]
    fixed = any([isinstance(v, torch.dtype) for _, v in sample.op.attributes()])
    dtypes = {x.dtype for x in floating}
    if not floating or fixed or "special" in sample.label or not dtypes <= {torch.float32}:
        return None
    if max([x.numel() for x in floating]) > LARGE:
        return None
    operands = tuple([x.double() if differentiable(x) else x for x in sample.operands])
    return Sample(sample.op, operands, sample.reference, label=sample.label)


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - {"row_cross_entropy"}))  # made by a pass
def test_second_derivative_is_torchs(name: str) -> None:
    for sample in [y for x in real(name) if (y := doubled(x)) is not None][:12]:
        theirs = known(sample, again=True)
        if theirs is None or sample.op.effect or any([is_complex(y) for y in theirs.results]):
            continue
        moving = [g for g in theirs.found if g is not None and g.requires_grad]
        if not moving:
            continue
        weights = [like(g) for g in moving]
        try:
            want = torch.autograd.grad(
                moving, [*theirs.wanted, *theirs.seeds], weights, allow_unused=True
            )
        except (RuntimeError, NotImplementedError):
            continue  # torch has no second derivative of it
        try:
            graph = pulled(sample.op, sample.operands, theirs.places)
            outputs = [
                y
                for y, g in zip(graph.outputs, theirs.found, strict=True)
                if g is not None and g.requires_grad
            ]
            seeds = [
                input(f"v{i}", tensor(y).with_shape(tensor(y).shape)) for i, y in enumerate(outputs)
            ]
            given = len(tensors(sample.operands))
            by = [x for x in graph.inputs[:given] if carries(x.type)]
            second = gradients(outputs, seeds, [*by, *graph.inputs[given:]])
            values = (*tensors(sample.operands), *[x.detach() for x in theirs.seeds], *weights)
            got = interpret(Graph((*graph.inputs, *seeds), tuple(second)), *values)
            for one, other in zip(got, want, strict=True):
                assert_near(one, other, ROUNDED.get(name, 0.0))
        except Exception as error:
            error.add_note(described(sample))
            raise
