"""Pooling and resizing as torch's overloads name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lazytorch.frontend.aten.conv import Sizes, sizes
from lazytorch.frontend.aten.reduce import both
from lazytorch.frontend.imports import Importer, imports
from lazytorch.ir import Builder, Node, Operand
from lazytorch.ops.aten import Aten
from lazytorch.ops.conv import suggested
from lazytorch.ops.pool import AdaptiveAvgPool, AvgPool, MaxPool, MaxPoolIndices
from lazytorch.types import TensorType


def max_pool(
    kind: type[MaxPool] | type[MaxPoolIndices],
    count: int,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
) -> MaxPool | MaxPoolIndices:
    """The operation; no stride means the kernel's size."""
    kernel = sizes(kernel_size, count)
    return kind(
        kernel,
        sizes(stride, count) or kernel,
        sizes(padding, count),
        sizes(dilation, count),
        ceil_mode,
    )


@imports("max_pool1d")
def max_pool1d(
    b: Builder,
    self: Node,
    kernel_size: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Node:
    return b(max_pool(MaxPool, 1, kernel_size, stride, padding, dilation, ceil_mode), self)


@imports("max_pool2d")
def max_pool2d(
    b: Builder,
    self: Node,
    kernel_size: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Node:
    return b(max_pool(MaxPool, 2, kernel_size, stride, padding, dilation, ceil_mode), self)


@imports("max_pool3d")
def max_pool3d(
    b: Builder,
    self: Node,
    kernel_size: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Node:
    return b(max_pool(MaxPool, 3, kernel_size, stride, padding, dilation, ceil_mode), self)


@imports("max_pool2d_with_indices")
def max_pool2d_with_indices(
    b: Builder,
    self: Node,
    kernel_size: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> tuple[Node, Node]:
    op = max_pool(MaxPoolIndices, 2, kernel_size, stride, padding, dilation, ceil_mode)
    return both(b, b(op, self))


def avg_pool(
    count: int,
    kernel_size: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None = None,
) -> AvgPool:
    """The operation; no stride means the kernel's size."""
    kernel = sizes(kernel_size, count)
    return AvgPool(
        kernel,
        sizes(stride, count) or kernel,
        sizes(padding, count),
        ceil_mode,
        count_include_pad,
        divisor,
    )


@imports("avg_pool1d")
def avg_pool1d(
    b: Builder,
    self: Node,
    kernel_size: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Node:
    return b(avg_pool(1, kernel_size, stride, padding, ceil_mode, count_include_pad), self)


@imports("avg_pool2d")
def avg_pool2d(
    b: Builder,
    self: Node,
    kernel_size: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Node:
    op = avg_pool(2, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return b(op, self)


@imports("avg_pool3d")
def avg_pool3d(
    b: Builder,
    self: Node,
    kernel_size: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Node:
    op = avg_pool(3, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return b(op, self)


@imports("adaptive_avg_pool1d")
def adaptive_avg_pool1d(b: Builder, self: Node, output_size: Sequence[int]) -> Node:
    return b(AdaptiveAvgPool(sizes(output_size, 1)), self)


@imports("adaptive_avg_pool2d")
def adaptive_avg_pool2d(b: Builder, self: Node, output_size: Sequence[int]) -> Node:
    return b(AdaptiveAvgPool(sizes(output_size, 2)), self)


def resize(overload: str) -> Importer:
    """The importer of an image resize, kept as `Aten`, typed here.

    torch's fake kernel takes a channels-last image of one channel for a row-major one.
    """

    def importer(
        b: Builder, self: Node, output_size: Sequence[int], *more: Any, **named: Any
    ) -> Node:
        x = self.type
        assert isinstance(x, TensorType)
        given = (*output_size, *more, *named.values())
        if x.rank != 4 or not x.numel or any(isinstance(value, Node) for value in given):
            return NotImplemented
        if min(output_size) < 1:
            return NotImplemented
        observed = suggested(x, (*x.shape[:2], *output_size))
        arguments = (Operand(0), tuple(output_size), *more)
        return b(Aten(f"aten.{overload}.default", arguments, tuple(named.items()), observed), self)

    return importer


for name in (
    "upsample_nearest2d",
    "_upsample_nearest_exact2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
):
    imports(name)(resize(name))
