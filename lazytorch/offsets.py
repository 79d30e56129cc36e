"""Where blocks of memory lie in one arena, known from when each of them is alive.

Time is any count of steps: a block is alive from `first` until just before `last`. Two blocks that
are alive at once may not share a byte. Finding the lowest arena is NP-hard: `greedy` here is fast,
lazytorch/packing.py searches on from what it found.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

FAR = 1 << 60
"""An offset above all others: of what has no place yet."""

SEVERAL = 2000
"""Up to so many blocks every order is tried; more are placed by size alone, which costs the most
where blocks are many and is the best of the orders for most graphs."""


@dataclass(frozen=True, slots=True)
class Block:
    """`size` bytes alive at the times `first <= t < last`, at `offset` if that is stated."""

    size: int
    first: int
    last: int
    offset: int | None = None

    def __post_init__(self) -> None:
        if self.size < 0 or not self.first < self.last or (self.offset or 0) < 0:
            raise ValueError(f"no block of memory: {self}")


@dataclass(frozen=True)
class Layout:
    """An offset for each block, in the blocks' order."""

    blocks: tuple[Block, ...]
    offsets: tuple[int, ...]

    @cached_property
    def height(self) -> int:
        """Bytes of the arena."""
        both = zip(self.blocks, self.offsets, strict=True)
        return max((offset + block.size for block, offset in both), default=0)


def live(blocks: Sequence[Block]) -> int:
    """The most bytes alive at once: no arena is smaller, some must be larger."""
    change: dict[int, int] = {}
    for block in blocks:
        change[block.first] = change.get(block.first, 0) + block.size
        change[block.last] = change.get(block.last, 0) - block.size
    now = most = 0
    for time in sorted(change):
        now += change[time]
        most = max(most, now)
    return most


def clashes(layout: Layout, alignment: int = 1) -> Iterator[str]:
    """What is wrong with a layout, in words; nothing where every rule holds.

    It knows nothing of how layouts are found: it sweeps over time with the blocks that are alive in
    the order of their offsets, where each may only reach as far as the next begins.
    """
    both = list(zip(layout.blocks, layout.offsets, strict=True))
    for i, (block, offset) in enumerate(both):
        if block.offset is not None and offset != block.offset:
            yield f"block {i} lies at {offset}, and must lie at {block.offset}"
        elif offset < 0 or (offset % alignment and block.offset is None):
            yield f"block {i} lies at {offset}, which is no multiple of {alignment}"
    events = [(block.last, 0, i) for i, (block, _) in enumerate(both) if block.size]
    events += [(block.first, 1, i) for i, (block, _) in enumerate(both) if block.size]
    alive: list[tuple[int, int]] = []
    for _, begins, i in sorted(events):
        entry = both[i][1], i
        at = bisect_left(alive, entry)
        if not begins:
            del alive[at]
            continue
        for offset, j in alive[max(at - 1, 0) : at + 1]:
            low, high = sorted(((offset, j), entry))
            if low[0] + both[low[1]][0].size > high[0]:
                yield f"blocks {j} and {i} are alive at once and overlap"
        alive.insert(at, entry)


def greedy(blocks: Sequence[Block], alignment: int = 1) -> Layout:
    """Place one block after another, each as low as it fits; the lowest arena of a few orders.

    Offsets are multiples of `alignment`, except those that blocks state, which are kept. Ten
    thousand blocks take less than a second.
    """
    held = tuple(blocks)
    stated = tuple([x for x in held if x.offset is not None])
    for wrong in clashes(Layout(stated, tuple([x.offset or 0 for x in stated]))):
        raise ValueError(f"of the blocks that state an offset, {wrong}")
    placing = Placing(held, alignment)
    bound = live(held)
    best: Layout | None = None
    for order in orders(held) if len(held) <= SEVERAL else [by_size(held)]:
        found = Layout(held, placing.place(order))
        if best is None or found.height < best.height:
            best = found
        if best.height <= bound:
            break
    assert best is not None
    return best


def by_size(blocks: Sequence[Block]) -> list[int]:
    """The largest first, then the longest alive: what is small fits into what they leave."""
    return sorted(range(len(blocks)), key=lambda i: (-blocks[i].size, key_of_length(blocks[i])))


def orders(blocks: Sequence[Block]) -> Iterator[list[int]]:
    """The orders in which blocks are placed: by size, area, length of life, beginning and end."""
    yield by_size(blocks)
    numbers = range(len(blocks))
    yield sorted(numbers, key=lambda i: blocks[i].size * key_of_length(blocks[i]))
    yield sorted(numbers, key=lambda i: (key_of_length(blocks[i]), -blocks[i].size))
    yield sorted(numbers, key=lambda i: (blocks[i].first, -blocks[i].size))
    yield sorted(numbers, key=lambda i: (-blocks[i].last, -blocks[i].size))


def key_of_length(block: Block) -> int:
    """Sorts the longest alive first."""
    return block.first - block.last


class Placing:
    """Places blocks in any order. What is placed is kept sorted by offset, in arrays: a block
    meets all of it in a few vector operations, however many are alive beside it."""

    def __init__(self, blocks: tuple[Block, ...], alignment: int) -> None:
        self.blocks = blocks
        self.alignment = alignment
        self.fixed = [i for i, x in enumerate(blocks) if x.size and x.offset is not None]

    def place(self, order: Sequence[int]) -> tuple[int, ...]:
        """Every block's offset when they come in this order, those with a stated offset first."""
        count = len(self.blocks)
        self.placed = 0
        self.first, self.last, self.low, self.top = np.zeros((4, count), dtype=np.int64)
        offsets = [x.offset or 0 for x in self.blocks]
        for i in self.fixed:
            self.add(self.blocks[i], offsets[i])
        for i in order:
            block = self.blocks[i]
            if block.size and block.offset is None:
                offsets[i] = self.lowest(block)
                self.add(block, offsets[i])
        return tuple(offsets)

    def lowest(self, block: Block) -> int:
        """The lowest offset at which the block meets nothing that is alive with it."""
        n = self.placed
        beside = np.flatnonzero((self.first[:n] < block.last) & (self.last[:n] > block.first))
        if not len(beside):
            return 0
        floors = np.zeros(len(beside) + 1, dtype=np.int64)
        np.maximum.accumulate(self.top[beside], out=floors[1:])
        if self.alignment > 1:
            floors = -(-floors // self.alignment) * self.alignment
        room = self.low[beside] - floors[:-1]
        fits = room >= block.size
        at = int(fits.argmax())
        return int(floors[at] if fits[at] else floors[-1])

    def add(self, block: Block, offset: int) -> None:
        """Keep a block where it was placed."""
        n = self.placed
        at = int(self.low[:n].searchsorted(offset))
        for held, value in (
            (self.first, block.first),
            (self.last, block.last),
            (self.low, offset),
            (self.top, offset + block.size),
        ):
            held[at + 1 : n + 1] = held[at:n]
            held[at] = value
        self.placed = n + 1
