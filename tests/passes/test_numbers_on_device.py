"""`numbers_on_device`: numbers that vary as tensors of the device that reads them."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from check import Check
from torch import nn

import lazytorch as lt
from lazytorch.forecast import standing, with_state
from lazytorch.frontend import trees
from lazytorch.frontend.record import record
from lazytorch.frontend.stand_in import StandIns
from lazytorch.interpret import interpret
from lazytorch.ir import Builder, Graph, Input, input
from lazytorch.lower.optimize import optimize
from lazytorch.ops.number import Arithmetic
from lazytorch.passes import fuse, numbers_on_device
from lazytorch.runtime.cudagraph import refusal
from lazytorch.types import ScalarType, tensor_type

here = partial(numbers_on_device, device="cpu")


def test_an_argument_enters_once_and_is_read_as_a_number(check: Check) -> None:
    check(
        here,
        """
        graph(%x: f16[3], %s: float) {
          %0 = mul %x %s
          %1 = add %0 %s
          return %1
        }
        """,
        """
        graph(%x: f16[3], %s: float) {
          %0: f64[] = full{shape=(), value=None, dtype=f64} %s
          %1: float = to_number %0
          %2: f16[3] = mul %x %1
          %3: f16[3] = add %2 %1
          return %3
        }
        """,
    )


def test_arithmetic_of_numbers_is_in_float64(check: Check) -> None:
    check(
        here,
        """
        graph(%x: f32[3], %step: f32[1], %rate: float) {
          %0 = to_number %step
          %1 = arithmetic{function="pow"} 0.9 %0
          %2 = arithmetic{function="sub"} 1 %1
          %3 = arithmetic{function="sqrt"} %2
          %4 = arithmetic{function="truediv"} %rate %3
          %5 = mul %x %4
          return %5
        }
        """,
        """
        graph(%x: f32[3], %step: f32[1], %rate: float) {
          %0: f64[] = full{shape=(), value=None, dtype=f64} %rate
          %1: f32[] = reshape{shape=()} %step
          %2: f64[] = cast{dtype=f64} %1
          %3: f64[] = pow 0.9 %2
          %4: f64[] = sub 1 %3
          %5: f64[] = sqrt %4
          %6: f64[] = div %0 %5
          %7: float = to_number %6
          %8: f32[3] = mul %x %7
          return %8
        }
        """,
        close=1e-6,
    )


def test_a_tensor_full_of_a_number_takes_the_tensor(check: Check) -> None:
    check(
        here,
        """
        graph(%x: f32[3], %s: float) {
          %0 = arithmetic{function="neg"} %s
          %1 = full{shape=(3,), value=None} %0
          %2 = add %x %1
          return %2
        }
        """,
        """
        graph(%x: f32[3], %s: float) {
          %0: f64[] = full{shape=(), value=None, dtype=f64} %s
          %1: f64[] = neg %0
          %2: f32[3] = full{shape=(3,), value=None} %1
          %3: f32[3] = add %x %2
          return %3
        }
        """,
    )


NUMBER = '%0 = arithmetic{function="neg"} %s'


@pytest.mark.parametrize(
    "before",
    [
        f"graph(%x: f32[3], %s: float) {{ {NUMBER}\n return %0 }}",  # the number leaves
        "graph(%x: f32[3], %s: int) { %0 = mul %x %s\n return %0 }",  # no float
        'graph(%x: f32[3], %s: float) { %0 = arithmetic{function="floordiv"} %s 2.0\n'
        "%1 = mul %x %0\n return %1 }",  # no counterpart
        "graph(%x: f32[3], %s: float) { %0 = pow %x %s\n return %0 }",  # no kernel reads it
        "graph(%x: f32[3]) { %0 = mul %x 2.0\n return %0 }",  # nothing varies
    ],
)
def test_declines(before: str, check: Check) -> None:
    check.declines(here, before)


def test_declines_on_another_device_and_on_several(check: Check) -> None:
    text = "graph(%x: f32[3], %s: float) { %0 = mul %x %s\n return %0 }"
    check.declines(numbers_on_device, text)
    x, y = input("x", tensor_type((3,), device="cuda")), input("y", tensor_type((), torch.float32))
    s = input("s", ScalarType(float))
    b = Builder()
    graph = Graph((x, y, s), tuple([b(lt.ops.pointwise.Mul(), t, s) for t in (x, y)]))
    assert numbers_on_device(graph) is graph


def test_a_constant_on_its_way_to_the_device_does_not_keep_numbers_from_it() -> None:
    def graph(moved: bool) -> Graph:
        b = Builder()
        x = input("x", tensor_type((3,), device="cuda:0"))
        s, w = input("s", ScalarType(float)), input("w", tensor_type((3,)), "state")
        y = b(lt.ops.pointwise.Mul(), x, s)
        there = b(lt.ops.copies.ToDevice(torch.device("cuda", 0)), w)
        return Graph((x, s, w), (b(lt.ops.pointwise.Add(), y, there),) if moved else (y, w))

    moved, stays = graph(True), graph(False)
    assert numbers_on_device(moved) is not moved
    assert numbers_on_device(stays) is stays


def test_one_operation_that_reads_a_number_on_a_gpu_is_a_kernel() -> None:
    def scaled(device: str) -> Graph:
        x, s = input("x", tensor_type((3,), device=device)), input("s", ScalarType(float))
        graph = Graph((x, s), (Builder()(lt.ops.pointwise.Mul(), x, s),))
        return fuse(numbers_on_device(graph, device))

    assert "fused" in str(scaled("cuda"))
    assert "fused" not in str(scaled("cpu"))


@pytest.mark.parametrize("name", ["max", "min"])
def test_the_chosen_of_two_numbers_is_pythons(name: str) -> None:
    x, s, t = (
        input("x", tensor_type((1,))),
        input("s", ScalarType(float)),
        input("t", ScalarType(float)),
    )
    b = Builder()
    graph = Graph((x, s, t), (b(lt.ops.pointwise.Mul(), x, b(Arithmetic(name), s, t)),))
    after = here(graph)
    assert not any(isinstance(node.op, Arithmetic) for node in after.nodes)
    for first in (1.0, 2.0, math.nan, math.inf):
        for second in (1.5, -math.inf, math.nan):
            ones = torch.ones(1)
            (found,), (want,) = (interpret(g, ones, first, second) for g in (after, graph))
            torch.testing.assert_close(found, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "kind",
    [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad, torch.optim.Adafactor],
)
def test_an_optimizers_step_computes_what_python_does(kind: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    m = nn.Linear(3, 2)
    optimizer = kind(m.parameters(), lr=1e-2)  # type: ignore[call-arg]
    step = lt.train_step(m, lambda y, _: y.square().mean(), optimizer)
    for i in range(3):
        step(torch.randn(4, 3), None)
        optimizer.param_groups[0]["lr"] *= 0.5 + 0.1 * i
    graph = step.compiled.programs()[-1].piece.graph
    assert any(isinstance(x.type, ScalarType) for x in graph.inputs)
    after = here(graph)
    assert not any(isinstance(x.op, Arithmetic) for x in after.nodes)
    for count in (1.0, 2.0, 1000.0):
        given = [value(x.op.typed, count) for x in graph.inputs if isinstance(x.op, Input)]
        found, want = (
            [*interpret(g, *xs), *xs]
            for g, xs in zip((after, graph), map(copied, (given, given)), strict=True)
        )
        torch.testing.assert_close(found, want, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize(
    "kind",
    [
        torch.optim.AdamW,
        torch.optim.SGD,
        torch.optim.Adagrad,
        torch.optim.RMSprop,
        torch.optim.Adafactor,
        torch.optim.RAdam,
        torch.optim.ASGD,
    ],
)
def test_a_training_step_on_a_gpu_asks_the_host_for_no_number(
    kind: Callable[..., torch.optim.Optimizer], clip: float | None
) -> None:
    made = StandIns(torch.device("cuda", 0))
    m = made.module(nn.Linear(3, 2))
    x = made.tree(torch.randn(4, 3), None)
    with standing(made, None):
        optimizer = kind(m.parameters(), lr=1e-2)
        with_state(optimizer)
        step = lt.train_step(m, lambda y, _: y.square().mean(), optimizer, clip_norm=clip)
        step.hold()
        leaves, spec = trees.flatten(((step.settings(), (x, None), {}), {}))
        rate = leaves.index(1e-2)
        with torch.no_grad():
            graph = record(step.compiled.fn, leaves, spec, varying=frozenset({rate})).piece.graph
    assert "a number varies" in refusal(graph)
    assert refusal(optimize(graph, False)) == ""


def value(typed: object, count: float) -> object:
    """Something for an input: what has no dimensions counts steps."""
    if isinstance(typed, ScalarType):
        return 0.003
    assert hasattr(typed, "shape")
    shape, dtype = typed.shape, typed.dtype
    return torch.rand(shape, dtype=dtype) if shape else torch.full((), count, dtype=dtype)


def copied(given: list[object]) -> list[object]:
    """The same, since a graph may write to what it is given."""
    return [x.clone() if isinstance(x, torch.Tensor) else x for x in given]
