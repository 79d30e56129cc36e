"""fold_constants: what depends on no input becomes a number, a `full` or a `literal`."""

from functools import partial

import pytest
import torch
from check import Check

from lazytorch.data import Data
from lazytorch.ir import Builder, Graph
from lazytorch.ops.create import Full, Literal
from lazytorch.passes import fold_constants
from lazytorch.text import parse


def test_computes_on_ranges_and_literals(check: Check) -> None:
    check(
        fold_constants,
        """
        graph(%x: f32[3]) {
          %0 = arange{start=0, end=3}
          %1 = mul %0 2
          %2 = cast{dtype=f32} %1
          %3 = add %x %2
          return %3
        }
        """,
        """
        graph(%x: f32[3]) {
          %0: f32[3] = literal{data=data(f32[3], (0.0, 2.0, 4.0))}
          %1: f32[3] = add %x %0
          return %1
        }
        """,
    )


def test_a_repeated_number_stays_a_full(check: Check) -> None:
    check(
        fold_constants,
        """
        graph(%x: f32[2, 3]) {
          %0 = full{shape=(2, 3), value=2.0}
          %1 = sqrt %0
          %2 = neg %1
          %3 = literal{data=data(f32[2], (nan, nan))}
          %4 = mul %x %2
          return %4, %3
        }
        """,
        """
        graph(%x: f32[2, 3]) {
          %0: f32[2, 3] = full{shape=(2, 3), value=-1.4142135381698608}
          %1: f32[2, 3] = mul %x %0
          %2: f32[2] = full{shape=(2,), value=nan}
          return %1, %2
        }
        """,
    )


def test_the_two_zeros_are_no_repeated_number(check: Check) -> None:
    check(
        fold_constants,
        """
        graph() {
          %0 = literal{data=data(f32[2, 2]{1, 2}, (0.0, -0.0, 0.0, 0.0))}
          %1 = mul %0 1.0
          return %1
        }
        """,
        """
        graph() {
          %0: f32[2, 2]{1, 2} = literal{data=data(f32[2, 2]{1, 2}, (0.0, -0.0, 0.0, 0.0))}
          return %0
        }
        """,
    )


def test_numbers_become_numbers(check: Check) -> None:
    check(
        fold_constants,
        """
        graph(%x: f32[3]) {
          %0 = mul 2 3
          %1 = div %0 4
          %2 = add %x %1
          return %2
        }
        """,
        """
        graph(%x: f32[3]) {
          %0: f32[3] = add %x 1.5
          return %0
        }
        """,
    )


def test_views_stay_and_are_seen_through(check: Check) -> None:
    check(
        fold_constants,
        """
        graph(%x: i64[2, 2]) {
          %0 = arange{start=0, end=2}
          %1 = reshape{shape=(2, 1)} %0
          %2 = expand{shape=(2, 2)} %1
          %3 = add %2 %0
          %4 = add %x %2
          return %3, %4
        }
        """,
        """
        graph(%x: i64[2, 2]) {
          %0: i64[2, 2] = literal{data=data(i64[2, 2], (0, 1, 1, 2))}
          %1: i64[2] = arange{start=0, end=2}
          %2: i64[2, 1] = reshape{shape=(2, 1)} %1
          %3: i64[2, 2]{1, 0} = expand{shape=(2, 2)} %2
          %4: i64[2, 2] = add %x %3
          return %0, %4
        }
        """,
    )


def test_a_mask_is_computed_once(check: Check) -> None:
    check(
        fold_constants,
        """
        graph(%x: f32[2, 2]) {
          %0 = full{shape=(2, 2), value=True, dtype=bool}
          %1 = tril %0
          %2 = logical_not %1
          %3 = masked_fill %x %2 -inf
          return %3
        }
        """,
        """
        graph(%x: f32[2, 2]) {
          %0: bool[2, 2] = literal{data=data(bool[2, 2], (False, True, False, False))}
          %1: f32[2, 2] = masked_fill %x %0 -inf
          return %1
        }
        """,
    )


def test_declines_random_draws_and_foreign_operations(check: Check) -> None:
    check.declines(
        fold_constants,
        """
        graph() {
          %0 = full{shape=(3,), value=0.5}
          %1 = aten_random{overload="aten.bernoulli.default", args=($0,)} %0
          %2 = aten{overload="aten.sinc.default", args=($0,)} %0
          effects %1
          return %1, %2
        }
        """,
    )


def test_declines_what_is_too_large(check: Check) -> None:
    text = "graph() { %0 = arange{start=0, end=1000} %1 = mul %0 2 return %1 }"
    check.declines(partial(fold_constants, limit=15999), text)
    with pytest.raises(AssertionError, match="it was rewritten"):
        check.declines(partial(fold_constants, limit=16000), text)


def test_leaves_an_error_to_the_call(check: Check) -> None:
    check.declines(
        fold_constants,
        """
        graph() {
          %0 = full{shape=(3,), value=1, dtype=i64}
          %1 = floor_divide %0 0
          return %1
        }
        """,
    )


def test_declines_a_copy_to_a_device_that_is_not_here(check: Check) -> None:
    if torch.cuda.is_available():
        pytest.skip("it is here")
    check.declines(
        fold_constants,
        """
        graph() {
          %0 = arange{start=0, end=3}
          %1 = to_device{device=device("cuda")} %0
          return %1
        }
        """,
    )


def test_a_literal_of_equal_elements_becomes_a_full() -> None:
    b = Builder()
    ones = b(Literal(Data(torch.ones(4, 1, 3, 5).permute(0, 3, 1, 2))))
    after = fold_constants(Graph((), (ones,)))
    assert isinstance(after.outputs[0].op, Full)
    assert after.outputs[0].type == ones.type


absent = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a GPU that is not here")


@absent
def test_a_number_that_fills_a_value_on_a_gpu_that_is_not_here_is_found() -> None:
    graph = parse(
        'graph(%x: f32[2] on cuda:0) { %0 = full{shape=(2,), value=3.0, device=device("cuda:0")} '
        "%1 = mul %0 %0 %2 = expand{shape=(4, 2)} %1 %3 = mul %2 2 %4 = add %x %3 return %4 }"
    )
    (result,) = fold_constants(graph).outputs
    x, y = result.inputs
    assert x.op.name() == "input" and y.type == result.type
    assert isinstance(y.op, Full) and y.op.value == 18.0 and str(y.op.device) == "cuda:0"


@absent
def test_other_values_on_a_gpu_that_is_not_here_are_computed_by_the_cpu() -> None:
    graph = parse(
        "graph(%x: f32[2] on cuda:0) { "
        '%0 = arange{start=0, end=2, dtype=f32, device=device("cuda:0")} '
        "%1 = mul %0 2.0 %2 = add %x %1 return %2 }"
    )
    folded = fold_constants(graph)
    (result,) = folded.outputs
    value = result.inputs[1]
    assert isinstance(value.op, Literal) and value.type == result.type
    assert value.op.data.tensor.tolist() == [0.0, 2.0]
    assert fold_constants(folded) is folded
    assert str(parse(str(folded))) == str(folded)
