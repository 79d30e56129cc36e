"""The memory of CUDA graphs: one piece that everything fits in, known before, and given back."""

import gc
import random
import threading
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.frontend.stand_in import StandIns
from lazytorch.lower.arena import Span, arena, highest, reserved
from lazytorch.lower.caching import SMALL_SEGMENT, CachingAllocator
from lazytorch.runtime import pool
from lazytorch.runtime.cudagraph import Replayer
from lazytorch.runtime.pool import Pool
from lazytorch.runtime.setting import storages

MIB = 2**20
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def blocks(seed: int, count: int = 300, largest: int = 60 * MIB) -> list[Span]:
    """Some of all sizes, that live for a while or to the end."""
    draw = random.Random(seed)
    found: list[Span] = []
    for line in range(count):
        nbytes = int(largest ** draw.uniform(0.3, 1))
        lives = draw.choice((0, 1, 3, 20, count))
        found.append((nbytes, line, min(line + lives, count)))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_every_block_lies_in_the_arena(seed: int) -> None:
    some = blocks(seed)
    size = arena(some)
    large = [x for x in some if x[0] > MIB]
    assert highest(large) <= size
    allocator = CachingAllocator()
    allocator.release(allocator.allocate(size))
    assert size <= allocator.reserved < size + SMALL_SEGMENT
    before = allocator.reserved
    allocator.through(large)
    assert allocator.reserved == before
    allocator.through([x for x in some if x[0] <= MIB])
    assert allocator.reserved > before


def test_an_arena_takes_less_than_pieces_of_their_own_do() -> None:
    """Blocks that grow: each is too large for the piece of the one before."""
    growing = [(n * 12 * MIB, n, n) for n in range(1, 20)]
    alone = CachingAllocator()
    alone.through(growing)
    assert alone.reserved >= sum(n for n, _, _ in growing)
    assert reserved(growing) < 1.02 * 19 * 12 * MIB


def test_little_memory_needs_no_arena() -> None:
    assert arena([(2 * MIB, line, line + 2) for line in range(20)]) == 0
    assert reserved([(2 * MIB, line, line + 2) for line in range(20)]) == 22 * MIB
    assert arena([]) == 0


def test_stand_ins_lie_in_no_piece() -> None:
    made = StandIns(torch.device("cuda", 0)).of(torch.ones(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's, of an address that is none
        assert list(storages([made], {0: 4096}).values()) == [512]


def test_a_product_copies_its_operands_before_its_result() -> None:
    """Heads that lie in a joint projection: found in the allocations of a Swin's capture."""

    class Scores(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k = x.unflatten(-1, (2, 3, 32)).permute(2, 0, 3, 1, 4)
            return q @ k.transpose(-1, -2)

    planned = lt.plan(Scores(), torch.empty(2048, 49, 192, device="meta"), device="h200")
    copies, result = 4 * 2048 * 3 * 49 * 32, 4 * 2048 * 3 * 49 * 49
    found = [(x.kind, x.nbytes) for x in planned.timeline.blocks if x.operation == "matmul"]
    assert found == [("workspace", copies), ("workspace", copies), ("library", result)]


def test_a_result_that_is_made_behind_a_replay_is_in_no_pool() -> None:
    class Scored(nn.Module):
        def __init__(self, words: int) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(256, 256), nn.Linear(256, words)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.inner(x).relu())

    with torch.device("meta"):
        small, large = (
            lt.plan(Scored(words), torch.empty(4096, 256), device="h200") for words in (1000, 1024)
        )
    assert small.replayed is None and large.replayed is not None
    assert 4 * 4096 * 1024 in [x.nbytes for x in large.timeline.blocks]
    assert 4 * 4096 * 1024 not in [x.nbytes for x in large.replayed.blocks]
    assert large.captured_bytes >= large.held + large.pool + 4 * 4096 * 1024


def test_a_plan_says_what_the_captured_program_takes() -> None:
    model = nn.Sequential(nn.Linear(4096, 4096), nn.GELU(), nn.Linear(4096, 4096))
    x = torch.empty(4096, 4096, device="meta")
    found = lt.plan(model.to("meta"), x, device="h200")
    assert found.pool + 4 * 4096 * 4096 >= found.values  # the result is made behind the graph
    assert found.needed_bytes == found.captured_bytes >= found.peak_bytes
    assert "captured as a CUDA graph" in str(found)
    here = lt.plan(model, x, device="cpu")
    assert here.pool == 0 and here.needed_bytes == here.peak_bytes
    assert "captured" not in str(here)


class User:
    """Stands for a capture."""


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool without a GPU."""
    monkeypatch.setattr(pool, "Memory", lambda *_: SimpleNamespace(asked=0))
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return Pool(torch.device("cpu"))


def test_memory_goes_with_its_last_user(shared: Pool) -> None:
    first, second = User(), User()
    memory: Any = SimpleNamespace(asked=0)
    shared.values = memory
    shared.serve(first)
    shared.serve(second)
    del first
    assert shared.values is memory
    shared.settle()
    assert shared.values is memory
    del second
    assert shared.values is None


def test_a_user_that_goes_while_somebody_records_takes_nothing_away(shared: Pool) -> None:
    user = User()
    memory: Any = SimpleNamespace(asked=0)
    shared.values = memory
    shared.serve(user)
    with shared.lock:
        gone = [user]
        del user
        thread = threading.Thread(target=gone.clear)
        thread.start()
        thread.join()
        assert shared.values is memory
    shared.settle()
    assert shared.values is None


def private() -> tuple[int, int]:
    """Bytes in the pools of CUDA graphs, and how many of them are taken."""
    found = [x for x in torch.cuda.memory_snapshot() if tuple(x["segment_pool_id"]) != (0, 0)]
    return sum(x["total_size"] for x in found), sum(x["allocated_size"] for x in found)


@gpu
def test_a_captured_program_takes_what_its_plan_says_and_gives_it_back() -> None:
    gc.collect()
    lt.reset()
    width = 2048
    model = nn.Sequential(
        nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.LayerNorm(width)
    ).to("cuda", torch.bfloat16)
    fast = lt.compile(model, wait=True, static_inputs=True)
    x = torch.randn(8192, width, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        want = model(x)
        torch.cuda.empty_cache()
        before, _ = private()
        for _ in range(3):
            torch.testing.assert_close(fast(x), want, rtol=0.02, atol=0.02)
        stage = fast.programs()[0]
        assert isinstance(stage.replay, Replayer) and stage.replay.captured is not None
        planned = fast.memory(x)
        now, _ = private()
        library = planned.stays // 2 + 4 * MIB
        assert planned.pool - 4 * MIB <= now - before <= planned.pool + library
        del stage
        fast.release()
        gc.collect()
        torch.cuda.empty_cache()
        assert private()[0] - before <= library
        for _ in range(3):
            torch.testing.assert_close(fast(x), want, rtol=0.02, atol=0.02)
