"""`pixels`: convolutions of an image of one pixel as linear layers."""

# ruff: noqa: E501  golden text is as wide as it is

import pytest
from check import Check

from lazytorch.passes import pixels

ONE = "stride=(1, 1), padding=(0, 0), dilation=(1, 1)"


def test_a_convolution_of_one_pixel_is_a_linear_layer(check: Check) -> None:
    check(
        pixels,
        """
        graph(%x: f32[1, 72, 1, 1], %w: f32[24, 72, 1, 1], %b: f32[24]) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w %b
          return %0
        }
        """,
        """
        graph(%x: f32[1, 72, 1, 1], %w: f32[24, 72, 1, 1], %b: f32[24]) {
          %0: f32[1, 72] = reshape{shape=(1, 72)} %x
          %1: f32[24, 72] = reshape{shape=(24, 72)} %w
          %2: f32[1, 24] = linear %0 %1 %b
          %3: f32[1, 24, 1, 1] = reshape{shape=(1, 24, 1, 1), strides=(24, 1, 1, 1)} %2
          return %3
        }
        """,
        close=1e-4,
    )


@pytest.mark.parametrize(
    "text",
    [
        f"graph(%x: f32[2, 8, 1, 1], %w: f32[4, 8, 1, 1]) {{ %0 = convolution{{{ONE}}} %x %w return %0 }}",
        f"graph(%x: f32[1, 8, 2, 1], %w: f32[4, 8, 1, 1]) {{ %0 = convolution{{{ONE}}} %x %w return %0 }}",
        f"graph(%x: f32[1, 8, 1, 1], %w: f32[4, 4, 1, 1]) {{ %0 = convolution{{{ONE}, groups=2}} %x %w return %0 }}",
        f"graph(%x: f32[1, 8, 1, 1], %w: f32[8, 4, 1, 1]) {{ %0 = convolution{{{ONE}, transposed=True, output_padding=(0, 0)}} %x %w return %0 }}",
        "graph(%x: f32[1, 8, 1, 1], %w: f32[4, 8, 3, 3]) { %0 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %w return %0 }",
        "graph(%x: f32[1, 8, 1], %w: f32[4, 8, 1]) { %0 = convolution{stride=(1,), padding=(0,), dilation=(1,)} %x %w return %0 }",
        f"graph(%x: f32[1, 8, 1, 1] on cuda:0, %w: f32[4, 8, 1, 1] on cuda:0) {{ %0 = convolution{{{ONE}}} %x %w return %0 }}",
    ],
    ids=["a batch", "two pixels", "groups", "transposed", "padding", "one dimension", "on a GPU"],
)  # fmt: skip
def test_pixels_decline(check: Check, text: str) -> None:
    check.declines(pixels, text)
