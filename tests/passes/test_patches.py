"""`patches`: convolutions whose windows do not overlap are products."""

# ruff: noqa: E501  golden text is as wide as it is

from functools import partial

import pytest
import torch
from check import Check, assert_same_values, outcome

from lazytorch.passes import patches
from lazytorch.text import parse
from lazytorch.verify import verify

everywhere = partial(patches, fits=lambda x: True)


def test_patches_become_rows_of_a_product(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[2, 3, 4, 6], %w: f32[5, 3, 2, 3] state, %b: f32[5] state) {
          %0 = convolution{stride=(2, 3), padding=(0, 0), dilation=(1, 1)} %x %w %b
          %1 = reshape{shape=(2, 5, 4)} %0
          %2 = permute{perm=(0, 2, 1)} %1
          %3 = sum{dims=(1,)} %2
          return %3
        }
        """,
        """
        graph(%x: f32[2, 3, 4, 6], %w: f32[5, 3, 2, 3] state, %b: f32[5] state) {
          %0: f32[2, 3, 2, 2, 2, 3] = reshape{shape=(2, 3, 2, 2, 2, 3)} %x
          %1: f32[2, 2, 2, 3, 2, 3]{72, 12, 3, 24, 6, 1} = permute{perm=(0, 2, 4, 1, 3, 5)} %0
          %2: f32[8, 18] = reshape{shape=(8, 18)} %1
          %3: f32[5, 18] = reshape{shape=(5, 18)} %w
          %4: f32[8, 5] = linear %2 %3 %b
          %5: f32[2, 2, 2, 5] = reshape{shape=(2, 2, 2, 5)} %4
          %6: f32[2, 5, 2, 2]{20, 1, 10, 5} = permute{perm=(0, 3, 1, 2)} %5
          %7: f32[2, 5, 4]{20, 1, 5} = reshape{shape=(2, 5, 4)} %6
          %8: f32[2, 4, 5] = permute{perm=(0, 2, 1)} %7
          %9: f32[2, 5] = sum{dims=(1,)} %8
          return %9
        }
        """,
        close=1e-5,
    )


def test_patches_does_not_read_behind_the_last_whole_patch(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[1, 3, 7], %w: f32[5, 3, 2]) {
          %0 = convolution{stride=(2,), padding=(0,), dilation=(1,)} %x %w
          return %0
        }
        """,
        """
        graph(%x: f32[1, 3, 7], %w: f32[5, 3, 2]) {
          %0: f32[1, 3, 6]{21, 7, 1} = slice{dim=2, start=0, stop=6} %x
          %1: f32[1, 3, 3, 2]{21, 7, 2, 1} = reshape{shape=(1, 3, 3, 2)} %0
          %2: f32[1, 3, 3, 2]{21, 2, 7, 1} = permute{perm=(0, 2, 1, 3)} %1
          %3: f32[3, 6] = reshape{shape=(3, 6)} %2
          %4: f32[5, 6] = reshape{shape=(5, 6)} %w
          %5: f32[3, 5] = linear %3 %4
          %6: f32[1, 3, 5] = reshape{shape=(1, 3, 5)} %5
          %7: f32[1, 5, 3]{15, 1, 5} = permute{perm=(0, 2, 1)} %6
          %8: f32[1, 5, 3] = clone{strides=(15, 3, 1)} %7
          return %8
        }
        """,
        close=1e-5,
    )


CONVOLUTION = """
graph(%x: f32[1, 3, 4, 4], %w: f32[2, 3, 2, 2] state) {
  %0 = convolution{stride=(2, 2), padding=(0, 0), dilation=(1, 1)} %x %w
  return %0
}
"""


@pytest.mark.parametrize(
    ("reason", "before", "after"),
    [
        ("windows overlap", "stride=(2, 2)", "stride=(1, 2)"),
        ("windows leave gaps", "stride=(2, 2)", "stride=(2, 3)"),
        ("padded", "padding=(0, 0)", "padding=(0, 1)"),
        ("dilated", "dilation=(1, 1)", "dilation=(1, 2)"),
        ("no batch dimension", "[1, 3, 4, 4]", "[3, 4, 4]"),
        ("empty", "[1, 3, 4, 4]", "[0, 3, 4, 4]"),
        ("one element", "[2, 3, 2, 2]", "[2, 3, 1, 1]"),
        ("16 bytes of channels", "[1, 3, 4, 4], %w: f32[2, 3, 2, 2]", "[1, 4, 4, 4], %w: f32[2, 4, 2, 2]"),
        ("grouped", "dilation=(1, 1)} %x %w", "dilation=(1, 1), groups=3} %x %w"),
        ("transposed", "dilation=(1, 1)}", "dilation=(1, 1), transposed=True, output_padding=(0, 0)}"),
        ("a weight laid out channels last", "w: f32[2, 3, 2, 2]", "w: f32[2, 3, 2, 2]{12, 1, 6, 3}"),
    ],
)  # fmt: skip
def test_patches_declines(check: Check, reason: str, before: str, after: str) -> None:
    text = CONVOLUTION.replace(before, after)
    if reason == "grouped":
        text = text.replace("w: f32[2, 3, 2, 2]", "w: f32[6, 1, 2, 2]")
    if reason == "transposed":
        text = text.replace("w: f32[2, 3, 2, 2]", "w: f32[3, 2, 2, 2]")
    if reason == "one element":
        text = text.replace("stride=(2, 2)", "stride=(1, 1)")
    assert text != CONVOLUTION
    check.declines(everywhere, text)


def test_patches_declines_off_the_gpu(check: Check) -> None:
    check.declines(partial(patches, fits=lambda x: False), CONVOLUTION)


@pytest.mark.parametrize("shape", [(1, 3, 7, 9), (3, 1, 5, 4), (2, 5, 8, 3)])
@pytest.mark.parametrize("last", [False, True], ids=["row-major", "channels last"])
@pytest.mark.parametrize("kernel", [(2, 3), (4, 1), (1, 2)])
def test_patches_computes_what_the_convolution_does(
    shape: tuple[int, ...], last: bool, kernel: tuple[int, int]
) -> None:
    n, c, h, w = shape
    strides = f"{{{c * h * w}, 1, {c * w}, {c}}}" if last else ""
    graph = parse(
        f"graph(%x: f64[{n}, {c}, {h}, {w}]{strides}, %w: f64[3, {c}, {kernel[0]}, {kernel[1]}], "
        f"%b: f64[3]) {{ %0 = convolution{{stride={kernel}, padding=(0, 0), dilation=(1, 1)}} "
        "%x %w %b return %0 }"
    )
    after = verify(everywhere(graph), after="patches")
    assert after is not graph or c * 8 % 16 == 0
    assert_same_values(graph, after, close=1e-12)
    x, weight, bias = outcome(graph, 0, special=False)[1:]
    expected = torch.nn.functional.conv2d(x, weight, bias, kernel)
    torch.testing.assert_close(outcome(after, 0, special=False)[0], expected)
