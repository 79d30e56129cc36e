"""Dropout that kernels draw: when it is torch's very pattern, and what is left to torch."""

from __future__ import annotations

import pytest
import torch

from lazytorch.autodiff.joint import halves
from lazytorch.ir import Builder, Graph, Input, Item, Operand, Write, input
from lazytorch.ops.aten import Aten
from lazytorch.ops.fused import Fused
from lazytorch.ops.layout import Slice
from lazytorch.ops.philox import PhiloxState
from lazytorch.ops.pointwise import Add, Mul
from lazytorch.ops.random import NativeDropout
from lazytorch.ops.writes import SliceScatter
from lazytorch.passes import draws, draws_in_kernels, fuse
from lazytorch.passes.draws_in_kernels import dropped
from lazytorch.types import TensorType, tensor_type

DEVICE, RESIDENT = torch.device("cuda", 0), 270336


def kind(*shape: int, dtype: torch.dtype = torch.float32) -> TensorType:
    return tensor_type(shape, dtype, DEVICE)


def dropout(x: TensorType, p: float = 0.3) -> Graph:
    b, given = Builder(), input("x", x)
    node = b(NativeDropout(p), b(Mul(), given, 2.0))
    return Graph((given,), (b(Item(0), node), b(Item(1), node)), (node,))


def test_the_pass_leaves_one_kernel_and_a_look_at_the_generator() -> None:
    x = tensor_type((64, 96), torch.bfloat16, torch.device("cuda", 0))
    graph = fuse(draws_in_kernels(dropout(x), 270336))
    (state,) = graph.effects
    assert state.op == PhiloxState(4, x.device)
    assert [type(n.op) for n in graph.nodes if not isinstance(n.op, Input | Item)] == [
        PhiloxState, Fused,
    ]  # fmt: skip
    assert [y.type for y in graph.outputs] == [x, x.with_dtype(torch.bool)]


@pytest.mark.parametrize(
    "x",
    [
        kind(5, 3), kind(2, 3), kind(8, dtype=torch.float64),
        tensor_type((8, 4), torch.float32, DEVICE, (8, 1)),
    ],
)  # fmt: skip
def test_other_patterns_are_torchs(x: TensorType) -> None:
    b, given = Builder(), input("x", x)
    graph = Graph((given,), (b(Item(0), b(NativeDropout(0.3), given)),))
    assert draws_in_kernels(graph, RESIDENT) is graph


@pytest.mark.parametrize("first, there", [(1, False), (4, True)])
def test_where_a_view_begins_counts(first: int, there: bool) -> None:
    b, given = Builder(), input("x", kind(20))
    node = b(NativeDropout(0.3), b(Slice(0, first, first + 8), given))
    graph = Graph((given,), (b(Item(0), node),), (node,))
    assert (draws_in_kernels(graph, RESIDENT) is not graph) is there


def test_state_and_unknown_devices_are_left_alone() -> None:
    b, given = Builder(), input("w", kind(20), "state")
    node = b(NativeDropout(0.3), given)
    graph = Graph((given,), (b(Item(0), node),), (node,))
    assert draws_in_kernels(graph, RESIDENT) is graph
    graph = dropout(kind(64))
    assert draws_in_kernels(graph, 0) is graph


def test_inputs_that_lie_apart_are_left_alone() -> None:
    graph, aside = dropout(kind(64)), frozenset({0})
    assert draws_in_kernels(graph, RESIDENT, aside) is not graph  # what it drops from is its own
    b, given = Builder(), input("x", kind(64))
    node = b(NativeDropout(0.3), given)
    graph = Graph((given,), (b(Item(0), node),), (node,))
    assert draws_in_kernels(graph, RESIDENT) is not graph
    assert draws_in_kernels(graph, RESIDENT, aside) is graph


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("more", [False, True])
def test_what_is_written_into_state_lies_where_that_does(window: bool, more: bool) -> None:
    b, given, state = Builder(), input("x", kind(64)), input("w", kind(64), "state")
    value = b(Add(), b(Slice(0, 0, 32), state) if window else state, 1.0)
    shown = value
    if window:
        value = b(SliceScatter(0, 0, 32), state, value)
    node = b(NativeDropout(0.3), shown)
    last = b(Mul(), value, 2.0) if more else value
    write = b(Write(), state, last)
    graph = Graph((given, state), (b(Item(0), node),), (node, write))
    assert draws_in_kernels(graph, RESIDENT) is graph
    ((root, behind),) = dropped(graph).values()
    assert root is state and behind == (None if window else 0)


def test_what_is_copied_into_state_lies_there() -> None:
    b, given, state = Builder(), input("x", kind(64)), input("w", kind(64), "state")
    node = b(NativeDropout(0.3), given)
    graph = Graph((given, state), (b(Item(0), node),), (b(Write(), state, given), node))
    assert draws_in_kernels(graph, RESIDENT) is graph


def test_parts_that_an_operation_gives_may_begin_anywhere() -> None:
    b, given = Builder(), input("x", kind(64))
    split = b(Aten("aten.unsafe_chunk.default", (Operand(0), 2)), given)
    one = b(Aten("aten.special_i0.default", (Operand(0),)), given)
    for found, taken in ((b(Item(1), split), False), (one, True)):
        node = b(NativeDropout(0.3), found)
        graph = Graph((given,), (b(Item(0), node),), (node,))
        assert (draws_in_kernels(graph, RESIDENT) is not graph) is taken


def test_a_dropout_of_torchs_lies_as_it_was_recorded() -> None:
    op = NativeDropout(0.3, (12, 1, 4))
    typed = op.infer(kind(2, 4, 3)).items
    assert typed == (kind(2, 4, 3).with_strides((12, 1, 4)), typed[1])


def test_a_backward_draws_again_what_was_dropped() -> None:
    x = tensor_type((64, 96), torch.float32, torch.device("cuda", 0))
    graph = dropout(x)
    graph = Graph(graph.inputs, graph.outputs[:1], graph.effects)
    both = halves(graph, [0], [graph.inputs[0]], first=draws(270336))
    found = [both.forward.outputs[k].type for kind, k in both.saved if kind == "output"]
    assert found == [tensor_type((), torch.int64, x.device)] * 2
    kept = halves(graph, [0], [graph.inputs[0]])
    assert [kept.forward.outputs[k].type for _, k in kept.saved] == [x.with_dtype(torch.bool)]
