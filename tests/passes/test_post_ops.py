"""`post_ops`: activations and sums in oneDNN's convolutions, values kept, NaN and infinities too."""

# ruff: noqa: E501  golden text is as wide as it is

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from check import SPECIAL, Check
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch import passes
from lazytorch.accuracy import accuracy
from lazytorch.interpret import evaluate, interpret
from lazytorch.ir import Graph, Input, Node
from lazytorch.lower.optimize import optimize
from lazytorch.ops import pixel_products
from lazytorch.ops.library import PackedConvolution, PackedConvolutionAdd, libraries
from lazytorch.passes import post_ops
from lazytorch.view.memory import packed

HERE = libraries()
onednn = pytest.mark.skipif(torch.float32 not in HERE.onednn, reason="no oneDNN here")
PACKED = """graph(%x: f32[2, 3, 4, 4]{48, 1, 12, 3}, %y: f32[2, 3, 4, 4]{48, 1, 12, 3}, %w: f32[3, 3, 1, 1] state, %b: f32[3] state) {
  %p = packed_weight{convolution=op(convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)}), input_shape=(2, 3, 4, 4), threads=2} %w
  %c = packed_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, kernel=(3, 3, 1, 1)} %x %p %b
"""


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without wide registers, where kernels of size 1 are oneDNN's."""
    monkeypatch.setattr(pixel_products, "wide", lambda: False)


@onednn
def test_an_activation_is_done_by_the_convolution(check: Check) -> None:
    check(
        post_ops,
        PACKED + "%0 = hardswish %c return %0 }",
        """
        graph(%x: f32[2, 3, 4, 4]{48, 1, 12, 3}, %y: f32[2, 3, 4, 4]{48, 1, 12, 3}, %w: f32[3, 3, 1, 1] state, %b: f32[3] state) {
          %0: opaque[192] = packed_weight{convolution=op(convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)}), input_shape=(2, 3, 4, 4), threads=2} %w
          %1: f32[2, 3, 4, 4]{48, 1, 12, 3} = packed_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, kernel=(3, 3, 1, 1), activation="hardswish"} %x %0 %b
          return %1
        }
        """,
        close=1e-5,
    )


@onednn
def test_a_sum_is_done_by_the_convolution(check: Check) -> None:
    check(
        post_ops,
        PACKED + "%0 = add %y %c return %0 }",
        """
        graph(%x: f32[2, 3, 4, 4]{48, 1, 12, 3}, %y: f32[2, 3, 4, 4]{48, 1, 12, 3}, %w: f32[3, 3, 1, 1] state, %b: f32[3] state) {
          %0: opaque[192] = packed_weight{convolution=op(convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)}), input_shape=(2, 3, 4, 4), threads=2} %w
          %1: f32[2, 3, 4, 4]{48, 1, 12, 3} = packed_convolution_add{stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, kernel=(3, 3, 1, 1)} %x %0 %y %b
          return %1
        }
        """,
        close=1e-5,
    )


@onednn
def test_a_sum_of_two_convolutions_goes_into_the_later_one(check: Check) -> None:
    check(
        post_ops,
        PACKED
        + """
          %d = packed_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, kernel=(3, 3, 1, 1)} %y %p
          %0 = add %d %c
          return %0
        }""",
        """
        graph(%x: f32[2, 3, 4, 4]{48, 1, 12, 3}, %y: f32[2, 3, 4, 4]{48, 1, 12, 3}, %w: f32[3, 3, 1, 1] state, %b: f32[3] state) {
          %0: opaque[192] = packed_weight{convolution=op(convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)}), input_shape=(2, 3, 4, 4), threads=2} %w
          %1: f32[2, 3, 4, 4]{48, 1, 12, 3} = packed_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, kernel=(3, 3, 1, 1)} %y %0
          %2: f32[2, 3, 4, 4]{48, 1, 12, 3} = packed_convolution_add{stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, kernel=(3, 3, 1, 1)} %x %0 %1 %b
          return %2
        }
        """,
        close=1e-5,
    )


@pytest.mark.parametrize(
    "rest",
    [
        "%0 = relu %c return %0 }",
        "%0 = hardsigmoid %c return %0 }",
        "%0 = gelu %c return %0 }",
        "%0 = sigmoid %c return %0, %c }",
        "%0 = sigmoid %c %1 = add %0 %c return %1 }",
        "%0 = add %c %c return %0 }",
        "%0 = add %c 1.0 return %0 }",
        "%0 = add %c %b3 return %0 }",
        "%0 = add %c %z return %0 }",
    ],
    ids=[
        "oneDNN's relu loses NaN", "so does its hardsigmoid", "its gelu makes NaN of infinity",
        "the convolution is an output", "the convolution has another reader",
        "it is added to itself", "a number is added", "what is added is smaller",
        "what is added lies otherwise in memory",
    ],
)  # fmt: skip
def test_post_ops_decline(check: Check, rest: str) -> None:
    more = ", %b3: f32[3, 1, 1], %z: f32[2, 3, 4, 4])"
    check.declines(post_ops, PACKED.replace(")", more, 1) + rest)


def test_eagers_rounding_points_are_kept_where_asked() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish()).eval()
    traced = lt.trace(net, torch.randn(1, 3, 8, 8))
    assert "activation" in str(optimize(traced, freeze=True)) or not HERE.onednn
    assert "activation" not in str(optimize(traced, freeze=True, numerics="eager"))


@onednn
def test_explain_counts_the_weights_of_every_call() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(x) + functional.hardswish(self.second(x))

    frozen = optimize(lt.trace(Net().eval(), torch.randn(1, 3, 8, 8)), freeze=True)
    assert any(isinstance(n.op, PackedConvolutionAdd) for n in frozen.nodes)
    assert packed(frozen) == 2


class Block(nn.Module):
    """A convolution, a sum with another tensor, or an activation."""

    def __init__(self, convolution: nn.Conv2d, behind: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.convolution = convolution
        self.behind = behind

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = self.convolution(x)
        return self.behind(z, y) if self.behind is torch.add else self.behind(z)


def optimized(net: Block, x: torch.Tensor, y: torch.Tensor) -> tuple[Graph, tuple[Any, ...]]:
    """The graph with post-ops, and the values of its inputs."""
    given = {"x": x, "y": y, **dict(net.named_parameters())}
    graph = passes.optimize(
        lt.trace(net, x, y), (*passes.REWRITES, partial(passes.select, cpu=HERE), post_ops)
    )
    return graph, tuple(given[n.op.label] for n in graph.inputs if isinstance(n.op, Input))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "behind", [torch.add, functional.hardswish, functional.silu, torch.sigmoid]
)
@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(17, 33, 1, bias=False),
        nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=3),
        nn.Conv2d(4, 6, (1, 3), dilation=2, groups=2),
        nn.Conv2d(2, 5, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 3])
def test_values_are_as_right_as_eagers(
    convolution: nn.Conv2d, behind: Callable[..., torch.Tensor], batch: int, dtype: torch.dtype
) -> None:
    if dtype not in HERE.onednn:
        pytest.skip("oneDNN does not pack this dtype here")
    torch.manual_seed(0)
    net = Block(copy.deepcopy(convolution).to(dtype), behind).eval()
    wide = copy.deepcopy(net).double()
    x = 4 * torch.randn(batch, convolution.in_channels, 9, 11).to(dtype)
    odd = x.to(memory_format=torch.channels_last, copy=True)
    odd[0, :, 2, 3], odd[0, 0, 5, 6], odd[-1, 0, 8, 8] = torch.nan, torch.inf, -torch.inf
    for value in (x, x.to(memory_format=torch.channels_last), odd):
        with torch.no_grad():
            other = torch.randn_like(net.convolution(value))
            other = other.to(memory_format=torch.channels_last)
            graph, values = optimized(net, value, other)
            assert any(is_whole(n, behind) for n in graph.nodes)
            found, eager = interpret(graph, *values)[0], net(value, other)
            exact = wide(value.double(), other.double())
        judged = accuracy([found], [eager], [exact])
        assert judged.right, judged.fault


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "behind", [torch.add, functional.hardswish, functional.silu, torch.sigmoid]
)
def test_special_values_pass_as_in_eager(
    behind: Callable[..., torch.Tensor], dtype: torch.dtype
) -> None:
    if dtype not in HERE.onednn:
        pytest.skip("oneDNN does not pack this dtype here")
    net = Block(nn.Conv2d(16, 16, 1, bias=False), behind).to(dtype).eval()
    nn.init.zeros_(net.convolution.weight)
    nn.init.ones_(net.convolution.weight[:, 0])
    special = torch.tensor(SPECIAL, dtype=dtype)
    x = torch.zeros(1, 16, 9, 9, dtype=dtype)
    x[0, 0] = special.repeat_interleave(len(SPECIAL)).reshape(9, 9)
    other = special.repeat(len(SPECIAL)).reshape(1, 9, 9, 1).repeat(1, 1, 1, 16).movedim(3, 1)
    with torch.no_grad():
        graph, values = optimized(net, x, other)
        assert any(is_whole(n, behind) for n in graph.nodes)
        found, eager = interpret(graph, *values)[0], net(x, other)
    # eager's hardswish overflows where x * 6 does, though the result is x
    overflows = (x[:, :1].abs() > 5e37).expand_as(eager) & (behind is functional.hardswish)
    known = ~overflows & ~eager.isnan()
    assert torch.equal(found.isnan(), eager.isnan())
    near = 1e-6 if dtype is torch.float32 else 1e-2
    torch.testing.assert_close(found[known], eager[known], rtol=near, atol=1e-38)


def is_whole(node: Node, behind: Callable[..., torch.Tensor]) -> bool:
    """Whether a node is the one call for the convolution and what is behind it."""
    if behind is torch.add:
        return isinstance(node.op, PackedConvolutionAdd)
    return isinstance(node.op, PackedConvolution) and node.op.activation != "none"


@onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (7, 1), (16, 1), (12, 4)])
def test_a_sum_written_over_its_operand_is_the_sum(
    channels: int, groups: int, dtype: torch.dtype
) -> None:
    if dtype not in HERE.onednn:
        pytest.skip("oneDNN does not pack this dtype here")
    torch.manual_seed(0)
    net = Block(nn.Conv2d(channels, channels, 3, padding=1, groups=groups), torch.add).to(dtype)
    for size in ((1, 3), (5, 7)):
        x, other = (
            torch.randn(2, channels, *size).to(dtype, memory_format=torch.channels_last)
            for _ in range(2)
        )
        with torch.no_grad():
            graph, values = optimized(net, x, other)
            (call,) = [n for n in graph.nodes if isinstance(n.op, PackedConvolutionAdd)]
            known = evaluate(graph, values)
            operands = [known[y] for y in call.inputs]
            want, at = known[call], operands[2].data_ptr()
            got = call.op.overwrite(*operands)
        assert got.data_ptr() == at
        near = 1e-6 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(got, want, rtol=near, atol=near, check_stride=True)
