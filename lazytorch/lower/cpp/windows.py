"""Sums of convolutions of each channel, in C++: a piece is one row of the result."""

from __future__ import annotations

from collections.abc import Sequence

from lazytorch.lower.cpp.around import Around
from lazytorch.ops.depthwise import DepthwiseConvolution

COUNTS = (8, 4, 1)
"""How many neighbouring results are computed together: the most that a row has."""

NUMBERS = 6
"""Numbers that describe a convolution: `Windows` in windows.h, without the channels."""


class WindowRows:
    """Rows of a result (N, C, H, W), by the functions in windows.h."""

    def arguments(self, group: Around) -> list[int]:
        """As a Form's: its own numbers are sizes, and `NUMBERS` for each convolution."""
        images, channels, height, width = group.shape
        numbers: list[int] = []
        products = 0
        for node, given in zip(group.convolutions, group.given, strict=True):
            op, image, taps = node.op, group.operands[given[0]], group.operands[given[1]]
            assert isinstance(op, DepthwiseConvolution)
            numbers += [*image.shape[2:], height, width, *op.padding]
            products += taps.numel * width
        return [images * height, products, channels, height, width, *numbers]

    def head(self, group: Around) -> list[str]:
        """As a Form's."""
        lines = ["const int64_t height = n[3], width = n[4];"]
        for i in range(len(group.convolutions)):
            numbers = ", ".join([f"n[{5 + NUMBERS * i + k}]" for k in range(NUMBERS)])
            lines.append(f"const lt::Windows s{i}{{{numbers}, channels}};")
        return lines

    def piece(self) -> list[str]:
        """As a Form's."""
        return [
            "const int64_t image = r / height, line = r % height;",
            "const int64_t first = r * width, pixels = width;",
        ]

    def call(self, group: Around, i: int) -> str:
        """As a Form's, by one call."""
        op, taps = group.convolutions[i].op, group.operands[group.given[i][1]]
        assert isinstance(op, DepthwiseConvolution)
        count = next(n for n in COUNTS if group.shape[3] >= n)
        sizes = [count, *taps.shape[:2], *op.stride, *op.dilation]
        arguments = ", ".join([*group.pointers(i), f"b{i}", "r", "c0", "c1", f"s{i}"])
        return f"lt::depthwise<{', '.join(map(str, sizes))}>({arguments});"

    def place(self, strides: Sequence[str]) -> str:
        """As a Form's."""
        return f"image * {strides[0]} + line * {strides[2]} + q * {strides[3]}"
