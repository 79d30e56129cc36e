"""`transient_weights`: copies of weights for which there is no room, made at every call."""

# ruff: noqa: E501  golden text is as wide as it is

from functools import partial

import pytest
from check import Check

from lazytorch.passes import transient_weights
from lazytorch.text import parse

nowhere = partial(transient_weights, room=0)

NORMED = """
graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state, %s: f32[3] state) {
  %0 = exp %s
  %1 = reshape{shape=(3, 1, 1, 1)} %0
  %2 = mul %w %1
  %3 = clone{strides=(2, 1, 2, 2)} %2
  %4 = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %3
  return %4
}
"""


def test_a_folded_weight_is_made_once_its_image_is_there(check: Check) -> None:
    check(
        nowhere,
        NORMED,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state, %s: f32[3] state) {
          %0: f32[3, 2, 1, 1] = after %w %x
          %1: f32[3] = exp %s
          %2: f32[3, 1, 1, 1] = reshape{shape=(3, 1, 1, 1)} %1
          %3: f32[3, 2, 1, 1] = mul %0 %2
          %4: f32[3, 2, 1, 1]{2, 1, 2, 2} = clone{strides=(2, 1, 2, 2)} %3
          %5: f32[1, 3, 4, 4]{48, 1, 12, 3} = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %4
          return %5
        }
        """,
    )


@pytest.mark.parametrize(("room", "kept"), [(0, 0), (23, 0), (24, 1), (71, 1), (72, 2), (120, 3)])
def test_what_costs_the_least_room_for_each_reader_is_kept(room: int, kept: int) -> None:
    graph = parse("""
    graph(%x: f32[1, 2, 4, 4], %y: f32[1, 4, 4, 4], %a: f32[3, 2, 1, 1] state, %b: f32[3, 4, 1, 1] state, %c: f32[3, 4, 1, 1] state) {
      %0 = exp %a
      %1 = exp %b
      %2 = exp %c
      %3 = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %0
      %4 = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %y %1
      %5 = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %y %2
      %6 = cudnn_convolution{stride=(2, 2), padding=(0, 0), dilation=(1, 1)} %y %2
      return %3, %4, %5, %6
    }
    """)
    after = transient_weights(graph, room)
    weights = [node.inputs[1] for node in after.nodes if node.op.name() == "cudnn_convolution"]
    copies = [x for x in dict.fromkeys(weights) if x in after.steady]
    assert len(copies) == kept
    if kept == 2:  # the one that two read, not the one that is as large
        assert copies[1].inputs[0].op.label == "c"
    assert transient_weights(after, room) is after


@pytest.mark.parametrize(
    "text",
    [
        NORMED.replace("%s: f32[3] state", "%s: f32[3]"),
        NORMED.replace("f32[3, 2, 1, 1] state", "f32[3, 2, 1, 1]"),
        NORMED.replace(
            "%4 = cudnn_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %3",
            "%4 = add %3 %w",
        ),
        NORMED.replace("%x %3", "%x %w"),
        """
        graph(%x: f32[2, 3], %w: f32[3, 2] state, %v: f32[3, 2] state) {
          %0 = mul %w %v
          %1 = matmul %x %0
          return %1
        }
        """,
        """
        graph(%x: f32[2, 3], %w: f32[3, 3] state) {
          %0 = matmul %w %w
          %1 = matmul %x %0
          return %1
        }
        """,
    ],
    ids=["scale varies", "weight varies", "nothing varies", "no copy", "two weights", "a product"],
)
def test_declines(check: Check, text: str) -> None:
    check.declines(nowhere, text)
