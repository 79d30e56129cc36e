"""Pooling over windows; a channels-last input gives a channels-last result."""

from __future__ import annotations

import math
from functools import reduce
from itertools import product

import torch
from torch.nn import functional

from lazytorch.errors import ShapeError
from lazytorch.ir import Op
from lazytorch.ops.affine import Affine, Place
from lazytorch.ops.conv import channels_last, suggested, suggests_channels_last
from lazytorch.ops.emitter import Emitter, Value
from lazytorch.types import Shape, Strides, TensorType, TupleType

Sizes = tuple[int, ...]

MOST = 32
"""Elements of the largest window that a generated kernel writes out."""


def pooled_shape(op: Op, x: TensorType, sizes: tuple[int, ...]) -> Shape:
    """The shape of `x` with its last dimensions replaced by `sizes`."""
    if x.rank not in (len(sizes) + 1, len(sizes) + 2):
        raise ShapeError(
            f"{op.name()}: expected an input of {len(sizes) + 1} or {len(sizes) + 2} dimensions, "
            f"got {x.rank}",
            {"input": x},
        )
    if sizes and min(sizes) < 1:
        raise ShapeError(f"{op.name()}: the result would be of size {sizes}", {"input": x})
    return (*x.shape[: -len(sizes)], *sizes)


def window_count(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> int:
    """How many windows fit; with `ceil_mode` the last may hang over, but must start inside."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count


class Windows(Affine, abstract=True):
    """What pooling over windows of `kernel` at every `stride` has in common."""

    kernel: Sizes
    stride: Sizes
    padding: Sizes

    def places(self, *xs: TensorType) -> list[Place]:
        kept = xs[0].rank - len(self.kernel)
        scales = (1,) * kept + self.stride
        apart = getattr(self, "dilation", (1,) * len(self.kernel))
        return [
            Place(
                0,
                scales,
                (0,) * kept
                + tuple([i * d - p for i, d, p in zip(at, apart, self.padding, strict=True)]),
            )
            for at in product(*map(range, self.kernel))
        ]

    def readable(self, *xs: TensorType) -> bool:
        return math.prod(self.kernel) <= MOST

    def windows(self, x: TensorType, dilation: Sizes, ceil_mode: bool) -> Shape:
        """The shape of the result."""
        if min(self.stride) < 1 or min(self.kernel) < 1 or min(dilation) < 1:
            raise ShapeError(f"{self.name()}: kernel, stride or dilation is not positive")
        for kernel, padding in zip(self.kernel, self.padding, strict=True):
            if 2 * padding > kernel:
                raise ShapeError(
                    f"{self.name()}: pad should be at most half of effective kernel size, "
                    f"but got pad={padding}, kernel_size={kernel}"
                )
        spatial = x.shape[-len(self.kernel) :]
        if len(spatial) < len(self.kernel):
            raise ShapeError(f"{self.name()}: too few dimensions", {"input": x})
        return pooled_shape(
            self,
            x,
            tuple(
                window_count(*sizes, ceil_mode)
                for sizes in zip(
                    spatial, self.kernel, self.stride, self.padding, dilation, strict=True
                )
            ),
        )


class MaxPool(Windows):
    """Largest element of each window, in 1, 2 or 3 dimensions."""

    dilation: Sizes
    ceil_mode: bool = False

    @property
    def fill(self) -> float:
        return -math.inf

    def saving(self, *xs: TensorType) -> Op | None:
        if len(self.kernel) != 2:
            return None
        return MaxPoolIndices(self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

    def emit(self, s: Emitter, *found: tuple[Value, Value]) -> Value:
        return reduce(s.maximum, [x for x, _ in found])

    def readable(self, *xs: TensorType) -> bool:
        return super().readable(*xs) and xs[0].dtype.is_floating_point

    def infer(self, x: TensorType) -> TensorType:
        return suggested(x, self.windows(x, self.dilation, self.ceil_mode))

    def scratch(self, x: TensorType) -> int:
        if len(self.kernel) == 1:
            return 0
        return self.infer(x).with_dtype(torch.int64).nbytes  # the indices, which torch makes too

    def run(self, x: torch.Tensor) -> torch.Tensor:
        pool = (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)[len(self.kernel) - 1]
        return pool(x, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)


class MaxPoolIndices(Windows):
    """Largest element of each window, and its index in the flattened image (2-d)."""

    dilation: Sizes
    ceil_mode: bool = False

    def infer(self, x: TensorType) -> TupleType:
        values = suggested(x, self.windows(x, self.dilation, self.ceil_mode))
        return TupleType((values, values.with_dtype(torch.int64)))

    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.ops.aten.max_pool2d_with_indices(
            x, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class MaxPoolOffsets(Windows):
    """Which element of its window is the largest, counted row by row (2-d), as a number of the
    input's dtype: of equal ones the first, the last NaN; the first inside the image where none is
    larger than -inf. So does `MaxPoolIndices`, whose indices follow from it."""

    dilation: Sizes
    ceil_mode: bool = False

    @property
    def fill(self) -> float:
        return -math.inf

    def readable(self, *xs: TensorType) -> bool:
        return super().readable(*xs) and xs[0].dtype.is_floating_point and len(self.places(*xs)) > 1

    def emit(self, s: Emitter, *found: tuple[Value, Value]) -> Value:
        at: Value = float(len(found) - 1)
        for k in range(len(found) - 2, -1, -1):
            inside = found[k][1]
            at = float(k) if inside is True else s.where(inside, float(k), at)
        best = found[0][0]
        for k, (x, _) in enumerate(found[1:], 1):
            larger = s.logical_or(s.gt(x, best), s.isnan(x))
            at, best = s.where(larger, float(k), at), s.where(larger, x, best)
        return at

    def infer(self, x: TensorType) -> TensorType:
        return suggested(x, self.windows(x, self.dilation, self.ceil_mode))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        width = x.shape[-1]
        where = (self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)
        index = torch.ops.aten.max_pool2d_with_indices(x, *where)[1]
        begin = [
            torch.arange(n, device=x.device) * step - before
            for n, step, before in zip(index.shape[-2:], self.stride, self.padding, strict=True)
        ]
        row = (index // width - begin[0][:, None]) // self.dilation[0]
        column = (index % width - begin[1]) // self.dilation[1]
        return (row * self.kernel[1] + column).to(x.dtype)


class AvgPool(Windows):
    """Mean of each window, in 1, 2 or 3 dimensions."""

    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None

    @property
    def fill(self) -> float:
        return 0.0

    def readable(self, *xs: TensorType) -> bool:
        """Not where a window counts less than its size although what hangs over is counted."""
        spatial = xs[0].shape[xs[0].rank - len(self.kernel) :]
        over = self.ceil_mode and self.count_include_pad and self.divisor is None
        known = all(
            (count - 1) * stride + kernel <= size + 2 * padding
            for count, size, kernel, stride, padding in zip(
                self.infer(xs[0]).shape[-len(self.kernel) :],
                spatial, self.kernel, self.stride, self.padding, strict=True,
            )
        )  # fmt: skip
        return super().readable(*xs) and xs[0].dtype.is_floating_point and (known or not over)

    def emit(self, s: Emitter, *found: tuple[Value, Value]) -> Value:
        total = reduce(s.add, [x for x, _ in found])
        if self.divisor is not None or self.count_include_pad:
            return total / (self.divisor or math.prod(self.kernel))
        always = sum(inside is True for _, inside in found)
        ones = [s.where(inside, 1.0, 0.0) for _, inside in found if inside is not True]
        return total / reduce(s.add, ones, always) if ones else total / always

    def infer(self, x: TensorType) -> TensorType:
        shape = self.windows(x, (1,) * len(self.kernel), self.ceil_mode)
        return x.with_shape(shape) if len(self.kernel) == 3 else suggested(x, shape)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        arguments = (self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        if len(self.kernel) == 1:
            return torch.avg_pool1d(x, *arguments)
        pool = functional.avg_pool2d if len(self.kernel) == 2 else functional.avg_pool3d
        return pool(x, *arguments, self.divisor)


class AdaptiveAvgPool(Op):
    """Means of windows chosen so that the result has `size` (1-d or 2-d)."""

    size: Sizes

    def infer(self, x: TensorType) -> TensorType:
        shape = pooled_shape(self, x, self.size)
        return x.with_shape(shape).with_strides(self.strides(x, shape))

    def strides(self, x: TensorType, shape: Shape) -> Strides:
        """Channels last if the input is, also where one mean per channel is left."""
        if suggests_channels_last(x):
            return channels_last(shape)
        return x.with_shape(shape).strides

    def run(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.size) == 1:
            return torch.adaptive_avg_pool1d(x, self.size)
        height, width = self.size
        return functional.adaptive_avg_pool2d(x, (height, width))
