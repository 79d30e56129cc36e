"""torch's library calls that do several operations, or do one on weights of their own layout."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from lazytorch.errors import ShapeError
from lazytorch.ir import Op
from lazytorch.ops.conv import Convolution, Sizes, channels_last
from lazytorch.types import OpaqueType, Shape, TensorType


@cache
def onednn_packs(dtype: torch.dtype) -> bool:
    """Whether this build and processor run convolutions of `dtype` on packed weights."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype is torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype is torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return dtype is torch.float32


class PackedWeight(Op):
    """A convolution's weight reordered by oneDNN for one input shape and number of threads.

    For another shape it still gives right results, but each call then reorders it again.
    """

    convolution: Convolution
    input_shape: Shape
    threads: int

    def infer(self, weight: TensorType) -> OpaqueType:
        return OpaqueType(weight.nbytes, weight.device)

    def run(self, weight: torch.Tensor) -> torch.Tensor:
        c = self.convolution
        return torch.ops.mkldnn._reorder_convolution_weight(
            weight.detach(), c.padding, c.stride, c.dilation, c.groups, list(self.input_shape)
        )


class PackedConvolution(Op):
    """A convolution by oneDNN on a packed weight; a third operand is the bias.

    The result is channels last whatever the input is. oneDNN's fused activations are not used:
    its relu turns NaN into 0.
    """

    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int
    kernel: Shape

    def infer(self, x: TensorType, weight: Any, bias: TensorType | None = None) -> TensorType:
        if not isinstance(weight, OpaqueType):
            raise ShapeError("packed_convolution: the weight must be packed")
        dense = TensorType(self.kernel, x.dtype, x.device, channels_last(self.kernel))
        plain = Convolution(self.stride, self.padding, self.dilation, False, (), self.groups)
        found = plain.infer(x, dense) if bias is None else plain.infer(x, dense, bias)
        return found.with_strides(channels_last(found.shape))

    def run(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, self.padding, self.stride, self.dilation, self.groups, "none", [], ""
        )
