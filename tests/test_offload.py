"""Values that wait in the host's memory: results stay, bytes go, copies have time."""

from __future__ import annotations

from itertools import accumulate

import pytest
import saving
import torch
from saving import results
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch import offload as offloading
from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.forecast import plan
from lazytorch.ir import Graph, Node
from lazytorch.offload import Link
from lazytorch.ops.after import After
from lazytorch.ops.linalg import Linear
from lazytorch.ops.offload import FromHost, Received, Sent, ToHost, Transfer
from lazytorch.passes import check_signature, order
from lazytorch.passes.rematerialize import rematerialize
from lazytorch.peak import footprint, size
from lazytorch.segments import Again, choices
from lazytorch.verify import verify

WIDTH, ROWS, DEEP = 32, 64, 8
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def recorded() -> tuple[Graph, list[torch.Tensor]]:
    return saving.recorded(ROWS, WIDTH, DEEP)


def fast(seconds: float = 1e-3, rate: float = 1e12) -> Link:
    """A link by which everything can be sent, unless it is told to be slower."""
    return Link(rate, lambda x: 0.0 if x.op.view else seconds)


def sends(found: list[Again]) -> list[Again]:
    return [x for x in found if x.away is not None]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of any size are worth a copy."""
    monkeypatch.setattr(offloading, "LEAST", 1)


@pytest.mark.usefixtures("small")
def test_every_number_of_choices_gives_the_same_values_and_draws_once() -> None:
    graph, values = recorded()
    found = choices(graph, fast().along(graph))
    assert len(sends(found)) >= DEEP // 2
    want = results(graph, values)
    for count in range(1, len(found) + 1):
        again = rematerialize(graph, lambda g, n=count: choices(g, fast().along(g))[:n])
        check_signature(graph, verify(again), "rematerialize")
        assert again.effects == graph.effects
        torch.testing.assert_close(results(again, values), want, rtol=0, atol=0)
        away = sum(len(x.away.values) for x in found[:count] if x.away is not None)
        for kind in (ToHost, Sent, FromHost, Received):
            assert sum(isinstance(x.op, kind) for x in again) == away


@pytest.mark.usefixtures("small")
def test_copies_come_before_what_is_computed_again() -> None:
    graph, _ = recorded()
    found = choices(graph, fast().along(graph))
    sent = sends(found)
    assert sent == found[: len(sent)] and len(found) > len(sent) >= DEEP // 2


@pytest.mark.usefixtures("small")
def test_what_is_sent_is_not_alive_meanwhile() -> None:
    graph, _ = recorded()
    found = choices(graph, fast().along(graph))
    count = len(sends(found))
    without = [Again(x.made, x.token, x.freed) for x in found[:count]]
    kept = order(rematerialize(graph, lambda g: [x for x in without if x.made]))
    sent = order(rematerialize(graph, lambda g: found[:count]))
    waiting = sum(size(x.inputs[0]) for x in sent if isinstance(x.op, ToHost))
    assert waiting > 0
    assert footprint(kept).call - footprint(sent).call > waiting / 2


@pytest.mark.usefixtures("small")
def test_copies_begin_at_once_and_have_the_time_that_they_take() -> None:
    graph, _ = recorded()
    link = fast(rate=5e6)
    found = sends(choices(graph, link.along(graph)))
    nodes = order(rematerialize(graph, lambda g: found)).nodes
    at = {x: i for i, x in enumerate(nodes)}
    clock = [*accumulate((link.seconds(x) for x in nodes if not transfer(x)), initial=0.0)]
    when = {x: clock[sum(not transfer(y) for y in nodes[:i])] for x, i in at.items()}
    assert found
    for x in nodes:
        if isinstance(x.op, ToHost | Sent | FromHost):
            between = nodes[max(at[y] for y in x.inputs) + 1 : at[x]]
            assert all(y.op.view or transfer(y) for y in between)
        if isinstance(x.op, Received):
            copy, sent, token = x.inputs
            assert at[copy] < at[token] < at[x]
            begun, value, _ = sent.inputs
            assert when[sent] - when[begun] >= size(value) / link.rate
            assert when[x] - when[copy] >= size(value) / link.rate / 2


def transfer(x: Node) -> bool:
    return isinstance(x.op, Transfer)


@pytest.mark.usefixtures("small")
def test_only_as_much_is_sent_as_there_is_time_for() -> None:
    graph, _ = recorded()
    counts = []
    for rate in (1e12, 3e6, 1e6, 1e3):
        found = sends(choices(graph, fast(rate=rate).along(graph)))
        counts.append(sum(size(y) for x in found if x.away for y in x.away.values))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[2] > counts[3] == 0
    nodes = [x for x in graph.nodes if not x.op.view]
    forward = 1e-3 * len(nodes) / 2
    assert counts[1] / 3e6 <= forward
    assert counts[2] / 1e6 <= forward


def test_small_values_stay() -> None:
    graph, _ = recorded()
    assert sends(choices(graph, fast().along(graph))) == []


@pytest.mark.usefixtures("small")
def test_nothing_is_sent_where_a_batch_goes_in_parts() -> None:
    graph, _ = recorded()

    def later(node: Node) -> Node:
        if isinstance(node.op, Linear):
            x, w = node.inputs
            return Node(node.op, (Node(After(), (x, w), x.type), w), node.type)
        return node

    assert sends(choices(graph.map(later), fast().along(graph))) == []


class Wide(nn.Module):
    """Layers whose activations are most of a step's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2048, 2048) for _ in range(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + functional.gelu(layer(x))
        return x.square().mean()


def test_a_plan_says_what_waits_and_keeps_to_its_budget() -> None:
    with torch.device("meta"):
        net, x = Wide(), torch.empty(16384, 2048)
    optimizer = torch.optim.SGD
    make = lambda **o: plan(net, x, device="h200", optimizer=optimizer, **o)  # noqa: E731
    free = make()
    budget = free.needed_bytes - free.values // 5
    found = make(max_bytes=budget, offload=True)
    assert found.needed_bytes <= budget
    assert found.host > 0
    assert free.host == make(max_bytes=budget).host == 0
    assert "wait in pinned memory of the host" in str(found)
    assert not found.unknown.keys() & {"to_host", "from_host"}
    lowest: list[int] = []
    for offload in (False, True):
        with pytest.raises(lt.BudgetError) as refused:
            make(max_bytes=1, offload=offload)
        lowest.append(refused.value.smallest)
    assert lowest[1] < lowest[0]


def test_offload_is_refused_where_it_has_no_meaning() -> None:
    net, x = Wide(), torch.randn(4, 2048)
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(LazyTorchError, match="a way to stay within max_bytes"):
        lt.train_step(net, None, sgd, offload=True)
    with pytest.raises(UnsupportedError, match="nothing is known of this device"):
        lt.train_step(net, None, sgd, offload=True, max_bytes=1e9)(x)
    assert all(p.grad is None for p in net.parameters())


@NEEDS_GPU
@pytest.mark.parametrize("count", [1, 7])
def test_a_step_on_a_gpu_leaves_what_eager_leaves_within_its_budget(count: int) -> None:
    torch.manual_seed(0)
    nets = [Wide().cuda()]
    nets.append(Wide().cuda())
    nets[1].load_state_dict(nets[0].state_dict())
    sgds = [torch.optim.SGD(net.parameters(), 0.1, momentum=0.9) for net in nets]
    free = plan(nets[0], torch.empty(16384, 2048, device="cuda"), optimizer=sgds[0])
    budget = free.needed_bytes - free.values // 5
    step = lt.train_step(nets[0], None, sgds[0], max_bytes=budget, offload=True)
    for i in range(count):
        x = torch.randn(
            16384, 2048, device="cuda", generator=torch.Generator("cuda").manual_seed(i)
        )
        loss = nets[1](x)
        loss.backward()
        sgds[1].step()
        sgds[1].zero_grad()
        torch.testing.assert_close(step(x), loss.detach())
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@NEEDS_GPU
def test_it_cannot_be_recorded_in_a_graph_of_the_users_own() -> None:
    x = torch.randn(1 << 10, device="cuda")
    with pytest.raises(UnsupportedError, match="a CUDA graph of your own"):  # noqa: SIM117
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            x += 1
            ToHost().run(x)
