"""What memory the tensors of a stage have in common, which is to be as it was recorded.

A recording knows which of its tensors are one, and which lie across each other. A plan is right for
others only if they share alike: a write through one is seen through the other, and a tensor that
comes in twice has one gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch

from lazytorch.frontend.recorder import crosses, span


class Sharing:
    """The tensors found in places of their own, and whether arguments share with them.

    Where the stage does not write, it only matters which are the same tensor.
    """

    def __init__(self, writes: bool) -> None:
        self.writes = writes
        self.tensors: dict[int, list[tuple[int, torch.Tensor]]] = {}
        self.among: list[tuple[int, int]] | None = None  # what was recorded of them
        self.between: list[tuple[int, int]] | None = None  # and of arguments and them

    def key(self, tensor: torch.Tensor) -> int:
        """What two tensors have in common that share."""
        return tensor.untyped_storage()._cdata if self.writes else id(tensor)

    def look(self, tensors: Sequence[tuple[int, torch.Tensor]]) -> bool:
        """Whether these, with their numbers, share as the first ones did."""
        self.tensors = {}
        for i, x in tensors:
            self.tensors.setdefault(self.key(x), []).append((i, x))
        pairs = crossing if self.writes else together
        found = sorted(
            [pair for some in self.tensors.values() if len(some) > 1 for pair in pairs(some)]
        )
        if self.among is None:
            self.among = found
        return found == self.among

    def meet(self, leaves: Sequence[object], given: Sequence[tuple[int, int]]) -> bool:
        """Whether arguments, `given` as (their number, the leaf), share with the tensors as the
        first call's did."""
        found: list[tuple[int, int]] = []
        for i, index in given:
            x = leaves[index]
            if isinstance(x, torch.Tensor) and (near := self.tensors.get(self.key(x))):
                found += [(i, j) for j, y in near if x is y or (self.writes and crosses(x, y))]
        if self.between is None:
            self.between = found
        return found == self.between


def together(tensors: Sequence[tuple[int, torch.Tensor]]) -> Iterator[tuple[int, int]]:
    """The numbers of all of them, two by two."""
    return combinations([i for i, _ in tensors], 2)


def crossing(tensors: Sequence[tuple[int, torch.Tensor]]) -> Iterator[tuple[int, int]]:
    """The numbers of those, all on one storage, whose spans have bytes in common."""
    behind: list[tuple[int, int]] = []  # where those end that may reach further
    for first, end, i in sorted((*span(x), i) for i, x in tensors):
        behind = [(other, j) for other, j in behind if other > first]
        if first < end:
            yield from ((min(i, j), max(i, j)) for _, j in behind)
            behind.append((end, i))
