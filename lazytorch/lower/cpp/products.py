"""Sums of convolutions of single pixels, in C++: a piece is some pixels of all images."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from lazytorch.lower.cpp.around import Around
from lazytorch.ops.pixel_products import TOGETHER

PIXELS = 4 * TOGETHER
"""Pixels of a piece: what is read of them stays in the second-level cache while a part of the
weight goes by. The last piece may have up to `TOGETHER` more."""


class Pixels:
    """Pixels of a result (N, C, H, W), by the functions in products.h."""

    def arguments(self, group: Around) -> list[int]:
        """As a Form's: its own numbers are the pixels of all images and of one, their width, and
        the channels of what is read."""
        images, channels, height, width = group.shape
        count = images * height * width
        pieces = max(1, count // PIXELS + (count % PIXELS >= TOGETHER))
        inner = [group.operands[given[0]].shape[1] for given in group.given]
        products = PIXELS * channels * sum(inner)
        return [pieces, products, channels, count, height * width, width, *inner]

    def head(self, group: Around) -> list[str]:
        """As a Form's."""
        lines = ["const int64_t pieces = n[0], all = n[3], size = n[4], width = n[5];"]
        for i in range(len(group.convolutions)):
            lines.append(f"const int64_t inner{i} = n[{6 + i}];")
        return lines

    def piece(self) -> list[str]:
        """As a Form's."""
        return [
            f"const int64_t first = r * {PIXELS};",
            f"const int64_t pixels = r + 1 == pieces ? all - first : {PIXELS};",
        ]

    def call(self, group: Around, i: int) -> str:
        """As a Form's, by one call."""
        image, weight, bias = group.pointers(i)
        together = min(TOGETHER, prod(group.shape) // group.shape[1])
        sums = f"{bias}, b{i}, pixels, c0, c1, inner{i}, channels"
        return f"lt::products<{together}>({image} + first * inner{i}, {weight}, {sums});"

    def place(self, strides: Sequence[str]) -> str:
        """As a Form's."""
        image, line = "(first + q) / size", "(first + q) % size / width"
        column = "(first + q) % width"
        return f"{image} * {strides[0]} + {line} * {strides[2]} + {column} * {strides[3]}"
