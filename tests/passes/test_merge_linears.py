"""`merge_linears`: one product for several linear layers of one input."""

# ruff: noqa: E501  golden text is as wide as it is

import pytest
from check import Check

from lazytorch.passes import merge_linears


def test_merge_linears_joins_layers_of_one_input(check: Check) -> None:
    check(
        merge_linears,
        """
        graph(%x: f32[2, 5, 4], %q: f32[3, 4] state, %a: f32[3] state, %k: f32[6, 4] state, %c: f32[6] state) {
          %0 = linear %x %q %a
          %1 = relu %0
          %2 = linear %x %k %c
          return %1, %2
        }
        """,
        """
        graph(%x: f32[2, 5, 4], %q: f32[3, 4] state, %a: f32[3] state, %k: f32[6, 4] state, %c: f32[6] state) {
          %0: f32[9, 4] = cat{dim=0} %q %k
          %1: f32[9] = cat{dim=0} %a %c
          %2: f32[2, 5, 9] = linear %x %0 %1
          %3: f32[2, 5, 3]{45, 9, 1} = slice{dim=2, start=0, stop=3} %2
          %4: f32[2, 5, 3] = relu %3
          %5: f32[2, 5, 6]{45, 9, 1} = slice{dim=2, start=3, stop=9} %2
          %6: f32[2, 5, 6] = clone{strides=(30, 6, 1)} %5
          return %4, %6
        }
        """,
        close=1e-5,
    )


def test_merge_linears_waits_for_no_weight_that_is_computed_later(check: Check) -> None:
    check(
        merge_linears,
        """
        graph(%x: f32[5, 4], %q: f32[3, 4] state, %k: f32[3, 4] state) {
          %0 = linear %x %q
          %1 = neg %k
          %2 = linear %x %1
          %3 = add %0 %2
          return %3
        }
        """,
        """
        graph(%x: f32[5, 4], %q: f32[3, 4] state, %k: f32[3, 4] state) {
          %0: f32[3, 4] = neg %k
          %1: f32[6, 4] = cat{dim=0} %q %0
          %2: f32[5, 6] = linear %x %1
          %3: f32[5, 3]{6, 1} = slice{dim=1, start=0, stop=3} %2
          %4: f32[5, 3]{6, 1} = slice{dim=1, start=3, stop=6} %2
          %5: f32[5, 3] = add %3 %4
          return %5
        }
        """,
        close=1e-5,
    )


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            "a weight is an argument",
            """
            graph(%x: f32[5, 4], %q: f32[3, 4] state, %k: f32[3, 4]) {
              %0 = linear %x %q
              %1 = linear %x %k
              return %0, %1
            }
            """,
        ),
        (
            "one has a bias, the other has none",
            """
            graph(%x: f32[5, 4], %q: f32[3, 4] state, %k: f32[3, 4] state, %b: f32[3] state) {
              %0 = linear %x %q
              %1 = linear %x %k %b
              return %0, %1
            }
            """,
        ),
        (
            "two inputs",
            """
            graph(%x: f32[5, 4], %y: f32[5, 4], %q: f32[3, 4] state, %k: f32[3, 4] state) {
              %0 = linear %x %q
              %1 = linear %y %k
              return %0, %1
            }
            """,
        ),
        (
            "a bias for all features at once",
            """
            graph(%x: f32[5, 4], %q: f32[3, 4] state, %k: f32[3, 4] state, %b: f32[1] state) {
              %0 = linear %x %q %b
              %1 = linear %x %k %b
              return %0, %1
            }
            """,
        ),
        (
            "weights that are vectors",
            """
            graph(%x: f32[5, 4], %q: f32[4] state, %k: f32[4] state) {
              %0 = linear %x %q
              %1 = linear %x %k
              return %0, %1
            }
            """,
        ),
    ],
)
def test_merge_linears_declines(check: Check, reason: str, text: str) -> None:
    check.declines(merge_linears, text)


def test_merge_linears_joins_other_widths_and_turned_weights(check: Check) -> None:
    check(
        merge_linears,
        """
        graph(%x: f32[2, 4], %q: f32[4, 6] state, %k: f32[2, 4] state, %v: f32[2, 4] state) {
          %0 = permute{perm=(1, 0)} %q
          %1 = linear %x %0
          %2 = linear %x %k
          %3 = linear %x %v
          %4 = neg %1
          %5 = mul %2 %3
          return %4, %5
        }
        """,
        """
        graph(%x: f32[2, 4], %q: f32[4, 6] state, %k: f32[2, 4] state, %v: f32[2, 4] state) {
          %0: f32[6, 4]{1, 6} = permute{perm=(1, 0)} %q
          %1: f32[10, 4] = cat{dim=0} %0 %k %v
          %2: f32[2, 10] = linear %x %1
          %3: f32[2, 6]{10, 1} = slice{dim=1, start=0, stop=6} %2
          %4: f32[2, 6] = neg %3
          %5: f32[2, 2]{10, 1} = slice{dim=1, start=6, stop=8} %2
          %6: f32[2, 2]{10, 1} = slice{dim=1, start=8, stop=10} %2
          %7: f32[2, 2] = mul %5 %6
          return %4, %7
        }
        """,
        close=1e-5,
    )
