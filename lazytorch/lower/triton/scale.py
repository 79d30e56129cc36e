"""The launch shapes of a Triton kernel: the one that its walk takes, and a few around it.

Which is fastest depends on the device and on what is computed, so the walk's own choice is a rule
of thumb, and the others are there to be measured.
"""

from __future__ import annotations

from typing import NamedTuple


class Scale(NamedTuple):
    """Powers of two by which a walk's warps, and the elements of one program, are multiplied."""

    warps: int = 0
    size: int = 0

    def warps_of(self, own: int) -> int:
        """Warps of one program, where the walk's own choice is `own`."""
        return min(max(shifted(own, self.warps), 1), max(own, MOST))

    def size_of(self, own: int, most: int | None = None) -> int:
        """Elements or rows of one program, where the walk's own choice is `own`; it grows up to
        `most`."""
        found = max(shifted(own, self.size), 1)
        return own if most is not None and found > max(own, most) else found


def shifted(number: int, by: int) -> int:
    """A whole number times a power of two."""
    return number << by if by >= 0 else number >> -by


MOST = 16
"""Warps up to which a program grows."""

OWN = Scale()

VARIANTS = (OWN, Scale(warps=-1), Scale(warps=1), Scale(size=-1), Scale(size=1))
"""By number of variant."""
