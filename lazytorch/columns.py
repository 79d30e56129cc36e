"""Columns of a tensor in parts: few long rows that lie beside each other, summed by many programs.

Each part's sums are one program's work; the parts' sums are rows beside each other again.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache

import torch

from lazytorch.errors import Where
from lazytorch.ir import Builder, Node
from lazytorch.ops.layout import Permute, Reshape, view_strides
from lazytorch.ops.pointwise import Cast
from lazytorch.types import Shape, Strides, TensorType

WIDTH = 512
"""Bytes across the rows that one program sums."""

PROGRAMS = 256
"""Programs that keep a GPU's processors busy."""

LEAST = 16
"""Elements of the shortest part."""

STEP = 32
"""Elements of a part that a program loads at a time."""

LONGEST = 1024
"""Elements of the longest part, where programs are few."""


@lru_cache(maxsize=1024)
def parts_of(lead: int, size: int, itemsize: int) -> int:
    """Into how many equal parts `lead` rows of `size` elements beside each other are divided.

    As many as keep all processors busy, or as there can be; of no more than twice as many rather
    those that are whole steps of a program. 1 where rows are many, 0 where they cannot be divided
    into enough.
    """
    programs = -(-lead * itemsize // WIDTH)
    small = [n for n in range(1, math.isqrt(size) + 1) if size % n == 0]
    fits = [n for n in (*small, *[size // n for n in reversed(small)]) if size // n >= LEAST]
    busy = [n for n in fits if n * programs >= PROGRAMS]
    if not busy:
        found = fits[-1] if fits else 1
        return 0 if size // found > LONGEST else found
    even = [n for n in busy if n <= 2 * busy[0] and size // n % STEP == 0]
    return (even or busy)[0]


def split(b: Builder, rows: Node, parts: int) -> Node:
    """Rows (..., size) as (parts, ..., size // parts)."""
    assert isinstance(rows.type, TensorType)
    *lead, size = rows.type.shape
    rank = len(lead)
    return b(
        Permute((rank, *range(rank), rank + 1)),
        b(Reshape((*lead, parts, size // parts)), rows),
    )


def joined(b: Builder, sums: Node) -> Node:
    """What was made of each part, (parts, ..., 1), as rows (..., parts)."""
    assert isinstance(sums.type, TensorType)
    parts, *lead, _ = sums.type.shape
    return b(Permute((*range(1, len(lead) + 1), 0)), b(Reshape((parts, *lead)), sums))


def columns_of(x: Node, dtypes: Container[torch.dtype], where: Where | None) -> Columns | None:
    """The columns of an image on a GPU; None where its channels do not lie innermost, and where its
    elements cannot be divided into enough equal parts."""
    t = x.type
    assert isinstance(t, TensorType)
    if t.device.type != "cuda" or t.dtype not in dtypes or not t.numel:
        return None
    channels, size = t.shape[1], t.numel // t.shape[1]
    steps = steps_of(t)
    if steps is None or steps[0] != 1:
        return None
    parts = parts_of(channels, size, t.dtype.itemsize)
    return Columns(Builder(where), t.shape, size, parts) if parts else None


def steps_of(t: TensorType) -> Strides | None:
    """The strides of an image (N, C, ...) as (C, N * ...); None where no view shows it so."""
    turned = (1, 0, *range(2, t.rank))
    shape, strides = (tuple([y[d] for d in turned]) for y in (t.shape, t.strides))
    return view_strides(shape, strides, (t.shape[1], t.numel // t.shape[1]))


@dataclass(frozen=True)
class Columns:
    """The columns of an image of `shape` (N, C, ...), of `size` elements each, in equal parts."""

    b: Builder
    shape: Shape
    size: int
    parts: int

    def of(self, x: Node) -> Node:
        """An image as (parts, C, elements of a part)."""
        turned = self.b(Permute((1, 0, *range(2, len(self.shape)))), x)
        return split(self.b, self.b(Reshape((self.shape[1], self.size)), turned), self.parts)

    def joined(self, sums: Node) -> Node:
        """What was made of each part as (C, parts)."""
        return joined(self.b, sums)

    def fits(self, x: Node) -> bool:
        """Whether a value has the image's shape and lies as the image does."""
        t = x.type
        assert isinstance(t, TensorType)
        return t.shape == self.shape and steps_of(t) is not None

    def tall(self, x: Node) -> Node:
        """One number for each channel as (C, 1)."""
        return self.b(Reshape((self.shape[1], 1)), x)

    def beside(self, x: Node) -> Node:
        """One number for each channel, to be read with every element of an image."""
        return self.b(Reshape((self.shape[1], *(1,) * (len(self.shape) - 2))), x)

    def flat(self, x: Node, like: Node) -> Node:
        """One number for each channel as (C,), in another value's dtype."""
        return self.like(self.b(Reshape(self.shape[1:2]), x), like)

    def like(self, x: Node, other: Node) -> Node:
        """A value in another's dtype."""
        assert isinstance(other.type, TensorType)
        return self.cast(x, other.type.dtype)

    def wide(self, x: Node) -> Node:
        """A value in float32."""
        return self.cast(x, torch.float32)

    def cast(self, x: Node, dtype: torch.dtype) -> Node:
        """A value in a dtype."""
        assert isinstance(x.type, TensorType)
        return x if x.type.dtype is dtype else self.b(Cast(dtype), x)
