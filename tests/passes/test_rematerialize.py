"""rematerialize: the backward computes values again, which changes no value; draws happen once."""

import pytest
import saving
import torch
from saving import results
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.errors import VerifyError
from lazytorch.ir import Graph
from lazytorch.ops.after import After
from lazytorch.passes import check_signature
from lazytorch.passes.cse import cse
from lazytorch.passes.rematerialize import rematerialize
from lazytorch.segments import Again, choices
from lazytorch.verify import verify

WIDTH, DEEP = 8, 4


def recorded() -> tuple[Graph, list[torch.Tensor]]:
    return saving.recorded(16, WIDTH, DEEP)


def test_every_number_of_choices_gives_the_same_values_and_draws_once() -> None:
    graph, values = recorded()
    found = choices(graph)
    assert len(found) >= DEEP
    want = results(graph, values)
    sizes = [len(graph)]
    for count in range(1, len(found) + 1):
        again = rematerialize(graph, lambda g, n=count: choices(g)[:n])
        check_signature(graph, verify(again), "rematerialize")
        assert again.effects == graph.effects
        torch.testing.assert_close(results(again, values), want, rtol=0, atol=0)
        assert any(isinstance(x.op, After) for x in again)
        assert len(cse(again)) == len(again)
        sizes.append(len(again))
    assert sizes[-1] > sizes[0]
    assert rematerialize(graph, lambda g: []) is graph


def test_choices_are_the_same_for_equal_graphs_and_free_what_they_say() -> None:
    one, two = choices(recorded()[0]), choices(recorded()[0])
    assert [(len(x.made), x.freed) for x in one] == [(len(x.made), x.freed) for x in two]
    assert all(x.freed > 0 for x in one)
    assert not any(node.op.effect for x in one for node in x.made)


class Fire(nn.Module):
    """SqueezeNet's block: narrow, then two kinds of convolutions side by side."""

    def __init__(self, ins: int, squeezed: int, outs: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(ins, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, outs, 1), nn.Conv2d(squeezed, outs, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.one(x).relu(), self.three(x).relu()], 1)


def test_what_a_later_segment_reads_too_is_not_computed_again() -> None:
    """On a GPU a view of the next convolution's weight ended a segment, and waited for itself."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), Fire(8, 4, 8), Fire(16, 4, 8), Fire(16, 8, 16))
    example = torch.zeros(256, 3, 32, 32), torch.zeros(256, 32, 30, 30)
    sgd = lambda ps: torch.optim.SGD(ps, 0.1)  # noqa: E731
    loss = functional.mse_loss
    free = lt.plan(net, example, device="h200", loss_fn=loss, optimizer=sgd)
    with pytest.raises(lt.BudgetError) as refusal:
        lt.plan(net, example, device="h200", loss_fn=loss, optimizer=sgd, max_bytes=1)
    assert refusal.value.smallest < free.needed_bytes


def test_a_value_that_would_wait_for_itself_is_refused() -> None:
    graph, _ = recorded()
    gradient = graph.outputs[1]
    first = next(x for x in choices(graph)[0].made)
    with pytest.raises(VerifyError, match="wait for itself"):
        rematerialize(graph, lambda g: [Again(frozenset([first]), gradient, 1)])
