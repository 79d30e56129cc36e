"""Convolutions of single pixels, matrix products channels last, as a generated kernel computes
them."""

from __future__ import annotations

import torch

from lazytorch.errors import ShapeError
from lazytorch.ir import Node
from lazytorch.ops.checks import check_alike
from lazytorch.ops.conv import Convolution, KernelConvolution, channels_last
from lazytorch.types import TensorType

LANES = 16
"""Results that a vector holds, and channels that a weight is padded to a multiple of."""

MOST = 1 << 23
"""Products for each thread up to which such a kernel is faster than oneDNN's, which computes larger
ones 5 % faster but takes 25 microseconds to prepare (benchmarks/small_layers.py)."""

DEEPEST = 1024
"""Channels that are summed in one number of float32, as exactly as the accuracy rule asks for."""

TOGETHER = 14
"""Pixels that are computed together: with two vectors for each the sums fill the registers."""


class PixelProducts(KernelConvolution):
    """The product of every pixel of x (N, C, H, W), channels last, with a packed weight
    (ceil(O / 16), C, 16), plus a bias (16 * ceil(O / 16)) where there is a third operand:
    (N, O, H, W) for O `channels`, channels last; float32."""

    channels: int

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        operands = (x, weight) if bias is None else (x, weight, bias)
        check_alike(self, *operands)
        vectors = -(-self.channels // LANES)
        if x.rank != 4 or weight.shape != (vectors, x.shape[1], LANES):
            raise ShapeError(f"{self.name()}: the weight does not fit", {"x": x, "weight": weight})
        n, _, h, w = x.shape
        return x.with_shape((n, self.channels, h, w)).with_strides(
            channels_last((n, self.channels, h, w))
        )

    def run(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        matrix = weight.permute(1, 0, 2).reshape(x.shape[1], -1)[:, : self.channels]
        pixels = x.permute(0, 2, 3, 1)
        found = torch.matmul(pixels, matrix)
        found = found if bias is None else found + bias[: self.channels]
        return found.permute(0, 3, 1, 2)


def is_of_pixels(node: Node) -> bool:
    """Whether a node is a convolution that is better off as such a kernel."""
    op = node.op
    if not isinstance(op, Convolution) or op.transposed or op.groups != 1:
        return False
    x, weight = node.inputs[0].type, node.inputs[1].type
    assert isinstance(x, TensorType) and isinstance(weight, TensorType)
    return (
        x.rank == 4
        and x.device.type == "cpu"
        and x.dtype is torch.float32
        and weight.shape[2:] == (1, 1)
        and op.stride == (1, 1)
        and op.padding == (0, 0)
        and x.shape[1] <= DEEPEST
        and 0 < x.numel * weight.shape[0] <= MOST * torch.get_num_threads()
        and x.numel // x.shape[1] >= TOGETHER
        and wide()
    )


def wide() -> bool:
    """Whether the processor has registers for so many sums."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"
