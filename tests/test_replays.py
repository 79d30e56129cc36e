"""Replays of captured programs without a GPU: what is copied in and out, and captures anew.

A capture is played by running the program once; its replay runs it again on the same memory.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from comparison import same
from replacing import Mean, Plain, Returned, held
from torch import nn

import lazytorch as lt
from lazytorch import passes, staging
from lazytorch.compiled import Compiled
from lazytorch.ir import Graph
from lazytorch.lower import last_call
from lazytorch.lower.program import Program
from lazytorch.runtime import copies, cudagraph
from lazytorch.runtime.cudagraph import CAPTURES, Replayer


class Played:
    """Stands for a CUDA graph."""

    def __init__(self) -> None:
        self.call: Callable[[], tuple[torch.Tensor, ...]] = tuple
        self.results: tuple[torch.Tensor | None, ...] = ()

    def replay(self) -> None:
        for to, of in zip(self.results, self.call(), strict=True):
            if to is not None:
                copies.Copies([to]).copy([to], [of])


class Turns:
    """Stands for a pool."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def enter(self) -> None:
        pass

    def settle(self) -> None:
        pass

    def prepare(self) -> None:
        pass

    def serve(self, user: object) -> None:
        pass


def zeros(x: torch.Tensor) -> torch.Tensor:
    """A buffer whose content may be used as indices: a capture that is played computes."""
    made = cudagraph.like(x)()
    made.untyped_storage().fill_(0)
    return made


def played(_: object, graph: Played, call: Callable[[], Any], arena: int) -> tuple[Any, None]:
    graph.call, graph.results = call, call()
    return graph.results, None


@pytest.fixture(autouse=True)
def captures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program is captured as if it were one of a GPU."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Played)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(cudagraph, "pool_of", lambda _: Turns())
    monkeypatch.setattr(cudagraph, "capture", played)
    monkeypatch.setattr(cudagraph, "buffer", zeros)
    monkeypatch.setattr(cudagraph, "refusal", lambda _: "")
    monkeypatch.setattr(cudagraph, "waits", lambda: nullcontext([]))

    def replayer(program: Program, graph: Graph, *addresses: frozenset[int]) -> Replayer:
        return Replayer(program, graph, torch.device("cpu"), *addresses)

    monkeypatch.setattr(staging, "replayer", replayer)


def settled(fn: Callable[..., Any], *args: Any, **options: Any) -> tuple[Compiled, Replayer]:
    """Call until the plan is captured."""
    fast = lt.compile(fn, wait=True, **options)
    for _ in range(3):
        fast(*args)
    replay = fast.programs()[0].replay
    assert isinstance(replay, Replayer)
    assert replay.captured is not None
    return fast, replay


def many(x: torch.Tensor, mask: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    y = x * 2
    picked = x[ids] + mask
    return y, y.t(), picked, ids + 1, x, x.double(), (x + 1).t(), mask.to(torch.complex64) * 1j


def inputs(seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 5, generator=generator)
    mask = torch.randn(1, 5, generator=generator).expand(3, 5)
    return x, mask, torch.randint(4, (3,), generator=generator)


@torch.no_grad()
def test_arguments_are_copied_in_and_results_out() -> None:
    fast, replay = settled(many, *inputs(0))
    kept = [(fast(*inputs(seed)), many(*inputs(seed))) for seed in range(4)]
    for ours, theirs in kept:
        same(ours, theirs)
        assert ours[1].data_ptr() == ours[0].data_ptr()
    assert replay.captures == 1
    x = inputs(1)
    assert fast(*x)[4] is x[0]


@pytest.mark.parametrize("kind", [Mean, Returned, Plain])
@torch.no_grad()
def test_state_that_every_call_replaces_is_copied_in(kind: Callable[[], nn.Module]) -> None:
    eager, module = kind().eval(), kind().eval()
    fast, replay = settled(module, torch.ones(4, 3))
    for _ in range(3):
        eager(torch.ones(4, 3))
    for seed in range(8):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(fast(x), eager(x))
        torch.testing.assert_close(held(module), held(eager))
    assert replay.captures == 1


@torch.no_grad()
def test_numbers_among_the_arguments_are_written_where_the_replay_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = partial(passes.numbers_on_device, device="cpu")
    monkeypatch.setattr(passes, "REWRITES", (here, *passes.REWRITES[1:]))

    def function(x: torch.Tensor, rate: float, other: float) -> tuple[torch.Tensor, torch.Tensor]:
        return x * (1 - rate**2) + other, torch.full_like(x, rate)

    x = torch.randn(4, 5)
    fast = lt.compile(function, wait=True)
    for i in range(5):
        fast(x, 0.1 + i, 0.2 - i)
    replay = next(s.replay for s in fast.programs() if s.piece.graph.inputs[1:])
    assert isinstance(replay, Replayer)
    for rate, other in ((0.3, 0.3), (0.3, -0.0), (1e30, 0.1), (float("nan"), 0.1), (0.3, 0.3)):
        same(fast(x, rate, other), function(x, rate, other))
    assert replay.captures == 1
    assert replay.captured is not None
    assert len(replay.captured.counting) == 2


@torch.no_grad()
def test_results_that_repeat_and_results_with_gaps_keep_their_strides() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        row = x.sum(0, keepdim=True)
        return row.expand(6, 5), (x + 1)[:, ::2], x.t() * 2, x.sum()

    fast, _ = settled(function, torch.randn(4, 5))
    for x in (torch.randn(4, 5), torch.randn(4, 5)):
        same(fast(x), function(x))


@torch.no_grad()
def test_what_waits_for_the_gpu_runs_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudagraph, "waits", lambda: nullcontext(["model.py:7"]))
    fast = lt.compile(lambda x: (x + 1).exp(), wait=True)
    x = torch.randn(5)
    for _ in range(4):
        torch.testing.assert_close(fast(x), (x + 1).exp())
    replay = fast.programs()[0].replay
    assert isinstance(replay, Replayer)
    assert replay.captured is None
    assert "not captured: it waits for the GPU (at model.py:7)" in str(fast.explain())


def test_many_results_of_one_type_take_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        return [x * k + y for k in range(9)]

    args = torch.randn(3), torch.randn(3)
    fast, _ = settled(function, *args)
    lengths: list[int] = []
    real = torch._foreach_copy_

    def counted(to: list[torch.Tensor], of: list[torch.Tensor]) -> Any:
        lengths.append(len(to))
        return real(to, of)

    monkeypatch.setattr(torch, "_foreach_copy_", counted)
    fast(*args)
    assert lengths[0] == 2 and 9 in lengths


@torch.no_grad()
def test_a_large_result_of_the_last_call_is_made_behind_the_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(last_call, "WORTH", 80)

    def scores(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.exp().cumsum(0)
        y = y @ y.t()
        z = y @ weight
        return z.t(), y + 1, z, x, y

    weight = torch.randn(4, 5)
    fast, replay = settled(scores, torch.randn(4, 5), weight)
    captured = replay.captured
    assert captured is not None and captured.last is not None
    assert "the last call behind each replay" in replay.describe()
    assert len(captured.results) == 2  # y + 1 and y: z is in no graph
    kept: list[tuple[Any, Any]] = []
    for _ in range(4):
        x = torch.randn(4, 5)
        kept.append((fast(x, weight), scores(x, weight)))
        assert kept[-1][0][3] is x
    for ours, theirs in kept:
        same(ours, theirs)
        assert ours[0].data_ptr() == ours[2].data_ptr()


@torch.no_grad()
def test_large_results_are_copied_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LARGE", 32)
    few = [torch.randn(n) for n in (3, 9, 4, 8)]
    found = copies.Copies(few)
    assert found.groups == [[0, 2]] and found.single == [1, 3]
    to = [torch.zeros_like(x) for x in few]
    found.copy(to, few)
    same(to, few)


@torch.no_grad()
def test_static_inputs_are_read_in_place_and_captured_anew_where_they_moved() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * 2 + y

    x, y = torch.randn(3), torch.randn(3)
    fast, replay = settled(function, x, y, static_inputs=True)
    captured = replay.captured
    assert captured is not None and not captured.moving
    for _ in range(3):
        x.add_(1)
        same(fast(x, y), function(x, y))
    assert replay.captures == 1
    moved = [torch.randn(3) for _ in range(2 * CAPTURES)]
    for z in moved[: CAPTURES - 1]:
        same(fast(z, y), function(z, y))
    assert replay.captures == CAPTURES and replay.static
    for z in moved:
        same(fast(z, y), function(z, y))
    assert not replay.static and not replay.why
    assert replay.captured is not None and len(replay.captured.moving) == 2


@torch.no_grad()
def test_static_inputs_are_only_those_of_the_caller() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x * 3
        return y + 1 if y.sum() > 0 else y - 1

    x = torch.ones(3)
    fast = lt.compile(function, wait=True, static_inputs=True)
    for _ in range(6):
        x.add_(1)
        same(fast(x), function(x))
    first, second = [stage.replay for stage in fast.programs()]
    assert isinstance(first, Replayer) and isinstance(second, Replayer)
    assert first.captures == 1 and first.static
    assert second.captures == 1 and not second.static


@torch.no_grad()
def test_weights_changed_replaced_and_moved() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
    net.eval()
    x = torch.randn(2, 3, 2, 2)
    fast, replay = settled(net, x)
    conv, linear = net[0], net[3]
    assert isinstance(conv, nn.Conv2d) and isinstance(linear, nn.Linear)
    for weight in (conv.weight, linear.weight):
        weight.mul_(-2)
        torch.testing.assert_close(fast(x), net(x))
    assert replay.captures == 1  # the prologue's values keep their places
    linear.weight = nn.Parameter(torch.randn(5, 16))
    torch.testing.assert_close(fast(x), net(x))
    conv.weight.data = torch.randn(4, 3, 1, 1)
    torch.testing.assert_close(fast(x), net(x))
    linear.bias.data = torch.randn(5)
    torch.testing.assert_close(fast(x), net(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.int64])
def test_copies_of_every_geometry(dtype: torch.dtype) -> None:
    def make() -> list[torch.Tensor]:
        return [
            torch.randn(3, 4).to(dtype),
            torch.randn(4, 3).to(dtype).t(),
            torch.randn(3, 8).to(dtype)[:, ::2],
            torch.randn(1, 4).to(dtype).expand(3, 4),
            torch.randn(()).to(dtype),
            torch.randn(0, 3).to(dtype),
            torch.randn(5).to(dtype).conj(),
        ]

    to, of = make(), make()
    copies.Copies(to).copy(to, of)
    for x, y in zip(to, of, strict=True):
        assert torch.equal(x, y)
