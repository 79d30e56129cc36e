"""`epilogues`: an activation behind a linear layer moves into the product."""

from functools import partial

import pytest
from check import Check

from lazytorch.passes import epilogues
from lazytorch.text import parse

everywhere = partial(epilogues, fits=lambda x: True)


def test_epilogues_takes_relu(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[2, 5, 4], %w: f32[3, 4] state, %b: f32[3] state) {
          %0 = linear %x %w %b
          %1 = relu %0
          return %1
        }
        """,
        """
        graph(%x: f32[2, 5, 4], %w: f32[3, 4] state, %b: f32[3] state) {
          %0: f32[2, 5, 3] = linear_activation{activation="relu"} %x %w %b
          return %0
        }
        """,
        close=1e-5,
    )


def test_epilogues_takes_exact_gelu_in_16_bits(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: bf16[5, 4], %w: bf16[3, 4] state, %b: bf16[3] state) {
          %0 = linear %x %w %b
          %1 = gelu %0
          return %1
        }
        """,
        """
        graph(%x: bf16[5, 4], %w: bf16[3, 4] state, %b: bf16[3] state) {
          %0: bf16[5, 3] = linear_activation{activation="gelu"} %x %w %b
          return %0
        }
        """,
        close=3e-2,
    )


def test_epilogues_takes_the_tanh_form_in_float32(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[5, 4], %w: f32[3, 4] state, %b: f32[3] state) {
          %0 = linear %x %w %b
          %1 = gelu{approximate="tanh"} %0
          return %1
        }
        """,
        """
        graph(%x: f32[5, 4], %w: f32[3, 4] state, %b: f32[3] state) {
          %0: f32[5, 3] = linear_activation{activation="gelu"} %x %w %b
          return %0
        }
        """,
        close=1e-5,
    )


LINEAR = """
graph(%x: f32[5, 4], %w: f32[3, 4] state, %b: f32[3] state) {
  %0 = linear %x %w %b
  %1 = relu %0
  return %1
}
"""


@pytest.mark.parametrize(
    ("reason", "before", "after"),
    [
        ("exact gelu in float32", "relu", "gelu"),
        ("no bias", " %w %b", " %w"),
        ("one bias for all features", "%b: f32[3]", "%b: f32[1]"),
        ("the product is read elsewhere", "return %1", "return %1, %0"),
        ("no rows", "f32[5, 4]", "f32[0, 4]"),
    ],
)
def test_epilogues_declines(check: Check, reason: str, before: str, after: str) -> None:
    check.declines(everywhere, LINEAR.replace(before, after))


def test_epilogues_declines_off_the_gpu(check: Check) -> None:
    check.declines(partial(epilogues, fits=lambda x: False), LINEAR)


def test_epilogues_looks_through_rows_put_together_and_a_turned_weight(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[10, 4], %w: f32[4, 3] state, %b: f32[3] state) {
          %0 = permute{perm=(1, 0)} %w
          %1 = linear %x %0 %b
          %2 = reshape{shape=(2, 5, 3)} %1
          %3 = gelu{approximate="tanh"} %2
          return %3
        }
        """,
        """
        graph(%x: f32[10, 4], %w: f32[4, 3] state, %b: f32[3] state) {
          %0: f32[3, 4]{1, 3} = permute{perm=(1, 0)} %w
          %1: f32[10, 3] = linear_activation{activation="gelu"} %x %0 %b
          %2: f32[2, 5, 3] = reshape{shape=(2, 5, 3)} %1
          return %2
        }
        """,
        close=1e-5,
    )


def test_epilogues_declines_where_the_rows_are_read_elsewhere(check: Check) -> None:
    text = LINEAR.replace("%1 = relu %0", "%9 = reshape{shape=(15,)} %0\n  %1 = relu %9")
    assert everywhere(parse(text)) != parse(text)
    check.declines(everywhere, text.replace("return %1", "return %1, %9"))
    check.declines(everywhere, text.replace("return %1", "return %1, %0"))
