"""`slices_of_joins`: what was joined is read of the join."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.interpret import interpret
from lazytorch.ir import Graph
from lazytorch.ops.layout import Slice
from lazytorch.passes import REWRITES, fuse, optimize, order, slices_of_joins
from lazytorch.peak import levels


class Fire(nn.Module):
    """Two convolutions of one image, joined."""

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 10, 3, padding=1)
        self.c = nn.Conv2d(16, 3, 1)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([self.act(self.a(x)), self.act(self.b(x))], 1)
        return self.c(y).square().mean()


def step(
    act: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> tuple[Graph, list[torch.Tensor]]:
    """One step of plain gradient descent, recorded, and its operands."""
    net = Fire(act)
    params = list(net.parameters())

    def run(x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        loss = torch.func.functional_call(net, dict(zip(names, given, strict=True)), (x,))
        with torch.no_grad():
            for p, g in zip(given, torch.autograd.grad(loss, given), strict=True):
                p -= 0.1 * g
        return loss

    names = [name for name, _ in net.named_parameters()]
    graph = optimize(lt.trace(run, x, *params), REWRITES)
    return graph, [x, *[p.detach().clone() for p in params]]


@pytest.mark.parametrize("last", [False, True], ids=["row-major", "channels last"])
def test_the_backward_reads_the_join(last: bool) -> None:
    x = torch.randn(2, 4, 9, 7)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    before, operands = step(torch.relu, x)
    after = slices_of_joins(before)
    cuts = [n for n in after.nodes if isinstance(n.op, Slice) and n.inputs[0].op.name() == "cat"]
    assert len(cuts) == 2 and slices_of_joins(after) is after
    results = [interpret(g, *[p.clone() for p in operands]) for g in (before, after)]
    for found, expected in zip(results[1], results[0], strict=True):
        assert torch.equal(found, expected)
    peaks = [max(levels(order(fuse(g))).values()) for g in (before, after)]
    assert peaks[1] < peaks[0]


def test_a_product_reads_the_operand_itself() -> None:
    """Its library would copy the slice."""
    before, _ = step(lambda y: y * y.mean((2, 3), keepdim=True), torch.randn(2, 4, 9, 7))
    after = slices_of_joins(before)
    for node in after.nodes:
        if node.op.name() in ("aten", "convolution", "matmul", "mm"):
            assert not any(isinstance(y.op, Slice) for y in node.inputs)


def test_a_join_is_not_kept_longer_for_a_small_part_of_it() -> None:
    def run(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        part = (x[:1] * w).relu()
        loss = (torch.cat([x * 2, part]).square() * w.sum()).sum()
        with torch.no_grad():
            w -= torch.autograd.grad(loss, w)[0]
        return loss

    w = nn.Parameter(torch.randn(8))
    graph = optimize(lt.trace(run, torch.randn(8, 8), w), REWRITES)
    assert slices_of_joins(graph) is graph


def test_nothing_is_done_without_a_step() -> None:
    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, z = x.relu(), x.exp()
        return torch.cat([y, z], 1).sum(), functional.softplus(y)

    graph = lt.trace(both, torch.randn(3, 4))
    assert slices_of_joins(graph) is graph
