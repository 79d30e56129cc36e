"""Every rule of a well-formed graph, broken once."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from lazytorch.errors import VerifyError, Where
from lazytorch.ir import Alias, Builder, Graph, Input, Node, Write, input
from lazytorch.ops.aten import AtenRandom, Operand
from lazytorch.ops.elementary import Exp
from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import Add
from lazytorch.types import tensor_type
from lazytorch.verify import signature, verify

F32, F64 = tensor_type((2,)), tensor_type((2,), torch.float64)
b = Builder()


def broken(graph: Graph, message: str) -> VerifyError:
    """The error that names the pass to blame."""
    with pytest.raises(VerifyError, match=re.escape(message)) as caught:
        verify(graph, after="some_pass")
    assert caught.value.message.startswith("after some_pass")
    return caught.value


def draw(x: Node) -> Node:
    return b(AtenRandom("aten.bernoulli.default", (Operand(0),)), x)


def test_a_good_graph_comes_back_itself() -> None:
    x = input("x", F32)
    drawn = draw(x)
    graph = Graph((x,), (b(Add(), drawn, 1.0),), (drawn, b(Write(), x, drawn)))
    assert verify(graph) is graph


def test_a_wrong_type_is_shown_in_its_place_with_the_users_line() -> None:
    x = input("x", F32)
    wrong = Node(Exp(), (b(Exp(), x),), F64, Where("train.py", 41, "forward"))
    error = broken(Graph((x,), (wrong,)), "exp is typed f64[2], its type rule says f32[2]")
    assert "> " + "  %1: f64[2] = exp %0" in str(error)
    assert "train.py:41 in forward" in str(error)


def test_operands_that_the_type_rule_refuses() -> None:
    x, y = input("x", F32), input("y", tensor_type((3,)))
    broken(Graph((x, y), (Node(Add(), (x, y), F32),)), "add refuses its operands")


def test_inputs_are_inputs_with_labels_of_their_own() -> None:
    x, y = input("x", F32), input("x", F32)
    broken(Graph((x, y), (x,)), "distinct labels")
    broken(Graph((x, x), (x,)), "distinct")
    broken(Graph((b(Exp(), x),), (x,)), "inputs must be distinct `input` operations")


@pytest.mark.parametrize("label", ["0", "12", "", "a b", "x-y", "a:b", "%x"])
def test_labels_that_the_text_cannot_hold(label: str) -> None:
    x = Node(Input(label, F32), (), F32)
    broken(Graph((x,), (x,)), "cannot be labelled")


@pytest.mark.parametrize("label", ["x", "layers.0.weight", "args[0]", "0.weight", "été", "_"])
def test_labels_that_it_can(label: str) -> None:
    x = input(label, F32)
    verify(Graph((x,), (x,)))


def test_what_is_read_is_an_input_of_the_graph() -> None:
    broken(Graph((), (b(Exp(), input("x", F32)),)), "%x is read but is no input")


def test_an_effect_is_listed() -> None:
    x = input("x", F32)
    broken(Graph((x,), (draw(x),)), "is an effect that the graph does not list")


def test_writes_go_to_inputs_once_and_nothing_reads_them() -> None:
    x, y = input("x", F32), input("y", F32)
    one, other = b(Write(), x, y), b(Write(), x, b(Exp(), y))
    broken(Graph((x, y), (), (one, other)), "a write must go to an input, and to each only once")
    computed = b(Write(), b(Exp(), x), y)
    broken(Graph((x, y), (), (computed,)), "a write must go to an input")
    broken(Graph((x, y), (b(Exp(), one),), (one,)), "nothing may read a write")


def test_aliases_name_what_is_there_before_them() -> None:
    x = input("x", F32)
    whole = Alias("output", 0, (2,), (1,), 0)
    verify(Graph((x,), (b(Exp(), x), x, x), (), (None, whole, Alias("input", 0))))
    broken(Graph((x,), (x, x), (), (Alias("output", 1), None)), "which comes later")
    broken(Graph((x,), (x,), (), (Alias("output", 0),)), "which comes later")
    broken(Graph((x,), (x,), (), (Alias("input", 1),)), "which is not there")
    broken(Graph((x,), (x,), (), (Alias("input", -1),)), "an alias of input -1")
    broken(Graph((x,), (x,), (), (Alias("input", 0, (3,), (1,), 0),)), "its view has shape (3,)")
    broken(Graph((x,), (x,), (), (Alias("input", 0, (2,), (1, 1), 0),)), "its view has shape")


def test_what_differs_from_a_verified_graph_is_looked_at() -> None:
    x, y = input("x", F32), input("y", F32)
    sums = b(Add(), x, y)
    before = verify(Graph((x, y), (sums,)))
    assert before.verified
    wrong = {
        "exp is typed f64": Graph((x, y), (sums, Node(Exp(), (sums,), F64))),
        "%y is read but is no input": Graph((x,), (sums,)),
        "is an effect that the graph does not list": Graph((x, y), (sums, draw(x))),
        "which comes later": Graph((x, y), (sums,), (), (Alias("output", 0),)),
    }
    for message, after in wrong.items():
        for _ in range(2):
            with pytest.raises(VerifyError, match=message):
                verify(after, before=before)
        assert not after.verified
    assert not replace(before, outputs=(x,)).verified


def test_bodies_are_verified_too() -> None:
    x = input("x", F32)
    body = Graph((x,), (Node(Exp(), (x,), F64),))
    outer = input("outer", F32)
    fused = Node(Fused(body), (outer,), F64)
    broken(Graph((outer,), (fused,)), "exp is typed f64[2]")


def test_the_signature_is_types_and_aliases() -> None:
    x = input("x", F32)
    graph = Graph((x,), (b(Exp(), x),))
    assert signature(graph) == signature(Graph((x,), (b(Add(), x, 1.0),)))
    assert signature(graph) != signature(Graph((x,), (b(Add(), x, 1.0),), (), (Alias("input", 0),)))
    wider = b(Add(), x, input("y", F64))
    assert signature(graph) != signature(Graph((x,), (wider,)))
