"""`cudnn`: convolutions with bias, residual and relu in one call."""

# ruff: noqa: E501  golden text is as wide as it is

from functools import partial

import pytest
from check import Check

from lazytorch.passes import cudnn

everywhere = partial(cudnn, fits=lambda x: True)


def test_cudnn_takes_bias_residual_and_relu_into_the_convolution(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[1, 2, 4, 4], %z: f32[1, 3, 4, 4], %w: f32[3, 2, 1, 1] state, %b: f32[3] state) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w %b
          %1 = add %z %0
          %2 = relu %1
          return %2
        }
        """,
        """
        graph(%x: f32[1, 2, 4, 4], %z: f32[1, 3, 4, 4], %w: f32[3, 2, 1, 1] state, %b: f32[3] state) {
          %0: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %w
          %1: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution_relu{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %0 %b %z
          %2: f32[1, 3, 4, 4] = clone{strides=(48, 16, 4, 1)} %1
          return %2
        }
        """,
        close=1e-5,
    )


def test_cudnn_takes_a_relu_without_a_bias(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
          %1 = relu %0
          return %1
        }
        """,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state) {
          %0: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %w
          %1: f32[3] = full{shape=(3,), value=0}
          %2: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution_relu{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %0 %1
          %3: f32[1, 3, 4, 4] = clone{strides=(48, 16, 4, 1)} %2
          return %3
        }
        """,
        close=1e-5,
    )


def test_cudnn_leaves_the_bias_to_fusion_where_something_else_follows(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state, %b: f32[3] state) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w %b
          %1 = silu %0
          return %1
        }
        """,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state, %b: f32[3] state) {
          %0: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %w
          %1: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %0
          %2: f32[1, 3, 1, 1] = reshape{shape=(1, 3, 1, 1)} %b
          %3: f32[1, 3, 4, 4]{48, 1, 12, 3} = add %1 %2
          %4: f32[1, 3, 4, 4]{48, 1, 12, 3} = silu %3
          %5: f32[1, 3, 4, 4] = clone{strides=(48, 16, 4, 1)} %4
          return %5
        }
        """,
        close=1e-5,
    )


def test_cudnn_keeps_a_sum_that_is_read_twice(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[1, 2, 4, 4], %z: f32[1, 3, 4, 4], %w: f32[3, 2, 1, 1] state) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
          %1 = add %0 %z
          %2 = relu %1
          return %1, %2
        }
        """,
        """
        graph(%x: f32[1, 2, 4, 4], %z: f32[1, 3, 4, 4], %w: f32[3, 2, 1, 1] state) {
          %0: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %w
          %1: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %0
          %2: f32[1, 3, 4, 4]{48, 1, 12, 3} = add %1 %z
          %3: f32[1, 3, 4, 4] = clone{strides=(48, 16, 4, 1)} %2
          %4: f32[1, 3, 4, 4]{48, 1, 12, 3} = relu %2
          %5: f32[1, 3, 4, 4] = clone{strides=(48, 16, 4, 1)} %4
          return %3, %5
        }
        """,
        close=1e-5,
    )


def test_cudnn_adds_two_convolutions_in_one_of_them(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state, %v: f32[3, 2, 1, 1] state) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
          %1 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %v
          %2 = add %0 %1
          %3 = relu %2
          return %3
        }
        """,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state, %v: f32[3, 2, 1, 1] state) {
          %0: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %w
          %1: f32[3] = full{shape=(3,), value=0}
          %2: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %v
          %3: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %2
          %4: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution_relu{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %0 %1 %3
          %5: f32[1, 3, 4, 4] = clone{strides=(48, 16, 4, 1)} %4
          return %5
        }
        """,
        close=1e-5,
    )


CONVOLUTION = """
graph(%x: f32[1, 2, 4, 4], %w: f32[2, 2, 1, 1] state) {
  %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
  return %0
}
"""


@pytest.mark.parametrize(
    ("reason", "before", "after"),
    [
        ("the weight is an argument", " state", ""),
        (
            "transposed",
            "dilation=(1, 1)",
            "dilation=(1, 1), transposed=True, output_padding=(0, 0)",
        ),
        ("grouped", "[2, 2, 1, 1] state) {", "[2, 1, 1, 1] state) {"),
        ("no batch dimension", "[1, 2, 4, 4]", "[2, 4, 4]"),
        ("empty", "[1, 2, 4, 4]", "[0, 2, 4, 4]"),
    ],
)
def test_cudnn_declines(check: Check, reason: str, before: str, after: str) -> None:
    text = CONVOLUTION.replace(before, after)
    if reason == "grouped":
        text = text.replace("dilation=(1, 1)", "dilation=(1, 1), groups=2")
    check.declines(everywhere, text)


def test_cudnn_declines_where_tensor_cores_are_not_used(check: Check) -> None:
    check.declines(partial(cudnn, fits=lambda x: False), CONVOLUTION)


def test_cudnn_adds_both_biases_of_two_convolutions_at_once(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state, %a: f32[3] state, %v: f32[3, 2, 1, 1] state, %b: f32[3] state) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w %a
          %1 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %v %b
          %2 = add %0 %1
          %3 = relu %2
          return %3
        }
        """,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state, %a: f32[3] state, %v: f32[3, 2, 1, 1] state, %b: f32[3] state) {
          %0: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %w
          %1: f32[3] = add %a %b
          %2: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %v
          %3: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %2
          %4: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution_relu{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %0 %1 %3
          %5: f32[1, 3, 4, 4] = clone{strides=(48, 16, 4, 1)} %4
          return %5
        }
        """,
        close=1e-5,
    )


def test_cudnn_leaves_a_residual_that_is_read_elsewhere_with_its_own_bias(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state, %a: f32[3] state, %v: f32[3, 2, 1, 1] state, %b: f32[3] state) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w %a
          %1 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %v %b
          %2 = add %0 %1
          %3 = relu %2
          return %3, %1
        }
        """,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state, %a: f32[3] state, %v: f32[3, 2, 1, 1] state, %b: f32[3] state) {
          %0: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %w
          %1: f32[3] = add %a %b
          %2: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %v
          %3: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %2
          %4: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution_relu{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %0 %1 %3
          %5: f32[1, 3, 4, 4] = clone{strides=(48, 16, 4, 1)} %4
          %6: f32[1, 3, 1, 1] = reshape{shape=(1, 3, 1, 1)} %b
          %7: f32[1, 3, 4, 4]{48, 1, 12, 3} = add %3 %6
          %8: f32[1, 3, 4, 4] = clone{strides=(48, 16, 4, 1)} %7
          return %5, %8
        }
        """,
        close=1e-5,
    )


def test_cudnn_takes_no_other_sum_for_a_bias(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[1, 2, 4, 4], %t: f32[1, 3, 4, 4], %w: f32[3, 2, 1, 1] state, %v: f32[3, 2, 1, 1] state) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
          %1 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %v
          %2 = reshape{shape=(1, 3, 4, 4)} %t
          %3 = add %1 %2
          %4 = add %0 %3
          %5 = relu %4
          return %5
        }
        """,
        """
        graph(%x: f32[1, 2, 4, 4], %t: f32[1, 3, 4, 4], %w: f32[3, 2, 1, 1] state, %v: f32[3, 2, 1, 1] state) {
          %0: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %w
          %1: f32[3] = full{shape=(3,), value=0}
          %2: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %v
          %3: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %2
          %4: f32[1, 3, 4, 4] = reshape{shape=(1, 3, 4, 4)} %t
          %5: f32[1, 3, 4, 4]{48, 1, 12, 3} = add %3 %4
          %6: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution_relu{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %0 %1 %5
          %7: f32[1, 3, 4, 4] = clone{strides=(48, 16, 4, 1)} %6
          return %7
        }
        """,
        close=1e-5,
    )
