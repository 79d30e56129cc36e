"""`own_convolutions`: those of each channel and of pixels as generated kernels compute them."""

# ruff: noqa: E501  golden text is as wide as it is

from functools import partial

import pytest
import torch
from check import Check

from lazytorch.ops import pixel_products
from lazytorch.ops.library import Libraries
from lazytorch.passes import own_convolutions, select
from lazytorch.text import parse


def test_taps_lie_with_their_channels_innermost(check: Check) -> None:
    check(
        own_convolutions,
        """
        graph(%x: f32[2, 24, 9, 8]{1728, 1, 192, 24}, %w: f32[24, 1, 3, 5] state, %b: f32[24] state) {
          %0 = convolution{stride=(1, 2), padding=(1, 0), dilation=(2, 1), groups=24} %x %w %b
          %1 = relu %0
          return %1
        }
        """,
        """
        graph(%x: f32[2, 24, 9, 8]{1728, 1, 192, 24}, %w: f32[24, 1, 3, 5] state, %b: f32[24] state) {
          %0: f32[24, 3, 5] = reshape{shape=(24, 3, 5)} %w
          %1: f32[3, 5, 24]{5, 1, 15} = permute{perm=(1, 2, 0)} %0
          %2: f32[3, 5, 24] = clone{strides=(120, 24, 1)} %1
          %3: f32[2, 24, 7, 2]{336, 1, 48, 24} = depthwise_convolution{stride=(1, 2), padding=(1, 0), dilation=(2, 1)} %x %2 %b
          %4: f32[2, 24, 7, 2]{336, 1, 48, 24} = relu %3
          return %4
        }
        """,
        close=1e-5,
    )


def test_16_bits_have_taps_in_float32_and_rows_are_put_channels_last(check: Check) -> None:
    check(
        own_convolutions,
        """
        graph(%x: bf16[1, 8, 5, 5], %w: bf16[8, 1, 3, 3] state, %b: bf16[8] state) {
          %0 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=8} %x %w %b
          return %0
        }
        """,
        """
        graph(%x: bf16[1, 8, 5, 5], %w: bf16[8, 1, 3, 3] state, %b: bf16[8] state) {
          %0: bf16[1, 8, 5, 5]{200, 1, 40, 8} = clone{strides=(200, 1, 40, 8)} %x
          %1: bf16[8, 3, 3] = reshape{shape=(8, 3, 3)} %w
          %2: bf16[3, 3, 8]{3, 1, 9} = permute{perm=(1, 2, 0)} %1
          %3: bf16[3, 3, 8] = clone{strides=(24, 8, 1)} %2
          %4: f32[3, 3, 8] = cast{dtype=f32} %3
          %5: f32[8] = cast{dtype=f32} %b
          %6: bf16[1, 8, 5, 5]{200, 1, 40, 8} = depthwise_convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %0 %4 %5
          %7: bf16[1, 8, 5, 5] = clone{strides=(200, 25, 5, 1)} %6
          return %7
        }
        """,
        close=1e-1,
    )


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with many wide registers, whatever this one has."""
    monkeypatch.setattr(pixel_products, "wide", lambda: True)


@pytest.mark.usefixtures("wide")
def test_weights_of_pixels_lie_in_vectors_of_channels(check: Check) -> None:
    check(
        own_convolutions,
        """
        graph(%x: f32[2, 8, 5, 6], %w: f32[24, 8, 1, 1] state, %b: f32[24] state) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w %b
          %1 = relu %0
          return %1
        }
        """,
        """
        graph(%x: f32[2, 8, 5, 6], %w: f32[24, 8, 1, 1] state, %b: f32[24] state) {
          %0: f32[2, 8, 5, 6]{240, 1, 48, 8} = clone{strides=(240, 1, 48, 8)} %x
          %1: f32[24, 8] = reshape{shape=(24, 8)} %w
          %2: f32[32, 8] = pad{pad=(0, 0, 0, 8)} %1
          %3: f32[2, 16, 8] = reshape{shape=(2, 16, 8)} %2
          %4: f32[2, 8, 16]{128, 1, 8} = permute{perm=(0, 2, 1)} %3
          %5: f32[2, 8, 16] = clone{strides=(128, 16, 1)} %4
          %6: f32[32] = pad{pad=(0, 8)} %b
          %7: f32[2, 24, 5, 6]{720, 1, 144, 24} = pixel_products{channels=24} %0 %5 %6
          %8: f32[2, 24, 5, 6]{720, 1, 144, 24} = relu %7
          %9: f32[2, 24, 5, 6] = clone{strides=(720, 30, 6, 1)} %8
          return %9
        }
        """,
        close=1e-5,
    )


NO = "stride=(1, 1), padding=(0, 0), dilation=(1, 1)"


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(
    "text",
    [
        f"graph(%x: f32[1, 8, 5, 5], %w: f32[16, 8, 1, 1]) {{ %0 = convolution{{{NO}}} %x %w return %0 }}",
        f"graph(%x: f32[1, 8, 3, 4], %w: f32[16, 8, 1, 1] state) {{ %0 = convolution{{{NO}}} %x %w return %0 }}",
        f"graph(%x: bf16[1, 8, 5, 5], %w: bf16[16, 8, 1, 1] state) {{ %0 = convolution{{{NO}}} %x %w return %0 }}",
        f"graph(%x: f32[1, 8, 5, 5], %w: f32[16, 4, 1, 1] state) {{ %0 = convolution{{{NO}, groups=2}} %x %w return %0 }}",
        f"graph(%x: f32[1, 1025, 5, 5], %w: f32[16, 1025, 1, 1] state) {{ %0 = convolution{{{NO}}} %x %w return %0 }}",
        f"graph(%x: f32[64, 512, 64, 64], %w: f32[512, 512, 1, 1] state) {{ %0 = convolution{{{NO}}} %x %w return %0 }}",
        "graph(%x: f32[1, 8, 9, 9], %w: f32[16, 8, 1, 1] state) { %0 = convolution{stride=(2, 2), padding=(0, 0), dilation=(1, 1)} %x %w return %0 }",
        "graph(%x: f32[1, 8, 9, 9], %w: f32[16, 8, 1, 1] state) { %0 = convolution{stride=(1, 1), padding=(1, 0), dilation=(1, 1)} %x %w return %0 }",
    ],
    ids=["the weight is an argument", "few pixels", "16 bits", "groups", "many channels", "many products", "strides", "padding"],
)  # fmt: skip
def test_convolutions_of_pixels_decline(check: Check, text: str) -> None:
    check.declines(own_convolutions, text)


def test_without_the_registers_there_are_none_of_pixels(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_products, "wide", lambda: False)
    check.declines(
        own_convolutions,
        f"graph(%x: f32[1, 8, 5, 5], %w: f32[16, 8, 1, 1] state) {{ %0 = convolution{{{NO}}} %x %w return %0 }}",
    )


ONE = "stride=(1, 1), padding=(1, 1), dilation=(1, 1)"


@pytest.mark.parametrize(
    "text",
    [
        f"graph(%x: f32[1, 8, 5, 5], %w: f32[8, 1, 3, 3]) {{ %0 = convolution{{{ONE}, groups=8}} %x %w return %0 }}",
        f"graph(%x: f32[1, 8, 5, 5], %w: f32[16, 1, 3, 3] state) {{ %0 = convolution{{{ONE}, groups=8}} %x %w return %0 }}",
        f"graph(%x: f32[1, 8, 5, 5], %w: f32[8, 2, 3, 3] state) {{ %0 = convolution{{{ONE}, groups=4}} %x %w return %0 }}",
        f"graph(%x: f32[1, 1, 5, 5], %w: f32[1, 1, 3, 3] state) {{ %0 = convolution{{{ONE}}} %x %w return %0 }}",
        f"graph(%x: f64[1, 8, 5, 5], %w: f64[8, 1, 3, 3] state) {{ %0 = convolution{{{ONE}, groups=8}} %x %w return %0 }}",
        f"graph(%x: f32[0, 8, 5, 5], %w: f32[8, 1, 3, 3] state) {{ %0 = convolution{{{ONE}, groups=8}} %x %w return %0 }}",
        f"graph(%x: f32[1, 8, 5, 5], %w: f32[8, 1, 3, 3] state) {{ %0 = convolution{{{ONE}, transposed=True, output_padding=(0, 0), groups=8}} %x %w return %0 }}",
        "graph(%x: f32[1, 8, 9], %w: f32[8, 1, 3] state) { %0 = convolution{stride=(1,), padding=(1,), dilation=(1,), groups=8} %x %w return %0 }",
        f"graph(%x: f32[64, 8, 512, 512], %w: f32[8, 1, 3, 3] state) {{ %0 = convolution{{{ONE}, groups=8}} %x %w return %0 }}",
        "graph(%x: f32[1, 8, 3, 50], %w: f32[8, 1, 1, 40] state) { %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=8} %x %w return %0 }",
    ],
    ids=[
        "the weight is an argument", "two results for each channel", "groups of two channels", "one channel",
        "float64", "no images", "transposed", "one dimension", "many results", "very wide",
    ],
)  # fmt: skip
def test_own_convolutions_decline(check: Check, text: str) -> None:
    check.declines(own_convolutions, text)


BEFORE_NORM = """
    %1 = batch_norm_train{{momentum=0.1, eps=1e-05, weight=False, bias=False, stats=False}} %0
    %2 = item{{index=0}} %1
    return %2
"""


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(
    "text",
    [
        f"graph(%x: f32[1, 8, 5, 5], %w: f32[8, 1, 3, 3] state) {{ %0 = convolution{{{ONE}, groups=8}} %x %w {BEFORE_NORM.format()} }}",
        f"graph(%x: f32[1, 8, 5, 5], %w: f32[16, 8, 1, 1] state) {{ %0 = convolution{{{NO}}} %x %w {BEFORE_NORM.format()} }}",
    ],
    ids=["of channels", "of pixels"],
)
def test_before_batch_norm_in_training_mode_they_stay(check: Check, text: str) -> None:
    check.declines(own_convolutions, text)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(
    "text",
    [
        f"graph(%x: f32[1, 8, 5, 5], %w: f32[8, 1, 3, 3] state) {{ %0 = convolution{{{ONE}, groups=8}} %x %w return %0 }}",
        f"graph(%x: f32[1, 8, 5, 5], %w: f32[16, 8, 1, 1] state) {{ %0 = convolution{{{NO}}} %x %w return %0 }}",
    ],
    ids=["of channels", "of pixels"],
)
def test_select_leaves_them_as_they_are(check: Check, text: str) -> None:
    cpu = Libraries(frozenset((torch.float32,)), mkl=True, threads=2)
    check.declines(partial(select, cpu=cpu), text)
    assert "packed_convolution" in str(select(parse(text), cpu, budget=1 << 20))
