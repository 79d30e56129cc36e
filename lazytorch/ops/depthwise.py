"""Convolutions of each channel with a kernel of its own, as a generated kernel computes them."""

from __future__ import annotations

import torch

from lazytorch.errors import ShapeError
from lazytorch.ir import Node
from lazytorch.ops.checks import check_devices
from lazytorch.ops.conv import Convolution, KernelConvolution, Sizes, channels_last
from lazytorch.types import TensorType

WIDEST = 32
"""Columns of an image below one kernel that code is for."""

MOST = {torch.float32: 1 << 18, torch.bfloat16: 1 << 17}
"""Results for each thread, by their type, up to which such a kernel is faster than oneDNN's, which
computes as fast or faster but takes 25 microseconds to prepare (benchmarks/small_layers.py)."""


class DepthwiseConvolution(KernelConvolution):
    """Cross-correlation of x (N, C, H, W), channels last, with taps (KH, KW, C) in float32, plus a
    bias (C) in float32 where there is a third operand; channels last."""

    stride: Sizes
    padding: Sizes
    dilation: Sizes

    def infer(self, x: TensorType, taps: TensorType, bias: TensorType | None = None) -> TensorType:
        operands = {"input": x, "taps": taps} | ({} if bias is None else {"bias": bias})
        check_devices(self, *operands.values())
        if x.rank != 4 or taps.rank != 3 or x.shape[1] != taps.shape[2]:
            raise ShapeError("depthwise_convolution: the taps do not fit the image", operands)
        weight = x.with_shape((taps.shape[2], 1, *taps.shape[:2]))
        typed = self.whole(taps.shape[2]).infer(x, weight)
        return typed.with_strides(channels_last(typed.shape))

    def whole(self, channels: int) -> Convolution:
        """The convolution that it is."""
        return Convolution(self.stride, self.padding, self.dilation, groups=channels)

    def run(
        self, x: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        weight = taps.permute(2, 0, 1).unsqueeze(1).to(x.dtype)
        bias = None if bias is None else bias.to(x.dtype)
        sizes = (self.stride, self.padding, self.dilation)
        found = torch.conv2d(x, weight, bias, *sizes, groups=taps.shape[2])
        return found.contiguous(memory_format=torch.channels_last)


def is_depthwise(node: Node) -> bool:
    """Whether a node is a convolution that is better off as such a kernel."""
    op = node.op
    if not isinstance(op, Convolution) or op.transposed:
        return False
    x, weight = node.inputs[0].type, node.inputs[1].type
    assert isinstance(x, TensorType) and isinstance(weight, TensorType)
    assert isinstance(node.type, TensorType)
    if x.rank != 4 or x.device.type != "cpu" or not x.numel:
        return False
    few = node.type.numel <= MOST.get(x.dtype, 0) * torch.get_num_threads()
    each = weight.shape[:2] == (x.shape[1], 1) and op.groups == x.shape[1] > 1
    return few and each and (weight.shape[3] - 1) * op.dilation[1] < WIDEST
