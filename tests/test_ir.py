"""Operations, nodes, graphs, and what the interpreter makes of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from random_graphs import random_graph

from lazytorch.data import Data
from lazytorch.errors import ShapeError, Where
from lazytorch.interpret import interpret
from lazytorch.ir import (
    Alias,
    Builder,
    Const,
    Graph,
    Item,
    Node,
    Op,
    Write,
    input,
    postorder,
    with_inputs,
)
from lazytorch.ops.aten import value_type
from lazytorch.ops.elementary import Exp, Sin
from lazytorch.ops.layout import Permute, Slice
from lazytorch.ops.pointwise import Abs, Add, Cast, Mul, Neg
from lazytorch.ops.reduce import MaxDim
from lazytorch.types import ScalarType, tensor_type

F32 = tensor_type((2, 3))
b = Builder()


def test_constants_differ_by_type_and_sign_of_zero() -> None:
    values: list[Any] = [0, 0.0, -0.0, False, 1, 1.0, True, 1j, complex(0, -1), math.inf, math.nan]
    assert len({Const(value) for value in values}) == len(values)
    for i, value in enumerate(values):
        assert [Const(value) == Const(other) for other in values].index(True) == i


def test_nan_equals_itself() -> None:
    assert Const(math.nan) == Const(float("nan"))
    assert Const(complex(math.nan, 0.0)) == Const(complex(math.nan, 0.0))


class Holder(Op):
    """An operation with any attribute."""

    value: Any

    def infer(self, x: Any) -> Any:
        return x


def test_attributes_inside_tuples_keep_their_types_apart() -> None:
    values: list[Any] = [(1, 2), (1.0, 2), (True, 2), ((1,), 2), (0.0,), (-0.0,), torch.float32]
    assert len({Holder(value) for value in values}) == len(values)
    assert Holder((1, (math.nan,))) == Holder((1, (math.nan,)))
    assert hash(Holder((1, (2.0,)))) == hash(Holder((1, (2.0,))))


def test_operations_of_different_classes_are_different() -> None:
    assert Exp() == Exp() != Sin()
    assert Cast(torch.float32) != Cast(torch.float64)
    assert Exp.name() == "exp" and Holder.name() == "holder"


def test_data_is_equal_by_type_and_bytes() -> None:
    x = torch.tensor([0.0, math.nan])
    assert Data(x) == Data(x.clone()) and hash(Data(x)) == hash(Data(x.clone()))
    assert Data(x) != Data(torch.tensor([-0.0, math.nan]))
    assert Data(torch.zeros(2)) != Data(torch.zeros(2, dtype=torch.int32))
    assert Data(torch.zeros(2, 1)) != Data(torch.zeros(1, 2))


def test_nodes_are_equal_only_to_themselves() -> None:
    x = input("x", F32)
    assert b(Exp(), x) != b(Exp(), x)
    with pytest.raises(AttributeError):
        x.op = Exp()  # type: ignore[misc]


def test_builder_makes_constants_and_keeps_the_line() -> None:
    where = Where("model.py", 7, "forward", "layer1")
    node = Builder(where)(Mul(), input("x", F32), 2.0)
    assert node.where is where and node.type == F32
    assert node.inputs[1].op == Const(2.0) and node.inputs[1].type == ScalarType(float)


def test_builder_names_the_users_line_and_the_operands_in_errors() -> None:
    x, y = input("x", F32), input("y", tensor_type((4,)))
    with pytest.raises(ShapeError) as caught:
        Builder(Where("model.py", 7, "forward", "layer1"))(Add(), x, y)
    assert str(caught.value).splitlines() == [
        "add: size 3 and size 4 at dimension 1 cannot be broadcast",
        "  operand 0: f32[2, 3]",
        "  operand 1: f32[4]",
        "  at model.py:7 in forward (layer1)",
    ]


def diamond() -> tuple[Node, Node, Node, Graph]:
    x = input("x", F32)
    left, right = b(Exp(), x), b(Sin(), x)
    return x, left, right, Graph((x,), (b(Add(), left, right), left))


def test_nodes_come_once_and_operands_first() -> None:
    x, left, right, graph = diamond()
    assert graph.nodes == (x, left, right, graph.outputs[0])
    assert list(graph) == list(graph.nodes) and len(graph) == 4


def test_users_are_listed_once_per_use() -> None:
    x = input("x", F32)
    square = b(Mul(), x, x)
    graph = Graph((x,), (square,))
    assert graph.users == {x: [square, square], square: []}


def test_writes_come_last() -> None:
    x = input("x", F32)
    write = b(Write(), x, b(Exp(), x))
    graph = Graph((x,), (b(Neg(), x),), (write,))
    assert [node.op.name() for node in graph.nodes] == ["input", "neg", "exp", "write"]


def test_postorder_walks_long_chains() -> None:
    x = input("x", F32)
    last = x
    for _ in range(20_000):
        last = b(Exp(), last)
    assert len(postorder([last])) == 20_001


def test_map_rewrites_operands_first_and_only_what_changes() -> None:
    x, left, right, graph = diamond()
    seen: list[str] = []

    def rewrite(node: Node) -> Node:
        seen.append(node.op.name())
        return b(Abs(), x) if node is right else node

    after = graph.map(rewrite)
    assert seen == ["exp", "sin", "add"]
    assert after.outputs[1] is left
    assert [n.op.name() for n in after.outputs[0].inputs] == ["exp", "abs"]
    assert graph.outputs[0].inputs == (left, right)


def test_map_gives_the_same_graph_back_when_nothing_changes() -> None:
    graph = diamond()[3]
    assert graph.map(lambda node: node) is graph


def test_new_operands_of_another_type_retype_their_users() -> None:
    x = input("x", F32)
    node = b(Exp(), x)
    wider = with_inputs(node, [b(Cast(torch.float64), x)])
    assert wider.type == tensor_type((2, 3), torch.float64)
    assert with_inputs(node, [x]) is node


def test_graphs_are_equal_by_structure() -> None:
    assert diamond()[3] == diamond()[3] and hash(diamond()[3]) == hash(diamond()[3])
    x = input("x", F32)
    one, other = Graph((x,), (b(Exp(), x),)), Graph((x,), (b(Sin(), x),))
    assert one != other
    assert one != Graph((x,), one.outputs, (), (Alias("input", 0),))
    shared, twice = b(Exp(), x), (b(Exp(), x), b(Exp(), x))
    assert Graph((x,), (shared, shared)) != Graph((x,), twice)


def test_a_number_is_its_value_however_many_nodes_state_it() -> None:
    x = input("x", F32)
    two = b(Const(2.0))
    shared = Graph((x,), (b(Mul(), b(Add(), x, two), two),))
    apart = Graph((x,), (b(Mul(), b(Add(), x, 2.0), 2.0),))
    assert shared == apart
    assert shared != Graph((x,), (b(Mul(), b(Add(), x, 2.0), 2),))
    zero, minus = (Graph((x,), (b(Mul(), x, value),)) for value in (0.0, -0.0))
    assert zero != minus


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs_repeat_and_type_their_results(seed: int) -> None:
    graph, args = random_graph(seed)
    again, same = random_graph(seed)
    assert graph == again
    for result, other, node in zip(
        interpret(graph, *args), interpret(again, *same), graph.outputs, strict=True
    ):
        assert value_type(result) == node.type
        torch.testing.assert_close(result, other, rtol=0, atol=0, equal_nan=True)


def test_to_networkx_has_a_node_and_an_edge_for_each() -> None:
    drawn = diamond()[3].to_networkx()
    assert drawn.number_of_nodes() == 4 and drawn.number_of_edges() == 4
    assert [data["output"] for _, data in drawn.nodes(data=True)] == [False, True, False, True]
    assert drawn.get_edge_data(1, 3)[0]["operand"] == 0
    assert str(drawn.nodes[0]["type"]) == "f32[2, 3]"


def test_interpret_writes_last_and_values_that_view_the_target_too() -> None:
    x = input("x", tensor_type((2, 2)))
    turned = b(Permute((1, 0)), x)
    graph = Graph((x,), (b(Neg(), x),), (b(Write(), x, turned),))
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    (result,) = interpret(graph, value)
    assert result.tolist() == [[-1, -2], [-3, -4]]
    assert value.tolist() == [[1, 3], [2, 4]]


def test_interpret_swaps_two_inputs() -> None:
    x, y = input("x", F32), input("y", F32)
    graph = Graph((x, y), (), (b(Write(), x, y), b(Write(), y, x)))
    one, two = torch.ones(2, 3), torch.full((2, 3), 2.0)
    interpret(graph, one, two)
    assert one[0, 0] == 2 and two[0, 0] == 1


def test_interpret_gives_fresh_memory_unless_eager_aliases() -> None:
    x = input("x", F32)
    part = b(Slice(0, 1, 2), x)
    given = torch.arange(6.0).reshape(2, 3)
    same, view, copy = interpret(
        Graph(
            (x,),
            (x, part, part),
            (),
            (Alias("input", 0), Alias("input", 0, (1, 3), (3, 1), 3), None),
        ),
        given,
    )
    given.zero_()
    assert same is given
    assert view.tolist() == [[0, 0, 0]] and copy.tolist() == [[3, 4, 5]]


def test_items_of_a_tuple() -> None:
    x = input("x", F32)
    both = b(MaxDim(1), x)
    values, places = interpret(
        Graph((x,), (b(Item(0), both), b(Item(1), both))), torch.eye(2, 3) * 5
    )
    assert values.tolist() == [5, 5] and places.tolist() == [0, 1]
