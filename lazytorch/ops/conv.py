"""Convolutions, and the channels-last rule that pooling and normalization share."""

from __future__ import annotations

from math import prod
from typing import ClassVar

import torch

from lazytorch.errors import ShapeError
from lazytorch.ir import Op
from lazytorch.ops.checks import check_alike
from lazytorch.types import Shape, Strides, TensorType

Sizes = tuple[int, ...]


def channels_last(shape: Shape) -> Strides:
    """Dense strides with the channels, dimension 1, innermost; torch lets sizes of 0 count here."""
    strides = [1] * len(shape)
    step = shape[1]
    for d in (*range(len(shape) - 1, 1, -1), 0):
        strides[d] = step
        step *= shape[d]
    return tuple(strides)


def suggests_channels_last(x: TensorType) -> bool:
    """Whether torch takes a 4-d or 5-d tensor for channels last (`suggest_memory_format`).

    Strides that also read as row-major are row-major. Source: c10/core/MemoryFormat.h.
    """
    if x.rank not in (4, 5) or x.strides[1] == 0:
        return False
    least = 0
    for d in (1, *range(x.rank - 1, 1, -1), 0):
        if not x.shape[d] or x.strides[d] < least or (d == 0 and least == x.strides[1]):
            return False
        least = x.strides[d] * max(x.shape[d], 1)
    return True


def suggested(x: TensorType, shape: Shape) -> TensorType:
    """A fresh tensor of that shape in the format that `x` suggests."""
    typed = x.with_shape(shape)
    return typed.with_strides(channels_last(shape)) if suggests_channels_last(x) else typed


def inserted(x: TensorType, dim: int) -> TensorType:
    """`x.unsqueeze(dim)`."""
    stride = x.shape[dim] * x.strides[dim] if dim < x.rank else 1
    return TensorType(
        (*x.shape[:dim], 1, *x.shape[dim:]),
        x.dtype,
        x.device,
        (*x.strides[:dim], stride, *x.strides[dim:]),
    )


def removed(x: TensorType, dim: int) -> TensorType:
    """`x.squeeze(dim)` for a dimension of size 1."""
    return TensorType(
        x.shape[:dim] + x.shape[dim + 1 :],
        x.dtype,
        x.device,
        x.strides[:dim] + x.strides[dim + 1 :],
    )


def settled(weight: torch.Tensor) -> torch.Tensor:
    """A weight that lies channels last with the strides that say so, where sizes of 1 leave them
    open: oneDNN reads one of several groups wrongly otherwise."""
    if weight.is_contiguous() or not is_channels_last(weight):
        return weight
    strides = channels_last(tuple(weight.shape))
    return weight if weight.stride() == strides else weight.as_strided(weight.shape, strides)


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether images or a weight of theirs lie channels last."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


class KernelConvolution(Op, abstract=True):
    """A convolution as a generated kernel computes it, channels last, with what is elementwise
    around it."""

    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16)
    """What such a kernel reads and writes."""


class Convolution(Op):
    """Cross-correlation of x (N, C, ...), or (C, ...), with weight (O, C / groups, ...).

    Transposed: weight is (C, O / groups, ...). A third operand is the bias (O). The sizes have one
    entry per spatial dimension.
    """

    stride: Sizes
    padding: Sizes
    dilation: Sizes
    transposed: bool = False
    output_padding: Sizes = ()
    groups: int = 1

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        spatial = weight.rank - 2
        if x.rank == spatial + 1:
            return removed(self.batched(inserted(x, 0), weight, bias), 0)
        return self.batched(x, weight, bias)

    def batched(self, x: TensorType, weight: TensorType, bias: TensorType | None) -> TensorType:
        """The type for an input that has a batch dimension."""
        self.check(x, weight)
        spatial = self.spatial(x, weight)
        channels = weight.shape[1] * self.groups if self.transposed else weight.shape[0]
        operands = {"input": x, "weight": weight} | ({} if bias is None else {"bias": bias})
        check_alike(self, *operands.values())
        if bias is not None and bias.shape != (channels,):
            raise ShapeError(f"convolution: bias needs {channels} elements", operands)
        if min(spatial) < (0 if self.transposed else 1):
            raise ShapeError("convolution: the kernel is larger than the padded input", operands)
        shape = (x.shape[0], channels, *spatial)
        typed = x.with_shape(shape)
        if x.rank == 3:  # torch computes it as a convolution of height 1, from a row-major input
            if self.keeps_channels_last(
                inserted(typed.with_shape(x.shape), 2), inserted(weight, 2)
            ):
                image = (*shape[:2], 1, shape[2])
                return removed(typed.with_shape(image).with_strides(channels_last(image)), 2)
            return typed
        if self.keeps_channels_last(x, weight):
            return typed.with_strides(channels_last(shape))
        return typed

    def keeps_channels_last(self, x: TensorType, weight: TensorType) -> bool:
        """torch's rule: channels last in, or a channels-last weight, gives channels last out."""
        found = suggests_channels_last(x) or suggests_channels_last(weight)
        return (
            found
            and x.numel > 0
            and (x.rank == 4 or x.device.type != "cpu" or self.by_onednn(x, weight))
        )

    def by_onednn(self, x: TensorType, weight: TensorType) -> bool:
        """Whether oneDNN computes it on the CPU; in 3-d torch's own kernel is row-major only.

        Source: ATen/native/Convolution.cpp, `use_mkldnn`, on a processor with 16-bit support.
        """
        if self.transposed and any(
            extra >= stride for extra, stride in zip(self.output_padding, self.stride, strict=True)
        ):
            return False
        if x.dtype in (torch.bfloat16, torch.float16):
            return True
        worth = (
            max(*self.stride, *self.dilation) > 1
            or x.shape[0] >= 16
            or weight.shape[-2:] != (1, 1)
            or torch.get_num_threads() > 1
        )
        return (x.dtype is torch.float32 and worth) and (
            self.groups > 1
            or x.shape[0] > 1
            or min(weight.shape[-2:]) > 3
            or prod(x.shape[:4]) > 20480
        )

    def check(self, x: TensorType, weight: TensorType) -> None:
        """ShapeError, in the user's terms, unless the sizes fit each other."""
        operands = {"input": x, "weight": weight}
        spatial = weight.rank - 2
        sizes = (self.stride, self.padding, self.dilation)
        if spatial < 1 or x.rank != weight.rank or any(len(s) != spatial for s in sizes):
            message = f"expected an input of {weight.rank - 1} or {weight.rank} dimensions"
            raise ShapeError(f"convolution: {message}, got {x.rank}", operands)
        if min(self.stride) < 1 or min(self.dilation) < 1 or min(self.padding) < 0:
            raise ShapeError("convolution: stride, padding or dilation is out of range", operands)
        expected = weight.shape[0] if self.transposed else weight.shape[1] * self.groups
        if x.shape[1] != expected:
            message = f"input has {x.shape[1]} channels, weight expects {expected}"
            raise ShapeError(f"convolution: {message}", operands)
        if self.groups < 1 or weight.shape[0] % self.groups:
            message = f"{weight.shape[0]} is not divisible into {self.groups} groups"
            raise ShapeError(f"convolution: {message}", operands)

    def spatial(self, x: TensorType, weight: TensorType) -> Shape:
        """Spatial sizes of the result."""
        if self.transposed:
            return tuple(
                (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
                for size, kernel, stride, padding, dilation, extra in zip(
                    x.shape[2:],
                    weight.shape[2:],
                    self.stride,
                    self.padding,
                    self.dilation,
                    self.output_padding,
                    strict=True,
                )
            )
        return tuple(
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                x.shape[2:], weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
            )
        )

    def run(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        batched = x.dim() == weight.dim()
        result = torch.convolution(
            x if batched else x.unsqueeze(0),
            settled(weight) if self.groups > 1 and is_channels_last(x) else weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding or (0,) * len(self.stride),
            self.groups,
        )
        return result if batched else result.squeeze(0)
