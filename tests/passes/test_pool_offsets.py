"""`pool_offsets`: a byte instead of an index for each result of a max pool."""

from functools import partial

import pytest
import torch
from torch.nn import functional

import lazytorch as lt
from lazytorch.interpret import interpret
from lazytorch.ir import Graph
from lazytorch.passes import REWRITES, fuse, optimize, order, pool_offsets
from lazytorch.peak import levels

kept = partial(pool_offsets, fits=lambda x: True, choose=lambda graph: [None])
INDICES = "max_pool_indices"


def recorded(x: torch.Tensor, *sizes: object) -> Graph:
    """A pool between two operations, and its derivative."""

    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.requires_grad_()
        y = functional.max_pool2d(x * 2, *sizes)  # type: ignore[arg-type]
        return y.exp(), torch.autograd.grad(y.square().sum(), x)[0]

    return optimize(lt.trace(both, x), REWRITES)


@pytest.mark.parametrize("last", [False, True], ids=["row-major", "channels last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "sizes",
    [(3, 2, 1), (2, 2), (3, 1, 1), (3, 2, 0, 1, True), ((3, 2), (2, 1), (1, 0), (2, 1))],
    ids=str,
)
def test_the_derivative_is_the_same(
    sizes: tuple[object, ...], dtype: torch.dtype, last: bool
) -> None:
    x = torch.randn(2, 4, 11, 10).mul(2).round().to(dtype)  # many are equal
    x[0, 0, :4], x[1, 1, 3, 3] = -torch.inf, torch.nan
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    before = recorded(x, *sizes)
    after = kept(before)
    assert INDICES in str(before) and INDICES not in str(after)
    assert kept(after) is after
    for found, expected in zip(interpret(after, x), interpret(before, x), strict=True):
        assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7))
        assert found.stride() == expected.stride()


def test_less_is_kept_until_the_backward() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        x = x.requires_grad_()
        y = x
        for _ in range(4):
            y = functional.max_pool2d(y.tanh(), 3, 1, 1)
        return torch.autograd.grad(y.square().sum(), x)[0]

    before = optimize(lt.trace(step, torch.randn(8, 4, 32, 32)), REWRITES)
    peaks = [max(levels(order(fuse(x))).values()) for x in (before, kept(before))]
    # Of four pools' indices, of eight bytes, what waits meanwhile is one byte each.
    assert peaks[1] <= peaks[0] - 3 * 7 * 8 * 4 * 32 * 32


def test_what_others_read_stays() -> None:
    def indices(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.ops.aten.max_pool2d_with_indices(x, [3, 3])

    graph = optimize(lt.trace(indices, torch.randn(2, 4, 9, 9)), REWRITES)
    assert kept(graph) is graph
    asked = recorded(torch.randn(2, 4, 9, 9), 3)
    assert kept(asked, fits=lambda x: False) is asked
    assert kept(asked, choose=lambda graph: []) is asked
    large = recorded(torch.randn(2, 4, 9, 9), 7, 1, 3)
    assert kept(large) is large, "no generated kernel reads so large a window"


def test_a_step_within_a_budget_keeps_offsets() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, 2, 1),
        torch.nn.Conv2d(8, 32, 3, padding=1),  # where most is alive
        torch.nn.Sigmoid(),
        torch.nn.AvgPool2d(8),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 8 * 8, 2),
    ).to("meta")
    batch = torch.empty(16, 3, 128, 128, device="meta"), torch.empty(16, 2, device="meta")

    def planned(budget: float | None) -> lt.MemoryPlan:
        loss, adam = functional.mse_loss, torch.optim.AdamW
        return lt.plan(net, batch, device="h200", loss_fn=loss, optimizer=adam, max_bytes=budget)

    free = planned(None)
    within = planned(free.needed_bytes)
    assert within.timeline.lines == free.timeline.lines, "nothing is to be had for a bound"
    less = planned(free.needed_bytes - 2**20)
    assert INDICES in {x.operation for x in free.timeline.blocks}
    assert INDICES not in {x.operation for x in less.timeline.blocks}
