"""`pad_features`: linear layers with aligned rows."""

from functools import partial

import pytest
from check import Check, assert_same_values

from lazytorch.passes import pad_features
from lazytorch.text import parse
from lazytorch.verify import verify

everywhere = partial(pad_features, fits=lambda x: True, smallest=0)


def test_pad_features_aligns_rows(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f16[2, 5, 8], %w: f16[11, 8] state, %b: f16[11] state) {
          %0 = linear %x %w %b
          %1 = neg %0
          return %1
        }
        """,
        """
        graph(%x: f16[2, 5, 8], %w: f16[11, 8] state, %b: f16[11] state) {
          %0: f16[16, 8] = pad{pad=(0, 0, 0, 5)} %w
          %1: f16[16] = pad{pad=(0, 5)} %b
          %2: f16[2, 5, 16] = linear %x %0 %1
          %3: f16[2, 5, 11]{80, 16, 1} = slice{dim=2, start=0, stop=11} %2
          %4: f16[2, 5, 11] = neg %3
          return %4
        }
        """,
        close=1e-2,
    )


def test_pad_features_pads_many_to_whole_tiles(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[5, 4], %w: f32[1025, 4] state) {
          %0 = linear %x %w
          return %0
        }
        """,
        """
        graph(%x: f32[5, 4], %w: f32[1025, 4] state) {
          %0: f32[1088, 4] = pad{pad=(0, 0, 0, 63)} %w
          %1: f32[5, 1088] = linear %x %0
          %2: f32[5, 1025]{1088, 1} = slice{dim=1, start=0, stop=1025} %1
          %3: f32[5, 1025] = clone{strides=(1025, 1)} %2
          return %3
        }
        """,
        close=1e-5,
    )


LINEAR = """
graph(%x: f16[5, 8], %w: f16[11, 8] state, %b: f16[11] state) {
  %0 = linear %x %w %b
  return %0
}
"""


@pytest.mark.parametrize(
    ("reason", "before", "after"),
    [
        ("aligned already", "11", "16"),
        ("the weight is an argument", "[11, 8] state", "[11, 8]"),
        ("the bias is an argument", "[11] state", "[11]"),
        ("one bias for all features", "f16[11] state", "f16[1] state"),
        ("a vector", "x: f16[5, 8]", "x: f16[8]"),
        ("the prologue does it", "x: f16[5, 8]", "x: f16[5, 8] state"),
    ],
)
def test_pad_features_declines(check: Check, reason: str, before: str, after: str) -> None:
    assert before in LINEAR
    check.declines(everywhere, LINEAR.replace(before, after))


def test_pad_features_declines_off_the_gpu_and_on_small_products(check: Check) -> None:
    check.declines(partial(pad_features, fits=lambda x: False, smallest=0), LINEAR)
    check.declines(partial(pad_features, fits=lambda x: True), LINEAR)


@pytest.mark.parametrize("rows", ["1", "3, 1", "2, 3"])
@pytest.mark.parametrize("features", [1, 7, 1023, 1031])
def test_pad_features_keeps_values(rows: str, features: int) -> None:
    graph = parse(
        f"graph(%x: f64[{rows}, 5], %w: f64[{features}, 5] state, %b: f64[{features}] state) "
        "{ %0 = linear %x %w %b %1 = relu %0 return %1, %0 }"
    )
    after = verify(everywhere(graph), after="pad_features")
    assert after is not graph
    assert_same_values(graph, after, close=1e-12)


def test_a_weight_that_changes_is_padded_for_all_its_readers(check: Check) -> None:
    check(
        partial(everywhere, steady=False),
        """
        graph(%x: f16[256, 8], %w: f32[11, 8], %g: f16[256, 11]) {
          %0 = cast{dtype=f16} %w
          %1 = linear %x %0
          %2 = mm %g %0
          return %1, %2
        }
        """,
        """
        graph(%x: f16[256, 8], %w: f32[11, 8], %g: f16[256, 11]) {
          %0: f16[11, 8] = cast{dtype=f16} %w
          %1: f16[16, 8] = pad{pad=(0, 0, 0, 5)} %0
          %2: f16[256, 16] = linear %x %1
          %3: f16[256, 11]{16, 1} = slice{dim=1, start=0, stop=11} %2
          %4: f16[256, 11] = clone{strides=(11, 1)} %3
          %5: f16[11, 8] = slice{dim=0, start=0, stop=11} %1
          %6: f16[256, 8] = mm %g %5
          return %4, %6
        }
        """,
        close=1e-2,
    )


def test_declines_on_few_rows_for_a_weight_that_changes(check: Check) -> None:
    check.declines(
        partial(everywhere, steady=False),
        """
        graph(%x: f16[255, 8], %w: f16[11, 8], %s: f16[11, 8] state, %y: f16[256, 8]) {
          %0 = linear %x %w
          %1 = linear %y %s
          return %0, %1
        }
        """,
    )


def test_a_weight_that_is_written_stays_what_is_written(check: Check) -> None:
    check(
        partial(everywhere, steady=False),
        """
        graph(%x: f16[256, 8], %w: f16[11, 8]) {
          %0 = linear %x %w
          %1 = mul %w 0.5
          %2 = write %w %1
          effects %2
          return %0
        }
        """,
        """
        graph(%x: f16[256, 8], %w: f16[11, 8]) {
          %0: f16[16, 8] = pad{pad=(0, 0, 0, 5)} %w
          %1: f16[256, 16] = linear %x %0
          %2: f16[256, 11]{16, 1} = slice{dim=1, start=0, stop=11} %1
          %3: f16[256, 11] = clone{strides=(11, 1)} %2
          %4: f16[11, 8] = mul %w 0.5
          %5: f16[11, 8] = write %w %4
          effects %5
          return %3
        }
        """,
        close=1e-2,
    )
