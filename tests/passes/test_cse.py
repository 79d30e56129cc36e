"""cse: equal operations on the same values become one; effects never do."""

import torch
from check import Check

from lazytorch.ir import Builder, Graph, input
from lazytorch.ops.elementary import Exp
from lazytorch.ops.pointwise import Add, Div
from lazytorch.passes import cse
from lazytorch.types import tensor_type


def test_merges_equal_operations(check: Check) -> None:
    check(
        cse,
        """
        graph(%x: f32[4]) {
          %0 = exp %x
          %1 = exp %x
          %2 = add %0 %1
          return %2
        }
        """,
        """
        graph(%x: f32[4]) {
          %0: f32[4] = exp %x
          %1: f32[4] = add %0 %0
          return %1
        }
        """,
    )


def test_merges_what_reads_merged_values(check: Check) -> None:
    check(
        cse,
        """
        graph(%x: f32[4]) {
          %0 = exp %x
          %1 = mul %0 2.0
          %2 = exp %x
          %3 = mul %2 2.0
          return %1, %3
        }
        """,
        """
        graph(%x: f32[4]) {
          %0: f32[4] = exp %x
          %1: f32[4] = mul %0 2.0
          return %1, %1
        }
        """,
    )


def test_keeps_what_differs_in_attributes_or_in_the_order_of_operands(check: Check) -> None:
    check.declines(
        cse,
        """
        graph(%x: f32[4, 4], %y: f32[4, 4]) {
          %0 = sum{dims=(0,)} %x
          %1 = sum{dims=(1,)} %x
          %2 = sub %x %y
          %3 = sub %y %x
          return %0, %1, %2, %3
        }
        """,
    )


def test_keeps_the_two_zeros_and_the_kinds_of_one_apart(check: Check) -> None:
    check.declines(
        cse,
        """
        graph(%x: f32[4], %i: i64[4]) {
          %0 = div %x 0.0
          %1 = div %x -0.0
          %2 = add %i 1
          %3 = add %i 1.0
          %4 = add %i True
          return %0, %1, %2, %3, %4
        }
        """,
    )


def test_merges_nan_constants(check: Check) -> None:
    check(
        cse,
        """
        graph(%x: f32[4]) {
          %0 = add %x nan
          %1 = add %x nan
          return %0, %1
        }
        """,
        """
        graph(%x: f32[4]) {
          %0: f32[4] = add %x nan
          return %0, %0
        }
        """,
    )


def test_declines_random_draws(check: Check) -> None:
    check.declines(
        cse,
        """
        graph(%x: f32[4]) {
          %0 = aten_random{overload="aten.bernoulli.p", args=($0, 0.5)} %x
          %1 = aten_random{overload="aten.bernoulli.p", args=($0, 0.5)} %x
          effects %0, %1
          return %0, %1
        }
        """,
    )


def test_declines_where_the_default_dtype_changed_in_between() -> None:
    x = input("x", tensor_type((4,), torch.int64))
    one = Builder()(Div(), x, 2)
    torch.set_default_dtype(torch.float64)
    try:
        other = Builder()(Div(), x, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    first, second = cse(Graph((x,), (one, other))).outputs
    assert first.type != second.type


def test_a_chain_of_five_thousand_is_no_recursion() -> None:
    x = node = input("x", tensor_type((4,)))
    b = Builder()
    for _ in range(5000):
        node = b(Add(), b(Exp(), node), b(Exp(), node))
    assert len(cse(Graph((x,), (node,)))) == 10001
