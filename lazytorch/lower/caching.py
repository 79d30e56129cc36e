"""What torch's caching allocator makes of a list of allocations on a GPU.

Sizes are rounded to 512 bytes. Up to 1 MiB is served from segments of 2 MiB, what is larger from
segments of 20 MiB or, from 10 MiB on, of its own size in steps of 2 MiB. The smallest free piece
that is large enough is taken, and split unless what is left is too small to be of use: that rest
then counts as allocated. Pieces that are freed join their free neighbours. Source:
c10/cuda/CUDACachingAllocator.cpp, with the settings that torch starts with.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

ROUND = 512
SMALL = 2**20
SMALL_SEGMENT = 2 * 2**20
LARGE_SEGMENT = 20 * 2**20
OWN_SEGMENT = 10 * 2**20


@dataclass(eq=False)
class Piece:
    """A part of a segment, with its neighbours there."""

    at: int
    size: int
    small: bool
    free: bool = True
    before: Piece | None = None
    behind: Piece | None = None


class CachingAllocator:
    """The allocator of one stream, which gives nothing back to the driver."""

    def __init__(self) -> None:
        self.free: dict[bool, list[tuple[int, int, Piece]]] = {True: [], False: []}
        self.reserved = 0

    def allocate(self, nbytes: int) -> Piece:
        """A piece for so many bytes; its `size` is what counts as allocated."""
        size = max(-(-nbytes // ROUND) * ROUND, ROUND)
        small = size <= SMALL
        free = self.free[small]
        i = bisect_left(free, size, key=lambda entry: entry[0])
        piece = free.pop(i)[2] if i < len(free) else self.segment(size, small)
        rest = piece.size - size
        if rest >= ROUND if small else rest > SMALL:
            other = Piece(piece.at + size, rest, small, True, piece, piece.behind)
            if piece.behind is not None:
                piece.behind.before = other
            piece.behind, piece.size = other, size
            self.give(other)
        piece.free = False
        return piece

    def segment(self, size: int, small: bool) -> Piece:
        """New memory from the driver."""
        if small:
            whole = SMALL_SEGMENT
        elif size < OWN_SEGMENT:
            whole = LARGE_SEGMENT
        else:
            whole = -(-size // SMALL_SEGMENT) * SMALL_SEGMENT
        piece = Piece(self.reserved, whole, small)
        self.reserved += whole
        return piece

    def release(self, piece: Piece) -> None:
        """Take a piece back and join it with its free neighbours."""
        before, behind = piece.before, piece.behind
        if before is not None and before.free:
            self.take(before)
            before.size += piece.size
            before.behind = behind
            if behind is not None:
                behind.before = before
            piece = before
        if behind is not None and behind.free:
            self.take(behind)
            piece.size += behind.size
            piece.behind = behind.behind
            if behind.behind is not None:
                behind.behind.before = piece
        self.give(piece)

    def give(self, piece: Piece) -> None:
        """A piece is free."""
        piece.free = True
        insort(self.free[piece.small], (piece.size, piece.at, piece), key=lambda x: x[:2])

    def take(self, piece: Piece) -> None:
        """A free piece is used otherwise."""
        free = self.free[piece.small]
        del free[bisect_left(free, (piece.size, piece.at), key=lambda x: x[:2])]

    def through(self, spans: Iterable[tuple[int, int, int]]) -> list[int]:
        """What counts as allocated for each of some blocks: their bytes, the lines that allocate
        them, which never go back, and the lines after which they are given back."""
        dying: dict[int, list[Piece]] = {}
        found: list[int] = []
        line = 0
        for nbytes, born, died in spans:
            for before in range(line, born):
                for piece in dying.pop(before, ()):
                    self.release(piece)
            line = born
            piece = self.allocate(nbytes)
            dying.setdefault(died, []).append(piece)
            found.append(piece.size)
        return found
