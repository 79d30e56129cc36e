"""Convolutions as torch's overloads name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lazytorch.errors import ShapeError
from lazytorch.frontend.imports import imports
from lazytorch.ir import Builder, Node
from lazytorch.ops.conv import Convolution
from lazytorch.types import TensorType

Sizes = int | Sequence[int]


def sizes(value: Sizes, count: int) -> tuple[int, ...]:
    """One entry per spatial dimension: a number, or a list of one, stands for all of them."""
    if isinstance(value, int):
        return (value,) * count
    return tuple(value) * count if len(value) == 1 else tuple(value)


def spatial(weight: Node) -> int:
    """Number of spatial dimensions."""
    assert isinstance(weight.type, TensorType)
    return weight.type.rank - 2


def convolve(
    b: Builder,
    input: Node,
    weight: Node,
    bias: Node | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
    output_padding: Sizes | None = None,
) -> Node:
    """The operation; an output padding makes it a transposed one."""
    count = spatial(weight)
    op = Convolution(
        sizes(stride, count),
        sizes(padding, count),
        sizes(dilation, count),
        output_padding is not None,
        () if output_padding is None else sizes(output_padding, count),
        groups,
    )
    return b(op, input, weight, *(() if bias is None else (bias,)))


@imports("conv1d", "conv2d", "conv3d")
def conv(
    b: Builder,
    input: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Node:
    return convolve(b, input, weight, bias, stride, padding, dilation, groups)


@imports("conv1d.padding", "conv2d.padding", "conv3d.padding")
def conv_padding(
    b: Builder,
    input: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Sizes = 1,
    padding: str = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
) -> Node:
    count = spatial(weight)
    if padding == "valid":
        return convolve(b, input, weight, bias, stride, 0, dilation, groups)
    if padding != "same":
        raise ShapeError(f"Invalid padding string: '{padding}'")
    if any(s != 1 for s in sizes(stride, count)):
        raise ShapeError("padding='same' is not supported for strided convolutions")
    assert isinstance(weight.type, TensorType)
    total = [
        d * (k - 1) for d, k in zip(sizes(dilation, count), weight.type.shape[2:], strict=True)
    ]
    if any(t % 2 for t in total):  # torch pads one side more: a copy, then a smaller padding
        return NotImplemented
    return convolve(b, input, weight, bias, stride, [t // 2 for t in total], dilation, groups)


@imports("conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input")
def conv_transpose(
    b: Builder,
    input: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Node:
    return convolve(b, input, weight, bias, stride, padding, dilation, groups, output_padding)


@imports("convolution", "_convolution")
def convolution(
    b: Builder,
    input: Node,
    weight: Node,
    bias: Node | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
    *_: Any,
    **__: Any,
) -> Node:
    """The trailing flags of `_convolution` are global settings, read by `convolution` itself."""
    extra = output_padding if transposed else None
    return convolve(b, input, weight, bias, stride, padding, dilation, groups, extra)
