"""horizontal: equal computations on many small tensors are one launch; where that pays, and right."""

# ruff: noqa: E501  a graph's text is as wide as it is

from functools import partial

import pytest
import torch
from check import Check

from lazytorch.ir import Builder, Graph, Node, Write, input
from lazytorch.ops.foreach import Foreach
from lazytorch.ops.pointwise import Add, Mul
from lazytorch.ops.random import Uniform
from lazytorch.passes import fuse, horizontal
from lazytorch.types import tensor_type
from lazytorch.verify import verify

two = partial(horizontal, fewest=2)


def test_joins_equal_operations_on_tensors_of_all_shapes(check: Check) -> None:
    check(
        two,
        """
        graph(%x: f32[3, 5], %y: f32[7], %z: f32[], %s: float) {
          %0 = mul %x %s
          %1 = mul %y %s
          %2 = mul %z %s
          return %1, %0, %2
        }
        """,
        """
        graph(%x: f32[3, 5], %y: f32[7], %z: f32[], %s: float) {
          %0: (f32[7], f32[3, 5], f32[]) = foreach{body=graph(%a0: f32[2], %a1: float) {
            %0: f32[2] = mul %a0 %a1
            return %0
          }, count=3, common=(1,)} %s %y %x %z
          %1: f32[7] = item{index=0} %0
          %2: f32[3, 5] = item{index=1} %0
          %3: f32[] = item{index=2} %0
          return %1, %2, %3
        }
        """,
    )


def test_joins_groups_and_gives_each_its_results(check: Check) -> None:
    def both(graph: Graph) -> Graph:
        return two(fuse(graph))

    check(
        both,
        """
        graph(%p: f32[3, 5], %m: f32[3, 5], %q: f32[7], %n: f32[7], %g: f32[3, 5], %h: f32[7]) {
          %0 = mul %m 0.5
          %1 = add %0 %g
          %2 = sub %p %1
          %3 = mul %n 0.5
          %4 = add %3 %h
          %5 = sub %q %4
          %6 = write %p %2
          %7 = write %m %1
          %8 = write %q %5
          %9 = write %n %4
          effects %6, %7, %8, %9
          return
        }
        """,
        """
        graph(%p: f32[3, 5], %m: f32[3, 5], %q: f32[7], %n: f32[7], %g: f32[3, 5], %h: f32[7]) {
          %0: (f32[3, 5], f32[3, 5], f32[7], f32[7]) = foreach{body=graph(%a0: f32[2], %a1: f32[2], %a2: f32[2]) {
            %0: f32[2] = mul %a0 0.5
            %1: f32[2] = add %0 %a1
            %2: f32[2] = sub %a2 %1
            return %1, %2
          }, count=2} %m %g %p %n %h %q
          %1: f32[3, 5] = item{index=1} %0
          %2: f32[3, 5] = write %p %1
          %3: f32[3, 5] = item{index=0} %0
          %4: f32[3, 5] = write %m %3
          %5: f32[7] = item{index=3} %0
          %6: f32[7] = write %q %5
          %7: f32[7] = item{index=2} %0
          %8: f32[7] = write %n %7
          effects %2, %4, %6, %8
          return
        }
        """,
    )


def test_numbers_and_0d_tensors_of_each_member_stay_its_own(check: Check) -> None:
    check(
        two,
        """
        graph(%x: f32[3], %y: f32[7], %t: f32[], %u: f32[], %v: f32[]) {
          %0 = addcmul %x %t %u 0.5
          %1 = addcmul %y %t %v 0.5
          return %0, %1
        }
        """,
        """
        graph(%x: f32[3], %y: f32[7], %t: f32[], %u: f32[], %v: f32[]) {
          %0: (f32[3], f32[7]) = foreach{body=graph(%a0: f32[2], %a1: f32[], %a2: f32[]) {
            %0: f32[2] = addcmul %a0 %a1 %a2 0.5
            return %0
          }, count=2, common=(1,)} %t %x %u %y %v
          %1: f32[3] = item{index=0} %0
          %2: f32[7] = item{index=1} %0
          return %1, %2
        }
        """,
    )


def test_a_path_between_two_keeps_them_apart_whatever_lies_on_it(check: Check) -> None:
    check.declines(
        two,
        """
        graph(%x: f32[3]) {
          %0 = exp %x
          %1 = sum{dims=(0,), keepdim=True} %0
          %2 = exp %1
          return %2
        }
        """,
    )


def test_two_chains_are_joined_step_by_step(check: Check) -> None:
    graph = verify(chains(5, 3))
    result = verify(two(graph))
    found = [x.op.count for x in result.nodes if isinstance(x.op, Foreach)]
    assert found == [5, 5, 5]
    assert two(result) is result


def chains(width: int, length: int) -> Graph:
    """`width` chains of `length` equal steps."""
    b = Builder()
    inputs = [input(f"x{i}", tensor_type((i + 1,))) for i in range(width)]
    made: list[Node] = []
    for x in inputs:
        for _ in range(length):
            x = b(Mul(), x, 2.0)
        made.append(x)
    return Graph(tuple(inputs), tuple(made))


def test_crossed_chains_do_not_wait_for_each_other() -> None:
    b = Builder()
    x, y = (input(name, tensor_type((4,))) for name in "xy")
    first, second = b(Mul(), x, 2.0), b(Add(), y, 1.0)
    third, fourth = b(Add(), first, 1.0), b(Mul(), second, 2.0)
    graph = Graph((x, y), (third, fourth))
    result = verify(two(graph))  # either kind alone can be joined, both together would be a ring
    assert sum(isinstance(n.op, Foreach) for n in result.nodes) == 1
    assert two(result) is result


@pytest.mark.parametrize(
    "text",
    [
        "graph(%x: f32[3], %y: f32[5]) { %0 = exp %x %1 = tanh %y return %0, %1 }",
        "graph(%x: f32[3], %y: f32[5]) { %0 = mul %x 2.0 %1 = mul %y 3.0 return %0, %1 }",
        "graph(%x: f32[3], %y: f16[5]) { %0 = exp %x %1 = exp %y return %0, %1 }",
        "graph(%x: f32[3, 5]{1, 6}, %y: f32[3, 5]{1, 6}) { %0 = exp %x %1 = exp %y return %0, %1 }",
        "graph(%x: f32[3, 5]{1, 3}, %y: f32[3, 5]) { %0 = add %x %y %1 = add %x %y return %0, %1 }",
        "graph(%x: f32[3, 5], %y: f32[5]) { %0 = add %x %y %1 = sub %x %y %2 = add %0 %y return %2, %1 }",
        "graph(%x: f32[3], %y: f32[5]) { %0 = exp %x return %0 }",
        "graph(%x: f32[3] state, %y: f32[5] state) { %0 = exp %x %1 = exp %y return %0, %1 }",
        "graph(%x: c64[3], %y: c64[5]) { %0 = exp %x %1 = exp %y return %0, %1 }",
        "graph(%x: f32[600000], %y: f32[5]) { %0 = exp %x %1 = exp %y return %0, %1 }",
        "graph(%x: f32[60, 200], %y: f32[9]) { %0 = exp %x %1 = exp %y %2 = softmax{dim=0} %0 return %2, %1 }",
        "graph(%x: f32[3], %y: f32[5]) { %0 = exp %x %1 = exp %y %2 = bernoulli_of %0 effects %2 return %2, %1 }",
        "graph(%x: f32[3], %y: f32[5]) { %0 = clone{strides=(1,)} %x %1 = clone{strides=(1,)} %y return %0, %1 }",
    ],
    ids=[
        "other operations", "other constants", "other dtypes", "not dense",
        "operands lie in different orders", "a broadcast operand", "one alone",
        "computed once, in the prologue", "no generated kernel", "large enough for a launch each",
        "read again, and not tiny", "an effect needs it", "an operation that names strides",
    ],
)  # fmt: skip
def test_declines(check: Check, text: str) -> None:
    check.declines(two, text)


def test_declines_fewer_than_are_worth_a_kernel(check: Check) -> None:
    text = "graph(%x: f32[3], %y: f32[5], %z: f32[2]) { %0 = exp %x %1 = exp %y %2 = exp %z return %0, %1, %2 }"
    check.declines(horizontal, text)


def test_a_launch_takes_as_many_members_as_its_bound() -> None:
    result = two(verify(chains(700, 1)))
    found = [x.op.count for x in result.nodes if isinstance(x.op, Foreach)]
    assert found == [512, 188]


def test_draws_keep_their_order() -> None:
    b = Builder()
    draws = [b(Uniform((k,), torch.float32, torch.device("cpu"))) for k in (3, 5)]
    x = input("x", tensor_type((3,)))
    made = [b(Mul(), draw, 2.0) for draw in draws]
    write = b(Write(), x, made[0])
    graph = verify(Graph((x,), (made[1],), (*draws, write)))
    result = verify(two(graph))
    assert sum(isinstance(n.op, Foreach) for n in result.nodes) == 1
    assert [n for n in result.nodes if isinstance(n.op, Uniform)] == draws
