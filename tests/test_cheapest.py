"""The cheapest values to keep against every choice that there is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

import pytest
import torch

from lazytorch.cut import cheapest
from lazytorch.ir import Node, input
from lazytorch.types import tensor_type


def enough(kept: set[Node], needed: Sequence[Node], below: dict[Node, list[Node] | None]) -> bool:
    """Whether what is needed is kept or can be computed from what is."""
    ways = [below[x] if x not in kept else [] for x in needed]
    return all(way is not None and enough(kept, way, below) for way in ways)


@pytest.mark.parametrize("seed", range(150))
def test_nothing_cheaper_is_enough(seed: int) -> None:
    draw = random.Random(seed)
    nodes = [input(f"x{i}", tensor_type((1,), torch.float32)) for i in range(draw.randint(1, 9))]
    below: dict[Node, list[Node] | None] = {}
    cost: dict[Node, int | None] = {}
    for i, x in enumerate(nodes):
        given = i == 0 or draw.random() < 0.2
        below[x] = None if given else list(dict.fromkeys(draw.choices(nodes[:i], k=3)))
        cost[x] = draw.randint(0, 9) if given or draw.random() < 0.8 else None
    needed = draw.choices(nodes, k=3)
    found = cheapest(needed, cost.__getitem__, below.__getitem__)
    assert enough(found, needed, below)
    able = [x for x in nodes if cost[x] is not None]
    prices = [
        sum(cost[x] or 0 for x in kept)
        for count in range(len(able) + 1)
        for kept in combinations(able, count)
        if enough(set(kept), needed, below)
    ]
    assert sum(cost[x] or 0 for x in found) == min(prices)


def test_what_can_neither_be_kept_nor_computed_is_said() -> None:
    x = input("x", tensor_type((1,), torch.float32))
    with pytest.raises(OverflowError):
        cheapest([x], lambda _: None, lambda _: None)
