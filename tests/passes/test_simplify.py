"""simplify: each rule, and next to it what looks alike and must stay."""

import pytest
from check import Check

from lazytorch.passes import simplify


def test_removes_neutral_operands(check: Check) -> None:
    check(
        simplify,
        """
        graph(%x: f32[12], %i: i64[3], %t: bool[3]) {
          %0 = mul %x 1.0
          %1 = mul 1 %0
          %2 = div %1 1
          %3 = add %2 -0.0
          %4 = sub %3 0.0
          %5 = pow %4 1
          %6 = add %i 0
          %7 = mul %6 True
          %8 = add %t False
          return %5, %7, %8
        }
        """,
        """
        graph(%x: f32[12], %i: i64[3], %t: bool[3]) {
          return %x, %i, %t
        }
        """,
    )


def test_keeps_what_changes_a_zero_a_nan_or_an_infinity(check: Check) -> None:
    check.declines(
        simplify,
        """
        graph(%x: f32[12], %z: c64[12]) {
          %0 = add %x 0.0
          %1 = add %x 0
          %2 = sub %x -0.0
          %3 = mul %x 0.0
          %4 = sub 0.0 %x
          %5 = mul %z 1.0
          return %0, %1, %2, %3, %4, %5
        }
        """,
    )


def test_keeps_neutral_operands_that_change_the_type(check: Check) -> None:
    check.declines(
        simplify,
        """
        graph(%i: i64[3], %x: f32[3], %one: f32[1], %e: f32[3, 4]{1, 0}) {
          %0 = mul %i 1.0
          %1 = div %i 1
          %2 = add %i -0.0
          %3 = mul %e 1.0
          return %0, %1, %2, %3
        }
        """,
    )


def test_divides_by_powers_of_two_with_a_product(check: Check) -> None:
    check(
        simplify,
        """
        graph(%x: f32[12], %h: bf16[12], %i: i64[12]) {
          %0 = div %x 8.0
          %1 = div %h -0.25
          %2 = div %i 4
          return %0, %1, %2
        }
        """,
        """
        graph(%x: f32[12], %h: bf16[12], %i: i64[12]) {
          %0: f32[12] = mul %x 0.125
          %1: bf16[12] = mul %h -4.0
          %2: f32[12] = mul %i 0.25
          return %0, %1, %2
        }
        """,
    )


def test_keeps_other_divisions(check: Check) -> None:
    check.declines(
        simplify,
        """
        graph(%x: f32[12]) {
          %0 = div %x 3.0
          %1 = div %x 0.0
          %2 = div %x inf
          %3 = div %x 1e-40
          %4 = div 2.0 %x
          return %0, %1, %2, %3, %4
        }
        """,
    )


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16"])
def test_powers_become_what_torch_computes(check: Check, dtype: str) -> None:
    check(
        simplify,
        f"""
        graph(%x: {dtype}[64]) {{
          %0 = pow %x 2
          %1 = pow %x 2.0
          %2 = pow %x 0.5
          %3 = pow %x -0.5
          %4 = pow %x -1
          %5 = square %x
          return %0, %1, %2, %3, %4, %5
        }}
        """,
        f"""
        graph(%x: {dtype}[64]) {{
          %0: {dtype}[64] = mul %x %x
          %1: {dtype}[64] = mul %x %x
          %2: {dtype}[64] = sqrt %x
          %3: {dtype}[64] = rsqrt %x
          %4: {dtype}[64] = reciprocal %x
          %5: {dtype}[64] = mul %x %x
          return %0, %1, %2, %3, %4, %5
        }}
        """,
    )


def test_keeps_other_powers(check: Check) -> None:
    check.declines(
        simplify,
        """
        graph(%x: f32[12], %y: f32[12], %t: bool[3], %h: f16[12]) {
          %0 = pow %x 3
          %1 = pow %x %y
          %2 = pow 2 %x
          %3 = square %t
          %4 = pow %h 0.5
          return %0, %1, %2, %3, %4
        }
        """,
    )


def test_undoes_negation_and_permutations(check: Check) -> None:
    check(
        simplify,
        """
        graph(%x: f32[2, 3, 4]) {
          %0 = neg %x
          %1 = neg %0
          %2 = permute{perm=(2, 0, 1)} %1
          %3 = permute{perm=(1, 2, 0)} %2
          %4 = permute{perm=(0, 2, 1)} %3
          %5 = permute{perm=(1, 0, 2)} %4
          %6 = permute{perm=(0, 1, 2)} %5
          return %3, %6
        }
        """,
        """
        graph(%x: f32[2, 3, 4]) {
          %0: f32[4, 2, 3]{1, 12, 4} = permute{perm=(2, 0, 1)} %x
          return %x, %0
        }
        """,
    )


def test_joins_conversions_through_a_wider_dtype(check: Check) -> None:
    check(
        simplify,
        """
        graph(%h: bf16[12], %x: f32[12], %i: i32[12], %t: bool[12]) {
          %0 = cast{dtype=f32} %h
          %1 = cast{dtype=bf16} %0
          %2 = cast{dtype=f64} %x
          %3 = cast{dtype=f16} %2
          %4 = cast{dtype=f64} %i
          %5 = cast{dtype=i32} %4
          %6 = cast{dtype=i64} %t
          %7 = cast{dtype=bool} %6
          %8 = cast{dtype=f32} %x
          return %1, %3, %5, %7, %8
        }
        """,
        """
        graph(%h: bf16[12], %x: f32[12], %i: i32[12], %t: bool[12]) {
          %0: f16[12] = cast{dtype=f16} %x
          return %h, %0, %i, %t, %x
        }
        """,
    )


def test_keeps_conversions_that_round_or_wrap(check: Check) -> None:
    check.declines(
        simplify,
        """
        graph(%h: f16[12], %x: f32[12], %i: i64[12]) {
          %0 = cast{dtype=bf16} %x
          %1 = cast{dtype=f32} %0
          %2 = cast{dtype=bf16} %h
          %3 = cast{dtype=f16} %2
          %4 = cast{dtype=f32} %i
          %5 = cast{dtype=i64} %4
          %6 = cast{dtype=f32} %h
          %7 = cast{dtype=i32} %6
          return %1, %3, %5, %7
        }
        """,
    )


def test_joins_views(check: Check) -> None:
    check(
        simplify,
        """
        graph(%x: f32[2, 3, 4], %v: f32[1, 3]) {
          %0 = reshape{shape=(6, 4)} %x
          %1 = reshape{shape=(2, 12)} %0
          %2 = reshape{shape=(2, 12)} %1
          %3 = expand{shape=(5, 3)} %v
          %4 = expand{shape=(2, 5, 3)} %3
          %5 = expand{shape=(2, 5, 3)} %4
          %6 = slice{dim=0, start=0, stop=2} %x
          %7 = detach %6
          %8 = cat{dim=1} %7
          %9 = exp %5
          return %2, %8, %9
        }
        """,
        """
        graph(%x: f32[2, 3, 4], %v: f32[1, 3]) {
          %0: f32[2, 12] = reshape{shape=(2, 12)} %x
          %1: f32[2, 5, 3]{0, 0, 1} = expand{shape=(2, 5, 3)} %v
          %2: f32[2, 5, 3] = exp %1
          return %0, %x, %2
        }
        """,
    )


def test_keeps_views_that_change_strides_or_would_copy_again(check: Check) -> None:
    check.declines(
        simplify,
        """
        graph(%x: f32[2, 3]{1, 2}, %y: f32[4]) {
          %0 = reshape{shape=(6,)} %x
          %1 = reshape{shape=(3, 2)} %0
          %2 = slice{dim=0, start=1, stop=4} %y
          %3 = clone{strides=(3, 1)} %x
          return %0, %1, %2, %3
        }
        """,
    )


def test_removes_copies(check: Check) -> None:
    check(
        simplify,
        """
        graph(%x: f32[2, 3]) {
          %0 = clone{strides=(3, 1)} %x
          %1 = clone{strides=(1, 2)} %0
          %2 = clone{strides=(3, 1)} %1
          return %0, %1, %2
        }
        """,
        """
        graph(%x: f32[2, 3]) {
          %0: f32[2, 3]{1, 2} = clone{strides=(1, 2)} %x
          return %x, %0, %x
        }
        """,
    )


def test_keeps_the_copy_of_an_input_that_the_graph_writes(check: Check) -> None:
    check.declines(
        simplify,
        """
        graph(%x: f32[3], %y: f32[3]) {
          %0 = clone{strides=(1,)} %x
          %1 = clone{strides=(1,)} %y
          %2 = write %x %1
          %3 = write %y %0
          effects %2, %3
          return %0
        }
        """,
    )


def test_a_number_that_varies_is_no_neutral_operand(check: Check) -> None:
    for text in ("mul %x %s", "add %x %s", "sub %x %s", "div %x %s", "pow %x %s"):
        check.declines(simplify, f"graph(%x: f32[3], %s: float) {{ %0 = {text} return %0 }}")


def test_simplify_cat_with_what_has_no_elements(check: Check) -> None:
    check(
        simplify,
        """
        graph(%x: f32[2, 3]{1, 2}, %y: f32[2, 3], %v: f32[0], %e: f32[2, 0]) {
          %0 = cat{dim=1} %v %x
          %1 = cat{dim=1} %e %y %v
          %2 = neg %1
          %3 = cat{dim=1} %x %e %y
          return %0, %2, %3
        }
        """,
        """
        graph(%x: f32[2, 3]{1, 2}, %y: f32[2, 3], %v: f32[0], %e: f32[2, 0]) {
          %0: f32[2, 3] = clone{strides=(3, 1)} %x
          %1: f32[2, 3] = neg %y
          %2: f32[2, 6] = cat{dim=1} %x %y
          return %0, %1, %2
        }
        """,
    )


def test_simplify_cat_that_converts_what_alone_has_elements(check: Check) -> None:
    check(
        simplify,
        """
        graph(%x: f64[0], %y: bf16[2, 3]{1, 2}) {
          %0 = cat{dim=1} %x %y
          %1 = cast{dtype=bf16} %0
          %2 = neg %1
          return %2
        }
        """,
        """
        graph(%x: f64[0], %y: bf16[2, 3]{1, 2}) {
          %0: bf16[2, 3] = clone{strides=(3, 1)} %y
          %1: bf16[2, 3] = neg %0
          return %1
        }
        """,
    )


def test_simplify_leaves_a_cat_that_has_nothing(check: Check) -> None:
    check.declines(simplify, "graph(%x: f32[2, 0], %y: f32[0]) { %0 = cat{dim=1} %x %y return %0 }")


def test_simplify_addmm_with_one_bias_for_all_rows(check: Check) -> None:
    check(
        simplify,
        """
        graph(%b: f32[3], %x: f32[5, 4], %w: f32[4, 3]) {
          %0 = addmm %b %x %w
          return %0
        }
        """,
        """
        graph(%b: f32[3], %x: f32[5, 4], %w: f32[4, 3]) {
          %0: f32[3, 4]{1, 3} = permute{perm=(1, 0)} %w
          %1: f32[5, 3] = linear %x %0 %b
          return %1
        }
        """,
    )


@pytest.mark.parametrize(
    "call",
    ["addmm{beta=2} %b %x %w", "addmm{alpha=0.5} %b %x %w", "addmm %y %x %w", "addmm %z %x %w"],
)
def test_simplify_leaves_a_scaled_addmm_and_one_of_another_base(check: Check, call: str) -> None:
    operands = "%b: f32[3], %y: f32[5, 3], %z: f32[1], %x: f32[5, 4], %w: f32[4, 3]"
    check.declines(simplify, f"graph({operands}) {{ %0 = {call} return %0 }}")


def test_simplify_fills_what_shows_a_filled_tensor(check: Check) -> None:
    check(
        simplify,
        """
        graph(%x: f32[2, 3]) {
          %0 = full{shape=(), value=0.1}
          %1 = reshape{shape=(1, 1)} %0
          %2 = expand{shape=(2, 3)} %1
          %3 = mul %2 %x
          return %3, %2
        }
        """,
        """
        graph(%x: f32[2, 3]) {
          %0: f32[2, 3] = mul 0.10000000149011612 %x
          %1: f32[2, 3]{0, 0} = full{shape=(2, 3), value=0.1, strides=(0, 0)}
          return %0, %1
        }
        """,
    )
