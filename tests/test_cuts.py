"""Python that looks at values: a compiled function is cut there and goes on."""

import functools
from typing import Any

import pytest
import torch
from comparison import check, same
from torch import nn

import lazytorch as lt
from lazytorch.errors import CutError


def test_branches_on_values() -> None:
    def f(x: torch.Tensor) -> Any:
        y = x * 2
        y = y + 1 if y.sum() > 0 else y - 1
        for _ in range(int(y.abs().max()) % 3):
            y = y * 2
        return y, x + y

    inputs = [functools.partial(lambda v: (torch.full((3,), v),), v) for v in (1.0, -1.0, 3.0, -4)]
    check(f, *inputs)


def test_a_buffer_written_before_a_cut_is_written_once() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            noise = torch.rand(2)
            if x.sum() > 0:
                self.count += 10
                return x + self.count + noise
            return x - self.count + noise

    ours, theirs = Branching(), Branching()
    fast = lt.compile(ours)
    for value in (1.0, 1.0, -1.0, 1.0, -1.0):
        x = torch.full((2,), value)
        torch.manual_seed(3)
        a = fast(x)
        torch.manual_seed(3)
        same((a, ours.count), (theirs(x), theirs.count))


def test_sizes_that_depend_on_values_and_eager_functions() -> None:
    @lt.disable
    def host(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() * 3)

    def f(x: torch.Tensor) -> Any:
        chosen = x[x > 0]
        return chosen * 2, host(x + 1) + 1, x.nonzero()

    check(f, lambda: (torch.tensor([1.0, -1.0, 2.0]),), lambda: (torch.tensor([-1.0, 0.0, 2.0]),))


def test_fullgraph_names_the_line_of_the_cut() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # the cut
            return x
        return -x

    with pytest.raises(CutError, match="the cut"):
        lt.compile(f, fullgraph=True)(torch.ones(2))
