"""How long rows must be for every one to begin on a boundary, as fast matrix products want it."""

from __future__ import annotations

from lazytorch.types import TensorType

BOUNDARY = 16  # bytes
TILE = 64
"""Columns that a kernel computes at once, at least: long rows are filled up to whole tiles."""
MANY = 1024


def missing(length: int, x: TensorType) -> int:
    """How many elements of the dtype of `x` a row of `length` lacks; 0 where it is aligned."""
    step = BOUNDARY // x.dtype.itemsize
    if length % step == 0:
        return 0
    return -length % (TILE if length >= MANY else step)
