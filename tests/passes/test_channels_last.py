"""`channels_last_training`: convolutions whose weights change, and their derivatives, on a GPU."""

from functools import partial

import pytest
from check import Check, assert_same_values

from lazytorch.ir import Graph, Input
from lazytorch.ops.after import After
from lazytorch.ops.aten import Aten
from lazytorch.ops.conv import Convolution, suggests_channels_last
from lazytorch.ops.copies import Clone
from lazytorch.passes import channels_last_training
from lazytorch.text import parse
from lazytorch.types import TensorType
from lazytorch.verify import verify

everywhere = partial(channels_last_training, fits=lambda x: True)

STEP = """
    graph(%x: f32[2, 3, 9, 9], %w: f32[4, 3, 3, 3], %v: f32[6, 4, 2, 2]) {
      %0 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %w
      %1 = relu %0
      %2 = convolution{stride=(2, 2), padding=(0, 0), dilation=(1, 1)} %1 %v
      %3 = aten{overload="aten.convolution_backward.default", args=($0, $1, $2, None, (2, 2), (0, 0), (1, 1), False, (0, 0), 1, (True, True, False))} %2 %1 %v
      %4 = item{index=0} %3
      %5 = item{index=1} %3
      %6 = add %4 %1
      return %6, %5
    }
"""  # noqa: E501


def convolved(graph: Graph) -> list[TensorType]:
    """The types of inputs and weights of convolutions."""
    found = [
        node.inputs[-2 if isinstance(node.op, Aten) else 0 :][:2]
        for node in graph.nodes
        if isinstance(node.op, Convolution | Aten)
    ]
    return [x.type for pair in found for x in pair if isinstance(x.type, TensorType)]


def test_convolutions_and_derivatives_read_channels_innermost() -> None:
    graph = parse(STEP)
    after = verify(everywhere(graph))
    assert len(convolved(after)) == 6
    assert all(map(suggests_channels_last, convolved(after)))
    assert [x.type for x in after.outputs] == [x.type for x in graph.outputs]
    assert everywhere(after) is after
    assert_same_values(graph, after, close=1e-5)


def test_a_derivative_copies_what_the_caller_holds_once_more() -> None:
    after = verify(everywhere(parse(STEP)))
    copies = [x for x in after.nodes if isinstance(x.op, Clone)]
    forward = {x for x in copies if isinstance(x.inputs[0].op, Input)}
    backward = {x for x in copies if isinstance(x.inputs[0].op, After)}
    readers = {x: {type(u.op) for u in after.users[x]} for x in copies}
    assert forward and all(readers[x] == {Convolution} for x in forward)
    assert backward and all(readers[x] == {Aten} for x in backward)


def test_the_weights_of_1x1_convolutions_are_not_copied() -> None:
    graph = parse(
        """
        graph(%x: f32[2, 8, 9, 9]{648, 1, 72, 8}, %w: f32[4, 8, 1, 1]) {
          %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
          %1 = aten{overload="aten.convolution_backward.default", args=($0, $1, $2, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (True, True, False))} %0 %x %w
          %2 = item{index=0} %1
          %3 = item{index=1} %1
          return %0, %2, %3
        }
        """  # noqa: E501
    )
    after = verify(everywhere(graph))
    assert all(map(suggests_channels_last, convolved(after)))
    copied = [x.inputs[0].type for x in after.nodes if isinstance(x.op, Clone)]
    assert not any(isinstance(x, TensorType) and x.shape == (4, 8, 1, 1) for x in copied)
    assert_same_values(graph, after, close=1e-5)


@pytest.mark.parametrize(
    "weight, attributes",
    [
        ("%w: f32[4, 3, 3, 3] state", "stride=(1, 1), padding=(1, 1), dilation=(1, 1)"),
        (
            "%w: f32[3, 4, 3, 3]",
            "stride=(1, 1), padding=(1, 1), dilation=(1, 1), transposed=True, "
            "output_padding=(0, 0)",
        ),
    ],
    ids=["the weight stays", "transposed"],
)
def test_declines(check: Check, weight: str, attributes: str) -> None:
    check.declines(
        everywhere,
        f"""
        graph(%x: f32[2, 3, 9, 9], {weight}) {{
          %0 = convolution{{{attributes}}} %x %w
          return %0
        }}
        """,
    )


def test_declines_where_nothing_gains() -> None:
    graph = parse(STEP)
    assert channels_last_training(graph, fits=lambda x: False) is graph
