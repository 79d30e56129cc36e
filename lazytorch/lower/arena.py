"""The arena of a program that becomes a CUDA graph: one piece of memory for all that it allocates.

A graph's allocations come from a pool that is its own, where pieces asked of the driver one after
the other fit what follows badly. So one piece is asked for first and given back at once: torch's
allocator, which takes the smallest free piece that is large enough, then cuts everything from it,
a library's results and workspaces too. What it makes of a program's blocks is known
(`lower.caching`), and so is how large that piece has to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lazytorch.lower.caching import OWN_SEGMENT, ROUND, SMALL, SMALL_SEGMENT, CachingAllocator
from lazytorch.lower.timeline import Block

Span = tuple[int, int, int]
"""A block: its bytes, the line that allocates it, and the line after which it is given back."""

PART = 1024
"""Of the largest sum of blocks: the steps in which an arena grows until all of them fit."""

MOST = PART // 4
"""Steps that are worth it: an allocator that is left alone wastes about as much."""

SPARE = 256
"""Of an arena, the part for what a plan does not know: workspaces where little else is alive."""


def spans(blocks: Iterable[Block]) -> list[Span]:
    """What a recording allocates of a program's blocks: it asks for nothing beforehand."""
    return [
        (x.nbytes, x.born, x.died)
        for x in blocks
        if x.nbytes and x.kind != "reserve" and x.device.type == "cuda"
    ]


def arena(blocks: Sequence[Span]) -> int:
    """Bytes of the piece to ask for before blocks are allocated in this order; 0 where they are few
    enough for one of the allocator's usual pieces, or would hardly fit in one."""
    large = [x for x in blocks if rounded(x[0]) > SMALL]
    least = highest(large)
    if least < OWN_SEGMENT:
        return 0
    low, high = -1, 0  # steps: too few, and enough
    while not fitting(grown(least, high), large):
        low, high = high, max(1, 2 * high)
        if high > MOST:
            return 0
    while high - low > 1:
        middle = (low + high) // 2
        if fitting(grown(least, middle), large):
            high = middle
        else:
            low = middle
    size = grown(least, high)
    return whole(size + size // SPARE)


def grown(least: int, steps: int) -> int:
    """An arena so many steps larger than the least."""
    return least + least * steps // PART


def reserved(blocks: Sequence[Span]) -> int:
    """Bytes that a graph's pool takes of the device for these blocks, its arena included."""
    allocator = CachingAllocator()
    allocator.allocate(ROUND)  # what keeps the pool
    if size := arena(blocks):
        allocator.release(allocator.allocate(size))
    allocator.through(blocks)
    return allocator.reserved


def highest(blocks: Sequence[Span]) -> int:
    """The largest sum of blocks that are there at once."""
    change: dict[int, int] = {}
    for nbytes, born, died in blocks:
        size = rounded(nbytes)
        change[2 * born] = change.get(2 * born, 0) + size
        change[2 * died + 1] = change.get(2 * died + 1, 0) - size
    now = most = 0
    for at in sorted(change):
        now += change[at]
        most = max(most, now)
    return most


def fitting(size: int, blocks: Sequence[Span]) -> bool:
    """Whether an arena of that size takes all blocks."""
    allocator = CachingAllocator()
    allocator.release(allocator.allocate(whole(size)))
    before = allocator.reserved
    allocator.through(blocks)
    return allocator.reserved == before


def rounded(nbytes: int) -> int:
    """Bytes as the allocator counts them."""
    return -(-nbytes // ROUND) * ROUND


def whole(size: int) -> int:
    """A size as the allocator asks the driver for it."""
    return -(-size // SMALL_SEGMENT) * SMALL_SEGMENT
