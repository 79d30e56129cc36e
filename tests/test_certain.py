"""Comparisons of draws that are certain cut no recording; the draws happen all the same."""

import operator
from collections.abc import Callable

import pytest
import torch

import lazytorch as lt
from lazytorch.errors import CutError

COMPARISONS = (operator.lt, operator.le, operator.gt, operator.ge)
Compare = Callable[[object, object], torch.Tensor]


@pytest.mark.parametrize("compare", COMPARISONS)
@pytest.mark.parametrize("bound", [-0.5, 1.5])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_bound_outside_of_what_is_drawn(compare: Compare, bound: float, mirrored: bool) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        draw = torch.rand([])
        return x + 1 if (compare(bound, draw) if mirrored else compare(draw, bound)) else x * 3

    same(f)


@pytest.mark.parametrize("probability", [0.0, 0])
def test_layers_that_nobody_drops(probability: float) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            if not torch.rand([]) < probability:
                x = x * 3 + torch.rand(2)
        return x

    same(f)


@pytest.mark.parametrize(
    "compare, bound", [(operator.lt, 0.5), (operator.lt, 1.0), (operator.gt, 0)]
)
def test_what_a_draw_decides_cuts(compare: Compare, bound: float) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if compare(torch.rand([]), bound) else x * 3

    with pytest.raises(CutError):
        lt.compile(f, fullgraph=True)(torch.ones(2))


def same(f: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """One graph, eager's numbers, and as much drawn."""
    x, fast = torch.randn(2), lt.compile(f, fullgraph=True, wait=True)
    for seed in range(3):
        torch.manual_seed(seed)
        expected, drawn = f(x), torch.rand(3)
        torch.manual_seed(seed)
        torch.testing.assert_close(fast(x), expected)
        torch.testing.assert_close(torch.rand(3), drawn, rtol=0, atol=0)
