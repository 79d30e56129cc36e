"""The text form: what prints parses back to an equal graph, and what is no graph is refused."""

from __future__ import annotations

import math
from textwrap import dedent
from typing import Any

import pytest
import torch
from random_graphs import random_graph

from lazytorch.data import Data
from lazytorch.errors import ParseError, VerifyError
from lazytorch.ir import Alias, Builder, Const, Graph, Node, Op, Operand, Write, input
from lazytorch.ops.aten import Aten, AtenRandom
from lazytorch.ops.create import Literal
from lazytorch.ops.elementary import Exp
from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import Add, Cast, Mul
from lazytorch.text import parse, print_attribute
from lazytorch.types import OpaqueType, ScalarType, TensorType, TupleType, tensor_type

F32 = tensor_type((2, 3))
CPU = torch.device("cpu")


class Keeper(Op):
    """Holds one attribute of any kind."""

    value: Any

    def infer(self, x: TensorType) -> TensorType:
        return x


def round_trip(graph: Graph) -> str:
    """The text, after checking that it gives the graph back."""
    text = str(graph)
    again = parse(text)
    assert str(again) == text
    assert again == graph
    return text


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_parse_back(seed: int) -> None:
    graph, _ = random_graph(seed)
    round_trip(graph)


ATTRIBUTES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -7,
    2**70,
    0.0,
    -0.0,
    1.0,
    1e-300,
    -1.5e30,
    0.1,
    math.inf,
    -math.inf,
    math.nan,
    1j,
    complex(-0.0, math.inf),
    complex(math.nan, -2.5),
    "",
    'quotes " and \\ and \n and é and # and %0',
    (),
    (1,),
    (1, 1.0, True),
    ((), ((2,), (-0.0,)), None),
    torch.float32,
    torch.bool,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.quint8,
    CPU,
    torch.device("cuda:1"),
    torch.channels_last,
    torch.preserve_format,
    torch.strided,
    Operand(0),
    (Operand(1), (Operand(12), "x")),
    Exp(),
    (Cast(torch.float16), Exp()),
    F32,
    tensor_type((2, 3), torch.bool, "cuda:0", (1, 2)),
    ScalarType(float),
    ScalarType(bool),
    TupleType((F32,)),
    TupleType((F32, TupleType(()), ScalarType(int))),
    OpaqueType(64, torch.device("cuda:0")),
    Data(torch.tensor(2.5)),
    Data(torch.tensor([0.0, -0.0, math.inf])),
    Data(torch.tensor([math.nan])),
    Data(torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)),
    Data(torch.tensor([[True, False]])),
    Data(torch.tensor([1 + 2j, -0.0j])),
    Data(torch.zeros(0, 3, dtype=torch.int64)),
    Data(torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).t()),
    Data(torch.arange(2.0)[:, None].expand(2, 3)),
    Data(torch.arange(100)),
]


@pytest.mark.parametrize("value", ATTRIBUTES, ids=lambda value: repr(value)[:40])
def test_attributes_keep_their_type_and_bits(value: Any) -> None:
    x = input("x", F32)
    graph = Graph((x,), (Builder()(Keeper(value), x),))
    round_trip(graph)
    op = parse(str(graph)).outputs[0].op
    assert isinstance(op, Keeper)
    assert type(op.value) is type(value)
    assert op == Keeper(value)


def test_attributes_that_python_calls_equal_print_differently() -> None:
    for group in ((0, 0.0, -0.0, False), (1, 1.0, True, 1 + 0j), (math.inf, -math.inf, math.nan)):
        assert len({print_attribute(value) for value in group}) == len(group)


def test_what_is_no_attribute_is_refused() -> None:
    with pytest.raises(TypeError, match="list cannot be a static attribute"):
        print_attribute([1])


@pytest.mark.parametrize("value", [0, 0.0, -0.0, False, True, 1e-45, math.nan, -math.inf, 2 - 3j])
def test_numbers_are_operands(value: Any) -> None:
    x = input("x", tensor_type((2,), torch.complex128))
    graph = Graph((x,), (Builder()(Mul(), x, value),))
    round_trip(graph)
    found = parse(str(graph)).outputs[0].inputs[1]
    assert found.op == Const(value)
    assert found.type == ScalarType(type(value))


def test_one_number_read_twice_is_two_numbers_read_once() -> None:
    x = input("x", F32)
    two = Builder()(Const(2.0))
    shared = Builder()(Add(), Builder()(Mul(), x, two), two)
    round_trip(Graph((x,), (shared,)))


def test_everything_at_once() -> None:
    b = Builder()
    x, w = input("layers.0.weight", F32, "state"), input("args[0]", F32)
    n = input("lr", ScalarType(float))
    drawn = b(AtenRandom("aten.bernoulli.default", (Operand(0),)), x)
    scaled = b(Mul(), x, n)
    written = b(Write(), w, scaled)
    graph = Graph(
        (x, w, n),
        (scaled, x, x, b(Add(), drawn, w)),
        (drawn, written),
        (None, Alias("input", 0), Alias("output", 0, (2, 3), (3, 1), 0), None),
    )
    assert round_trip(graph) == dedent("""\
        graph(%layers.0.weight: f32[2, 3] state, %args[0]: f32[2, 3], %lr: float) {
          %0: f32[2, 3] = aten_random{overload="aten.bernoulli.default", args=($0,)} \
%layers.0.weight
          %1: f32[2, 3] = mul %layers.0.weight %lr
          %2: f32[2, 3] = add %0 %args[0]
          %3: f32[2, 3] = write %args[0] %1
          effects %0, %3
          return %1, %layers.0.weight (input 0), %layers.0.weight (view of output 0: \
shape=(2, 3), strides=(3, 1), offset=0), %2
        }""")


def test_bodies_nest() -> None:
    def fused(inner: Op) -> Fused:
        x, y = input("x", F32), input("y", F32)
        once = Builder()(inner, x) if not isinstance(inner, Fused) else Builder()(inner, x, y)
        return Fused(Graph((x, y), (once, Builder()(Add(), once, -0.0))[:1]))

    x, y = input("x", F32), input("y", F32)
    graph = Graph((x, y), (Builder()(fused(fused(Exp())), x, y),))
    assert round_trip(graph).count("graph(") == 3


def test_an_aten_call_keeps_its_arguments() -> None:
    x = input("x", F32)
    op = Aten(
        "aten.roll.default",
        (Operand(0), (1, -1), (0, 1)),
        (),
        TupleType((F32, tensor_type((), torch.int64))),
    )
    round_trip(Graph((x,), (Builder()(op, x),)))


def test_a_large_constant_is_found_while_any_copy_of_it_lives() -> None:
    first, second = Data(torch.arange(50)), Data(torch.arange(50))
    graph = Graph((), (Builder()(Literal(second)),))
    assert first == second
    text = str(graph)
    assert "@" + first.digest in text
    del first
    assert parse(text) == graph


def test_a_large_constant_that_is_gone_is_an_error() -> None:
    text = "graph() {\n  %0 = literal{data=data(i64[50], @0123456789abcdef)}\n  return %0\n}"
    with pytest.raises(ParseError, match="no longer in memory"):
        parse(text)


def test_types_and_comments_are_optional() -> None:
    graph = parse("""
        graph(%x: f32[4]) {   # the input
          %first = exp %x     # at model.py:3 in forward: y = x.exp() % 2
          %second = add %first 1.5
          return %second
        }""")
    assert str(graph) == dedent("""\
        graph(%x: f32[4]) {
          %0: f32[4] = exp %x
          %1: f32[4] = add %0 1.5
          return %1
        }""")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("%0 = nonsense %x\n return %0", "no operation is named nonsense at line 2, column 7"),
        ("%0 = exp %y\n return %0", "%y is used before it is made"),
        ("%0 = cast{kind=f32} %x\n return %0", "kind"),
        ("%0 = cast{dtype=f33} %x\n return %0", "f33 is no attribute"),
        ("%0: f33[2] = exp %x\n return %0", "no dtype is named f33"),
        ("return \"one\"\n}", "an operand is a value or a number"),
        ("return %x\n} trailing", "text after the graph"),
        ("return %x", "expected }"),
        ("return %x ? }", "unreadable text"),
    ],
)  # fmt: skip
def test_what_is_no_graph_is_refused_with_its_place(body: str, message: str) -> None:
    text = f"graph(%x: f32[2]) {{\n {body}" + ("\n}" if "return %0" in body else "")
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_parsed_graphs_are_verified() -> None:
    with pytest.raises(VerifyError, match="its type rule says"):
        parse("graph(%x: f32[2]) {\n  %0: f64[2] = exp %x\n  return %0\n}")


def nodes_in_a_row(count: int) -> Node:
    x = input("x", F32)
    for _ in range(count):
        x = Builder()(Exp(), x)
    return x


def test_long_chains_print_and_parse_without_recursion() -> None:
    last = nodes_in_a_row(5000)
    first = last
    while first.inputs:
        first = first.inputs[0]
    graph = Graph((first,), (last,))
    assert len(parse(str(graph)).nodes) == 5001
