"""fold_batch_norm: which norms move into the weights before them."""

# ruff: noqa: E501  golden text is as wide as it is

import pytest
from check import Check

from lazytorch.passes import fold_batch_norm

CLOSE = 1e-5


def test_folds_into_a_convolution_without_bias(check: Check) -> None:
    check(
        fold_batch_norm,
        """
        graph(%x: f32[2, 3, 4, 4], %w: f32[5, 3, 3, 3] state, %g: f32[5] state, %b: f32[5] state, %m: f32[5] state, %v: f32[5] state) {
          %0 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %w
          %1 = batch_norm{eps=1e-05} %0 %g %b %m %v
          %2 = relu %1
          return %2
        }
        """,
        """
        graph(%x: f32[2, 3, 4, 4], %w: f32[5, 3, 3, 3] state, %g: f32[5] state, %b: f32[5] state, %m: f32[5] state, %v: f32[5] state) {
          %0: f32[5] = add %v 1e-05
          %1: f32[5] = rsqrt %0
          %2: f32[5] = mul %g %1
          %3: f32[5, 1, 1, 1] = reshape{shape=(5, 1, 1, 1)} %2
          %4: f32[5, 3, 3, 3] = mul %w %3
          %5: f32[5] = mul %m %2
          %6: f32[5] = sub %b %5
          %7: f32[2, 5, 4, 4] = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %4 %6
          %8: f32[2, 5, 4, 4] = relu %7
          return %8
        }
        """,
        close=CLOSE,
    )


def test_folds_into_a_grouped_convolution_with_bias(check: Check) -> None:
    check(
        fold_batch_norm,
        """
        graph(%x: f32[2, 4, 5], %w: f32[6, 2, 3] state, %c: f32[6] state, %g: f32[6] state, %b: f32[6] state, %m: f32[6] state, %v: f32[6] state) {
          %0 = convolution{stride=(2,), padding=(0,), dilation=(1,), groups=2} %x %w %c
          %1 = batch_norm{eps=0.001} %0 %g %b %m %v
          return %1
        }
        """,
        """
        graph(%x: f32[2, 4, 5], %w: f32[6, 2, 3] state, %c: f32[6] state, %g: f32[6] state, %b: f32[6] state, %m: f32[6] state, %v: f32[6] state) {
          %0: f32[6] = add %v 0.001
          %1: f32[6] = rsqrt %0
          %2: f32[6] = mul %g %1
          %3: f32[6, 1, 1] = reshape{shape=(6, 1, 1)} %2
          %4: f32[6, 2, 3] = mul %w %3
          %5: f32[6] = sub %m %c
          %6: f32[6] = mul %5 %2
          %7: f32[6] = sub %b %6
          %8: f32[2, 6, 2] = convolution{stride=(2,), padding=(0,), dilation=(1,), groups=2} %x %4 %7
          return %8
        }
        """,
        close=CLOSE,
    )


def test_folds_into_a_transposed_convolution_without_affine_parameters(check: Check) -> None:
    check(
        fold_batch_norm,
        """
        graph(%x: f32[2, 3, 4, 4], %w: f32[3, 5, 2, 2] state, %m: f32[5] state, %v: f32[5] state) {
          %0 = convolution{stride=(2, 2), padding=(0, 0), dilation=(1, 1), transposed=True, output_padding=(0, 0)} %x %w
          %1 = batch_norm{eps=1e-05, weight=False, bias=False} %0 %m %v
          return %1
        }
        """,
        """
        graph(%x: f32[2, 3, 4, 4], %w: f32[3, 5, 2, 2] state, %m: f32[5] state, %v: f32[5] state) {
          %0: f32[5] = add %v 1e-05
          %1: f32[5] = rsqrt %0
          %2: f32[1, 5, 1, 1] = reshape{shape=(1, 5, 1, 1)} %1
          %3: f32[3, 5, 2, 2] = mul %w %2
          %4: f32[5] = mul %m %1
          %5: f32[5] = neg %4
          %6: f32[2, 5, 8, 8] = convolution{stride=(2, 2), padding=(0, 0), dilation=(1, 1), transposed=True, output_padding=(0, 0)} %x %3 %5
          return %6
        }
        """,
        close=CLOSE,
    )


def test_folds_into_linear(check: Check) -> None:
    check(
        fold_batch_norm,
        """
        graph(%x: f32[2, 3], %w: f32[5, 3] state, %c: f32[5] state, %m: f32[5] state, %v: f32[5] state) {
          %0 = linear %x %w %c
          %1 = batch_norm{eps=1e-05, weight=False, bias=False} %0 %m %v
          return %1
        }
        """,
        """
        graph(%x: f32[2, 3], %w: f32[5, 3] state, %c: f32[5] state, %m: f32[5] state, %v: f32[5] state) {
          %0: f32[5] = add %v 1e-05
          %1: f32[5] = rsqrt %0
          %2: f32[5, 1] = reshape{shape=(5, 1)} %1
          %3: f32[5, 3] = mul %w %2
          %4: f32[5] = sub %m %c
          %5: f32[5] = mul %4 %1
          %6: f32[5] = neg %5
          %7: f32[2, 5] = linear %x %3 %6
          return %7
        }
        """,
        close=CLOSE,
    )


def test_computes_16_bit_weights_in_float32(check: Check) -> None:
    check(
        fold_batch_norm,
        """
        graph(%x: bf16[2, 3, 4, 4], %w: bf16[5, 3, 3, 3] state, %g: f32[5] state, %b: f32[5] state, %m: f32[5] state, %v: f32[5] state) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
          %1 = batch_norm{eps=1e-05} %0 %g %b %m %v
          return %1
        }
        """,
        """
        graph(%x: bf16[2, 3, 4, 4], %w: bf16[5, 3, 3, 3] state, %g: f32[5] state, %b: f32[5] state, %m: f32[5] state, %v: f32[5] state) {
          %0: f32[5, 3, 3, 3] = cast{dtype=f32} %w
          %1: f32[5] = add %v 1e-05
          %2: f32[5] = rsqrt %1
          %3: f32[5] = mul %g %2
          %4: f32[5, 1, 1, 1] = reshape{shape=(5, 1, 1, 1)} %3
          %5: f32[5, 3, 3, 3] = mul %0 %4
          %6: bf16[5, 3, 3, 3] = cast{dtype=bf16} %5
          %7: f32[5] = mul %m %3
          %8: f32[5] = sub %b %7
          %9: bf16[5] = cast{dtype=bf16} %8
          %10: bf16[2, 5, 2, 2] = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %6 %9
          return %10
        }
        """,
        close=0.03,
    )


def test_folds_norm_after_norm_and_keeps_channels_last(check: Check) -> None:
    check(
        fold_batch_norm,
        """
        graph(%x: f32[2, 3, 4, 4]{48, 1, 12, 3}, %w: f32[5, 3, 3, 3]{27, 1, 9, 3} state, %m: f32[5] state, %v: f32[5] state) {
          %0 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %w
          %1 = batch_norm{eps=1e-05, weight=False, bias=False} %0 %m %v
          %2 = batch_norm{eps=1e-05, weight=False, bias=False} %1 %m %v
          return %2
        }
        """,
        """
        graph(%x: f32[2, 3, 4, 4]{48, 1, 12, 3}, %w: f32[5, 3, 3, 3]{27, 1, 9, 3} state, %m: f32[5] state, %v: f32[5] state) {
          %0: f32[5] = add %v 1e-05
          %1: f32[5] = rsqrt %0
          %2: f32[5, 1, 1, 1] = reshape{shape=(5, 1, 1, 1)} %1
          %3: f32[5, 3, 3, 3]{27, 1, 9, 3} = mul %w %2
          %4: f32[5] = add %v 1e-05
          %5: f32[5] = rsqrt %4
          %6: f32[5, 1, 1, 1] = reshape{shape=(5, 1, 1, 1)} %5
          %7: f32[5, 3, 3, 3]{27, 1, 9, 3} = mul %3 %6
          %8: f32[5] = mul %m %1
          %9: f32[5] = neg %8
          %10: f32[5] = sub %m %9
          %11: f32[5] = mul %10 %5
          %12: f32[5] = neg %11
          %13: f32[2, 5, 4, 4]{80, 1, 20, 5} = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %7 %12
          return %13
        }
        """,
        close=CLOSE,
    )


STATE = "%w: f32[5, 3, 3, 3] state, %m: f32[5] state, %v: f32[5] state"
CONV = "%0 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %w"
NORM = "%1 = batch_norm{eps=1e-05, weight=False, bias=False} %0 %m %v"


@pytest.mark.parametrize(
    ("inputs", "body"),
    [
        (STATE, f"{CONV} {NORM} %2 = relu %0 return %1, %2"),
        (STATE, f"{CONV} {NORM} return %0, %1"),
        (STATE.replace("%m: f32[5] state", "%m: f32[5]"), f"{CONV} {NORM} return %1"),
        (STATE.replace("3] state", "3]"), f"{CONV} {NORM} return %1"),
        (STATE, f"{CONV} {NORM} %2 = exp %m %3 = write %m %2 effects %3 return %1"),
        (STATE, f"{CONV} %2 = relu %0 {NORM.replace('%0', '%2')} return %1"),
    ],
    ids=[
        "convolution read twice",
        "convolution returned",
        "statistics from an argument",
        "weight from an argument",
        "statistics written",
        "something in between",
    ],
)
def test_declines(check: Check, inputs: str, body: str) -> None:
    check.declines(fold_batch_norm, f"graph(%x: f32[2, 3, 4, 4], {inputs}) {{ {body} }}")


def test_declines_training_and_images_without_a_batch(check: Check) -> None:
    check.declines(
        fold_batch_norm,
        """
        graph(%x: f32[2, 3, 8], %y: f32[3, 8], %w: f32[6, 3, 3] state, %m: f32[6] state, %v: f32[6] state) {
          %0 = convolution{stride=(1,), padding=(1,), dilation=(1,)} %x %w
          %1 = batch_norm_train{momentum=0.1, eps=1e-05, weight=False, bias=False} %0 %m %v
          %2 = item{index=0} %1
          %3 = convolution{stride=(1,), padding=(0,), dilation=(1,)} %y %w
          %4 = batch_norm{eps=1e-05, weight=False, bias=False} %3 %m %v
          return %2, %4
        }
        """,
    )


def test_declines_a_transposed_convolution_with_groups(check: Check) -> None:
    check.declines(
        fold_batch_norm,
        """
        graph(%x: f32[2, 4, 4], %w: f32[4, 3, 2] state, %m: f32[6] state, %v: f32[6] state) {
          %0 = convolution{stride=(2,), padding=(0,), dilation=(1,), transposed=True, output_padding=(0,), groups=2} %x %w
          %1 = batch_norm{eps=1e-05, weight=False, bias=False} %0 %m %v
          return %1
        }
        """,
    )
