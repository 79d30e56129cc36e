"""Offsets of blocks in one arena: never two that are alive at once on the same bytes."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazytorch.offsets import Block, Layout, clashes, greedy, live
from lazytorch.packing import luby, pack
from lazytorch.priorities import Priorities
from lazytorch.skyline import OutOfSteps, Skyline

PLACES = [x / "shared" / "data" / "minimalloc" for x in Path(__file__).resolve().parents]
SETS = next((x for x in PLACES if x.exists()), None)  # beside the repository, not in it


@st.composite
def block(draw: st.DrawFn, times: int = 12, size: int = 9) -> Block:
    first = draw(st.integers(0, times - 1))
    return Block(draw(st.integers(0, size)), first, draw(st.integers(first + 1, times)))


BLOCKS = st.lists(block(), max_size=25)


def lowest(blocks: list[Block]) -> int:
    """The lowest arena, by trying every order: the lowest layout is among those."""
    best = sum(x.size for x in blocks)

    def place(left: list[Block], done: list[tuple[Block, int]], height: int) -> None:
        nonlocal best
        if height >= best:
            return
        if not left:
            best = height
        for i, x in enumerate(left):
            beside = sorted((at, y.size) for y, at in done if y.first < x.last and x.first < y.last)
            at = 0
            for low, size in beside:
                if low - at >= x.size:
                    break
                at = max(at, low + size)
            place(left[:i] + left[i + 1 :], [*done, (x, at)], max(height, at + x.size))

    place([x for x in blocks if x.size], [], 0)
    return best


@given(BLOCKS, st.sampled_from([1, 2, 4, 512]))
@settings(deadline=None)
def test_layouts_are_right_and_the_search_is_never_higher(
    blocks: list[Block], alignment: int
) -> None:
    first, found = greedy(blocks, alignment), pack(blocks, alignment, steps=500)
    assert not list(clashes(first, alignment))
    assert not list(clashes(found, alignment))
    assert live(blocks) <= found.height <= first.height


@given(st.lists(block(times=5, size=4), max_size=6))
@settings(deadline=None)
def test_the_search_ends_with_the_lowest_arena(blocks: list[Block]) -> None:
    assert pack(blocks).height == lowest(blocks)


@given(st.lists(block(times=5, size=4), max_size=6), st.sampled_from([3, 512, 1 << 30]))
@settings(deadline=None)
def test_the_search_skips_heights_that_no_sum_of_sizes_gives(
    blocks: list[Block], unit: int
) -> None:
    large = [replace(x, size=x.size * unit) for x in blocks]
    assert pack(large).height == lowest(blocks) * unit


@given(BLOCKS)
@settings(deadline=None)
def test_a_search_gives_the_same_layout_every_time(blocks: list[Block]) -> None:
    assert pack(blocks, steps=300).offsets == pack(blocks, steps=300).offsets


def test_fixed_orders_go_by_fullness_length_and_area() -> None:
    blocks = [Block(2, 0, 2), Block(1, 1, 3), Block(6, 2, 3), Block(1, 0, 1), Block(4, 0, 1)]
    spans = [(x.first, x.last) for x in blocks]
    priorities = Priorities(blocks, spans, np.array([7.0, 3.0, 7.0]))
    assert list(priorities.fixed()) == [[0, 1, 2, 4, 3], [2, 0, 4, 1, 3], [0, 1, 2, 4, 3]]
    assert sorted(priorities.drawn(np.ones(3))) == [0, 1, 2, 3, 4]


@given(st.lists(block(times=5, size=4).filter(lambda x: x.size > 0), min_size=1, max_size=6))
@settings(deadline=None)
def test_a_skyline_finds_a_layout_exactly_where_there_is_one(blocks: list[Block]) -> None:
    least = lowest(blocks)
    assert Skyline(blocks, least - 1, 10_000).run() is None
    offsets = Skyline(blocks, least, 10_000).run()
    assert offsets is not None
    found = Layout(tuple(blocks), tuple(offsets))
    assert not list(clashes(found))
    assert found.height == least


@given(BLOCKS, st.data())
@settings(deadline=None)
def test_stated_offsets_are_kept(blocks: list[Block], data: st.DataObject) -> None:
    at = 0
    stated: list[Block] = []
    for x in blocks:
        keep = data.draw(st.booleans())
        stated.append(Block(x.size, x.first, x.last, at) if keep else x)
        at += x.size + data.draw(st.integers(0, 3))
    for found in (greedy(stated, 4), pack(stated, 4)):
        assert not list(clashes(found, 4))


@pytest.mark.parametrize(
    ("blocks", "offsets", "message"),
    [
        ([Block(4, 0, 2), Block(4, 1, 3)], (0, 3), "blocks 0 and 1 are alive at once and overlap"),
        ([Block(4, 1, 3), Block(4, 0, 2)], (3, 0), "blocks 1 and 0 are alive at once and overlap"),
        ([Block(9, 0, 3), Block(1, 1, 2)], (0, 4), "blocks 0 and 1 are alive at once and overlap"),
        ([Block(4, 0, 2)], (2,), "block 0 lies at 2, and is no multiple"),
        ([Block(4, 0, 2)], (-4,), "block 0 lies at -4"),
        ([Block(4, 0, 2, 8)], (4,), "block 0 lies at 4, and must lie at 8"),
    ],
)
def test_what_is_wrong_is_said(blocks: list[Block], offsets: tuple[int, ...], message: str) -> None:
    (found,) = clashes(Layout(tuple(blocks), offsets), 4 if len(blocks) == 1 else 1)
    assert found.startswith(message.split(", and is")[0])


def test_what_only_touches_is_right() -> None:
    blocks = (Block(4, 0, 2), Block(4, 2, 3), Block(2, 0, 3), Block(0, 0, 3))
    assert not list(clashes(Layout(blocks, (0, 0, 4, 1))))


@pytest.mark.parametrize("wrong", [(-1, 0, 1, None), (1, 1, 1, None), (1, 0, 1, -4)])
def test_no_block_of_memory(wrong: tuple[int, int, int, int | None]) -> None:
    with pytest.raises(ValueError, match="no block of memory"):
        Block(*wrong)


def test_stated_offsets_that_clash_are_refused() -> None:
    with pytest.raises(ValueError, match="alive at once"):
        greedy([Block(4, 0, 2, 0), Block(4, 1, 3, 2)])


def test_a_search_that_may_take_no_step_gives_what_greedy_found() -> None:
    blocks = read("K")
    assert pack(blocks, steps=0).offsets == greedy(blocks).offsets
    with pytest.raises(OutOfSteps):
        Skyline(blocks, live(blocks), 3).run()


def read(name: str) -> list[Block]:
    """A public set."""
    if SETS is None:
        pytest.skip("the sets are not here")
    (path,) = SETS.glob(f"{name}.*csv")
    with path.open() as file:
        return [
            Block(int(x["size"]), int(x["lower"]), int(x["upper"])) for x in csv.DictReader(file)
        ]


def test_a_small_public_set_fits_its_capacity() -> None:
    assert pack(read("input")).height == 12


@pytest.mark.parametrize("name", ["C", "K"])
def test_public_sets_come_within_one_per_cent(name: str) -> None:
    found = pack(read(name), enough=int(1048576 * 1.01))
    assert not list(clashes(found))
    assert found.height <= 1048576 * 1.01


def test_many_blocks_are_right_and_deep_searches_need_no_recursion() -> None:
    chain = [Block(1 + i % 7, i, i + 2) for i in range(3000)]
    assert not list(clashes(greedy(chain)))
    pile = [Block(1, 0, 1) for _ in range(1200)]
    assert Skyline(pile, 1200, 5000).run() == list(range(1200))


def test_lengths_of_tries() -> None:
    assert [luby(i) for i in range(1, 16)] == [1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8]
