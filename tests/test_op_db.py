"""A seeded choice of torch's operator database, on graphs and through compiled plans.

`make operators` takes every sample.
"""

import random
from typing import Any

import pytest
import torch

import lazytorch as lt

pytest.importorskip("expecttest", reason="torch's operator database imports it")

import op_db

F64 = torch.float64
ORDERS = {1: torch.float32, 2: F64}
PART = 4  # of the operations: each test takes every fourth, and together they take them all
SAMPLES = 2


def chosen(part: int, order: int) -> list[Any]:
    """Operations that have derivatives of that order."""
    ops = [op for op in op_db.operations() if order == 1 or op.supports_gradgrad]
    return ops[part::PART]


def few(op: Any, dtype: torch.dtype) -> list[op_db.Case]:
    """A seeded choice of an operation's samples."""
    cases = list(op_db.cases(op, dtype))
    return random.Random(op_db.called(op)).sample(cases, min(SAMPLES, len(cases)))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("part", range(PART))
def test_derivatives_are_eagers(part: int, order: int) -> None:
    wrong: list[str] = []
    for op in chosen(part, order):
        for case in few(op, ORDERS[order]):
            outcome = op_db.check(case, order, ORDERS[order])
            if outcome.verdict in ("wrong", "crash"):
                wrong.append(f"{op_db.called(op)}: {outcome.verdict}: {outcome.reason}")
    assert not wrong


def test_where_eager_is_wrong_finite_differences_say_so() -> None:
    name = "nn.functional.linear_cross_entropy.chunked_none"
    found = [op for op in op_db.operations() if op_db.called(op) == name]
    outcomes = [op_db.check(x, 2, F64) for op in found for x in op_db.cases(op, F64)]
    assert {x.verdict for x in outcomes} <= {"ok", "torch"}


def test_compiled_derivatives_of_many_samples_are_eagers() -> None:
    names = "mul tanh softmax nn.functional.layer_norm matmul cumsum gather amax linalg.inv"
    by_name = {op_db.called(op): op for op in op_db.operations()}
    cases = [
        case for name in names.split() if name in by_name
        for case in few(by_name[name], torch.float64)
    ]  # fmt: skip
    values = [[op_db.fresh(x) for x in case.tensors] for case in cases]
    for case, x in zip(cases, values, strict=True):
        op_db.eager(case, x, 1)  # makes the weights
    gradients = [op_db.derivative(case, 1) for case in cases]

    @lt.compile
    def everything(values: list[list[torch.Tensor]]) -> Any:
        return [f(*x) for f, x in zip(gradients, values, strict=True)]

    for change in (op_db.fresh, op_db.smaller):
        moved = [[change(x) for x in one] for one in values]
        theirs = [op_db.eager(case, x, 1) for case, x in zip(cases, moved, strict=True)]
        for ours, expected in zip(everything(moved), theirs, strict=True):
            assert expected is not None
            torch.testing.assert_close(list(ours), expected, rtol=1e-6, atol=1e-8)


def test_a_baked_in_constant_is_found() -> None:
    op = next(op for op in op_db.operations() if op.name == "sin")
    (case, *_) = op_db.cases(op, torch.float64)
    values = [op_db.fresh(x) for x in case.tensors]
    theirs = op_db.eager(case, [op_db.flipped(x) for x in values], 1)
    ours = op_db.eager(case, values, 1)
    assert ours is not None and theirs is not None
    assert op_db.difference(ours, theirs, torch.float64, lambda: None)
