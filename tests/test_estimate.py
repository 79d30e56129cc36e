"""The estimate of a call's time: what products, convolutions and attention compute."""

import pytest

from lazytorch.devices import DEVICES
from lazytorch.ir import Node
from lazytorch.lower.estimate import flops, rate_of
from lazytorch.text import parse

CONVOLVED = 2 * (2 * 5 * 6 * 7) * (3 * 3 * 3)
ATTENDED = 2 * (2 * 3 * 4 * 8) * 5
IMAGES = "%g: f32[2, 5, 6, 7], %x: f32[2, 3, 6, 7], %w: f32[5, 3, 3, 3]"
HEADS = "%q: f32[2, 3, 4, 8], %k: f32[2, 3, 5, 8], %v: f32[2, 3, 5, 8]"


def last(text: str) -> Node:
    """The operation of a graph that returns it."""
    return parse(text).outputs[0]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("graph(%x: f32[2, 3], %w: f32[3, 4]) { %0 = mm %x %w return %0 }", 2 * 2 * 3 * 4),
        ("graph(%x: f32[2, 3], %w: f32[2, 3]) { %0 = add %x %w return %0 }", 0),
        (
            "graph(%x: f32[2, 3, 6, 7], %w: f32[5, 3, 3, 3]) {"
            " %0 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %w return %0 }",
            CONVOLVED,
        ),
        (
            f"graph({HEADS}) {{ %0 = scaled_dot_product_attention %q %k %v return %0 }}",
            2 * ATTENDED,
        ),
    ],
    ids=["mm", "add", "convolution", "attention"],
)
def test_operations_of_one_result(text: str, expected: int) -> None:
    assert flops(last(text)) == expected


@pytest.mark.parametrize("wanted, times", [("True, True", 2), ("False, True", 1)])
def test_a_convolutions_derivative_is_as_much_for_each_operand(wanted: str, times: int) -> None:
    sizes = "(1, 1), (1, 1), (1, 1), False, (0, 0), 1"
    found = parse(f"""
    graph({IMAGES}) {{
      %0 = aten{{overload="aten.convolution_backward.default", args=($0, $1, $2, None, {sizes}, ({wanted}, False))}} %g %x %w
      %1 = item{{index=1}} %0
      return %1
    }}
    """)  # noqa: E501
    derivative = found.outputs[0].inputs[0]
    assert flops(derivative) == times * CONVOLVED
    assert rate_of(derivative, DEVICES["h200"]) == DEVICES["h200"].tf32  # as cuDNN is set


def test_attentions_derivative_computes_the_scores_again() -> None:
    found = parse(f"""
    graph({HEADS}) {{
      %0 = attention_saving{{kernel="cpu"}} %q %k %v
      %1 = item{{index=0}} %0
      %2 = item{{index=1}} %0
      %3 = attention_backward{{kernel="cpu"}} %1 %q %k %v %1 %2
      %4 = item{{index=0}} %3
      return %4
    }}
    """)
    assert flops(found.outputs[0].inputs[0]) == 5 * ATTENDED
