"""The loops of a kernel against the plain enumeration of its elements."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from lazytorch.lower.index import Loops, collapse, kernel_loops
from lazytorch.types import Shape, Strides, contiguous_strides, strides_in_order, tensor_type


def visits(sizes: Shape, strides: tuple[Strides, ...]) -> list[tuple[int, ...]]:
    """Every operand's offset at every element, in order of the loops."""
    return [
        tuple(sum(i * s for i, s in zip(index, operand, strict=True)) for operand in strides)
        for index in product(*map(range, sizes))
    ]


def example(random: Random) -> tuple[Shape, list[Strides], list[Strides]]:
    rank = random.randrange(6)
    shape = tuple(random.choice((1, 2, 3, 4)) for _ in range(rank))

    def dense() -> Strides:
        return strides_in_order(shape, random.sample(range(rank), rank))

    reads = [dense() for _ in range(random.randrange(3))]
    # Expanded, sliced and overlapping operands.
    reads += [tuple(s * random.choice((0, 1, 1, 2)) for s in dense()) for _ in range(2)]
    return shape, reads, [dense() for _ in range(random.randrange(1, 3))]


@pytest.mark.parametrize("seed", range(300))
def test_loops_visit_the_same_elements(seed: int) -> None:
    shape, reads, writes = example(Random(seed))
    loops = collapse(shape, reads, writes)
    expected = visits(shape, (*reads, *writes))
    assert sorted(visits(loops.sizes, loops.strides)) == sorted(expected)
    assert loops.numel == len(expected)


@pytest.mark.parametrize("seed", range(300))
def test_loops_are_ordered_and_cannot_be_merged(seed: int) -> None:
    shape, reads, writes = example(Random(seed))
    loops = collapse(shape, reads, writes)
    first = loops.strides[len(reads)]
    assert list(first) == sorted(first, reverse=True)
    if loops.numel > 1:
        assert 1 not in loops.sizes
    for i in range(1, len(loops.sizes)):
        assert any(s[i - 1] != s[i] * loops.sizes[i] for s in loops.strides)


@pytest.mark.parametrize(
    ("shape", "read", "write", "expected"),
    [
        ((2, 3, 4), (12, 4, 1), (12, 4, 1), Loops((24,), ((1,), (1,)))),
        ((2, 3, 4), (0, 0, 0), (12, 4, 1), Loops((24,), ((0,), (1,)))),
        ((2, 3, 4), (0, 4, 1), (12, 4, 1), Loops((2, 12), ((0, 1), (12, 1)))),
        ((2, 3, 4), (0, 1, 0), (12, 4, 1), Loops((2, 3, 4), ((0, 1, 0), (12, 4, 1)))),
        ((2, 3, 4), (1, 2, 6), (1, 2, 6), Loops((24,), ((1,), (1,)))),
        ((3, 2), (1, 3), (2, 1), Loops((3, 2), ((1, 3), (2, 1)))),
        ((1, 1), (7, 9), (1, 1), Loops((1,), ((1,), (1,)))),
        ((), (), (), Loops((1,), ((1,), (1,)))),
        ((3, 0, 2), (2, 2, 1), (2, 2, 1), Loops((0,), ((1,), (1,)))),
    ],
)
def test_collapse(shape: Shape, read: Strides, write: Strides, expected: Loops) -> None:
    assert collapse(shape, [read], [write]) == expected


def test_operands_broadcast_to_the_outputs() -> None:
    output = tensor_type((2, 8, 5, 5), strides=strides_in_order((2, 8, 5, 5), (0, 2, 3, 1)))
    bias = tensor_type((8, 1, 1))
    assert kernel_loops([output, bias], [output]) == Loops((50, 8), ((8, 1), (0, 1), (8, 1)))
    assert contiguous_strides(bias.shape) == bias.strides
