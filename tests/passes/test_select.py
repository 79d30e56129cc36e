"""`select`: convolutions on packed weights, where the weight is a parameter."""

# ruff: noqa: E501  golden text is as wide as it is

from functools import partial

import pytest
import torch
from check import Check
from torch import nn

from lazytorch.frontend import trees
from lazytorch.frontend.record import record
from lazytorch.interpret import interpret
from lazytorch.ir import Graph
from lazytorch.ops.library import onednn_packs
from lazytorch.passes import select
from lazytorch.verify import signature, verify

everywhere = partial(select, packs=lambda dtype: dtype is torch.float32, threads=2)
on_this_machine = partial(select, packs=onednn_packs, threads=torch.get_num_threads())


def test_select_packs_a_convolution_whose_weight_is_a_parameter(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state) {
          %0: f32[1, 3, 4, 4] = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
          return %0
        }
        """,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state) {
          %0: opaque[24] = packed_weight{convolution=op(convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)}), input_shape=(1, 2, 4, 4), threads=2} %w
          %1: f32[1, 3, 4, 4]{48, 1, 12, 3} = packed_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, kernel=(3, 2, 1, 1)} %x %0
          %2: f32[1, 3, 4, 4] = clone{strides=(48, 16, 4, 1)} %1
          return %2
        }
        """,
        close=1e-5,
    )


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            "the weight is an argument: it would be packed at every call",
            """
            graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1]) {
              %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
              return %0
            }
            """,
        ),
        (
            "oneDNN packs no float64",
            """
            graph(%x: f64[1, 2, 4, 4], %w: f64[3, 2, 1, 1] state) {
              %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
              return %0
            }
            """,
        ),
        (
            "transposed",
            """
            graph(%x: f32[1, 2, 4, 4], %w: f32[2, 3, 1, 1] state) {
              %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1), transposed=True, output_padding=(0, 0)} %x %w
              return %0
            }
            """,
        ),
        (
            "no batch dimension",
            """
            graph(%x: f32[2, 4, 4], %w: f32[3, 2, 1, 1] state) {
              %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
              return %0
            }
            """,
        ),
    ],
)
def test_select_declines(check: Check, reason: str, text: str) -> None:
    check.declines(everywhere, text)


def recorded(net: nn.Module, x: torch.Tensor) -> tuple[Graph, list[torch.Tensor]]:
    leaves, spec = trees.flatten(((x,), {}))
    piece = record(net, leaves, spec).piece
    state = dict(net.named_parameters()) | dict(net.named_buffers())
    values = [x if n.op.role == "argument" else state[n.op.label] for n in piece.graph.inputs]
    return piece.graph, values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "net",
    [
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(4, 6, (1, 3), dilation=2, groups=2),
        nn.Conv2d(1, 1, 1),
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 2, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 3])
def test_select_keeps_meaning_types_and_nan(net: nn.Module, dtype: torch.dtype, batch: int) -> None:
    if not onednn_packs(dtype):
        pytest.skip("oneDNN does not pack this dtype here")
    torch.manual_seed(0)
    net = net.to(dtype)
    channels = next(m for m in net.modules() if isinstance(m, nn.Conv2d)).in_channels
    for x in (
        torch.randn(batch, channels, 9, 11, dtype=dtype),
        torch.randn(batch, channels, 9, 11, dtype=dtype).to(memory_format=torch.channels_last),
        torch.full((batch, channels, 9, 11), float("nan"), dtype=dtype),
    ):
        graph, values = recorded(net, x)
        after = verify(on_this_machine(graph), after="select")
        assert signature(after) == signature(graph)
        assert on_this_machine(after) is after
        with torch.no_grad():
            found, expected = interpret(after, *values), interpret(graph, *values)
        near = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(
            found, expected, rtol=near, atol=near, equal_nan=True, check_stride=True
        )
