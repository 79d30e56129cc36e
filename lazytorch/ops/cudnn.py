"""cuDNN's convolutions: the plain one, and one call with bias, residual and relu in it.

On tensors that are not on a GPU they do the same by parts, so that every graph can be interpreted.
"""

from __future__ import annotations

import torch
from torch.backends.cudnn import version as cudnn_version

from lazytorch.errors import ShapeError
from lazytorch.ir import Op
from lazytorch.ops.conv import Convolution, Sizes, channels_last
from lazytorch.types import TensorType

TILE = 128
"""Lengths that are no multiple of this are read past their end by a cuDNN up to `ANY_LENGTH`."""

ANY_LENGTH = 91500

LARGEST = 128
"""Elements of a head that its attention takes."""

MOST = 65535
"""Batches or heads that cuDNN's attention takes."""


def on_gpu(x: TensorType) -> bool:
    """Whether a tensor lies on a GPU."""
    return x.device.type == "cuda"


def tensor_cores(x: TensorType) -> bool:
    """Whether cuDNN convolves such an input on tensor cores, as torch is set now."""
    if not on_gpu(x):
        return False
    if x.dtype is torch.float32:
        return torch.backends.cudnn.allow_tf32
    return x.dtype in (torch.float16, torch.bfloat16)


def whole_vectors(x: TensorType) -> bool:
    """Whether cuDNN's kernels for tensor cores read such an image as it is."""
    return tensor_cores(x) and not padded(x)


def multiplies(x: TensorType) -> bool:
    """Whether cuBLAS multiplies such an operand on tensor cores, as torch is set now."""
    if on_gpu(x) and x.dtype is torch.float32:
        return torch.get_float32_matmul_precision() != "highest"
    return tensor_cores(x)


def attends(query: TensorType, key: TensorType) -> bool:
    """Whether cuDNN's attention is the fastest for such operands, on a GPU that is here, and torch
    would not refuse it. Source: ATen/native/transformers/cuda/sdp_utils.cpp."""
    lengths = (query.shape[2], key.shape[2])
    return (
        on_gpu(query)
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability(query.device) >= (9, 0)
        and torch.backends.cuda.cudnn_sdp_enabled()
        and not torch.are_deterministic_algorithms_enabled()
        and min(lengths) > 1
        and max(query.shape[:2]) <= MOST
        and (all(n % TILE == 0 for n in lengths) or (cudnn_version() or 0) > ANY_LENGTH)
    )


def padded(x: TensorType) -> int:
    """Bytes that cuDNN takes at least for an image without 16 bytes of channels, or a multiple,
    which its kernels for tensor cores read at once: it copies the image. On an H200 those were 24
    bytes for each place of three channels in float32."""
    channels = x.shape[1] * x.dtype.itemsize
    return x.numel // max(x.shape[1], 1) * max(2 * channels, 16) if channels % 16 else 0


class CudnnConvolution(Op):
    """Convolution of x (N, C, H, W) with weight (O, C, H, W), without a bias; channels last."""

    stride: Sizes
    padding: Sizes
    dilation: Sizes

    def infer(self, x: TensorType, weight: TensorType) -> TensorType:
        found = Convolution(self.stride, self.padding, self.dilation).infer(x, weight)
        return found.with_strides(channels_last(found.shape))

    def scratch(self, x: TensorType, weight: TensorType) -> int:
        return padded(x)

    def run(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if not x.is_cuda:
            return by_parts(x, weight, None, self.stride, self.padding, self.dilation)
        cudnn = torch.backends.cudnn
        return torch.cudnn_convolution(
            x, weight, self.padding, self.stride, self.dilation, 1,
            cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32,
        )  # fmt: skip


class CudnnConvolutionRelu(Op):
    """relu(convolution + bias), or relu(convolution + bias + residual) with a fourth operand.

    The sum is done in float32 and rounded once, behind the relu.
    """

    stride: Sizes
    padding: Sizes
    dilation: Sizes

    def infer(
        self,
        x: TensorType,
        weight: TensorType,
        bias: TensorType,
        residual: TensorType | None = None,
    ) -> TensorType:
        found = Convolution(self.stride, self.padding, self.dilation).infer(x, weight, bias)
        if residual is not None and residual.shape != found.shape:
            raise ShapeError(
                "cudnn_convolution_relu: the residual has another shape than the result",
                {"result": found, "residual": residual},
            )
        return found.with_strides(channels_last(found.shape))

    def scratch(self, x: TensorType, *others: TensorType) -> int:
        return padded(x)

    def run(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if not x.is_cuda:
            y = by_parts(x, weight, bias, self.stride, self.padding, self.dilation)
            return torch.relu(y if residual is None else y + residual)
        bias = bias.contiguous()  # torch's cache of plans does not know its strides
        if residual is None:
            return torch.cudnn_convolution_relu(
                x, weight, bias, self.stride, self.padding, self.dilation, 1
            )
        return torch.cudnn_convolution_add_relu(
            x, weight, residual, 1.0, bias, self.stride, self.padding, self.dilation, 1
        )


def by_parts(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
) -> torch.Tensor:
    """The convolution by torch, channels last."""
    y = torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation)
    return y.contiguous(memory_format=torch.channels_last)
