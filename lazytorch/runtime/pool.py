"""The memory of CUDA graphs, which all graphs of one device share, and whose turn it is.

Values of all graphs lie in one pool of torch's allocator: no two graphs are replayed at a time. It
goes when no graph uses it any more; the next one has another. What cuBLAS keeps for the stream on
which graphs are recorded lies in a pool that stays: a graph goes on using the workspace that there
was when it was recorded.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import TypeVar

import torch

from lazytorch.frontend.modes import uncollected
from lazytorch.lower.tables import recording

Result = TypeVar("Result")


class Memory:
    """A pool of torch's allocator. Torch takes a pool away with its last graph: one stays."""

    def __init__(self, device: torch.device, side: torch.cuda.Stream) -> None:
        self.handle = torch.cuda.graph_pool_handle()
        self.first = torch.cuda.CUDAGraph()
        self.asked = 0  # bytes of the largest piece that was asked for
        self.lost = False  # to a capture that failed in a way that torch does not recover from
        recorded(side, self, self.first, partial(torch.zeros, 1, device=device))


class Pool:
    """The memory of all graphs of one device, the stream on which they are recorded, and turns."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.side = torch.cuda.Stream(device)
        self.lock = threading.Lock()
        self.last: torch.cuda.Stream | None = None
        self.handle_of_last = -1
        self.library = Memory(device, self.side)
        self.values: Memory | None = None
        self.users: set[int] = set()  # captures whose values lie there

    def enter(self) -> None:
        """Wait, on the present stream, for the replay before this one."""
        handle = torch._C._cuda_getCurrentRawStream(self.device.index)
        if handle != self.handle_of_last:  # asked without making a Stream
            now = torch.cuda.current_stream(self.device)
            if self.last is not None:
                now.wait_stream(self.last)
            self.last, self.handle_of_last = now, handle

    def prepare(self) -> None:
        """Let libraries have what they keep for this thread and the stream of recordings, in memory
        that stays; a thread's handle cannot be made while a graph is recorded."""
        with suppress(RuntimeError):  # of deterministic algorithms, where nothing else asks for it
            product(self.device)
            recorded(self.side, self.library, torch.cuda.CUDAGraph(), partial(product, self.device))

    def settle(self) -> None:
        """Before a capture: what direct runs and measuring left idle goes back to the device."""
        if not self.users:
            self.values = None
        torch.cuda.empty_cache()

    def serve(self, user: object) -> None:
        """Stay for as long as there is a capture whose values lie here."""
        key = id(user)
        self.users.add(key)
        weakref.finalize(user, self.leave, key).atexit = False

    def leave(self, key: int) -> None:
        """A capture is gone; it may be while this thread, or another, records or replays."""
        self.users.discard(key)
        if not self.users and self.lock.acquire(blocking=False):
            try:
                if not self.users:
                    self.values = None
            finally:
                self.lock.release()


@cache
def pool_of(device: torch.device) -> Pool:
    """The pool of a device; one for the process."""
    return Pool(device)


def capture(
    pool: Pool, graph: torch.cuda.CUDAGraph, call: Callable[[], Result], arena: int = 0
) -> tuple[Result, torch.Tensor | None]:
    """What `call` returns, its launches recorded in `graph` instead of done; and what must live as
    long as the graph besides, if anything. It finds an `arena` of so many bytes (`lower.arena`)."""
    if pool.values is None or pool.values.lost:
        pool.values = Memory(pool.device, pool.side)
    values = pool.values
    asked = 0
    if arena > values.asked and cuts():
        values.asked = asked = arena

    def whole() -> Result:
        if asked:
            torch.empty(asked, dtype=torch.uint8, device=pool.device)
        return call()

    return recorded(pool.side, values, graph, whole)


def recorded(
    side: torch.cuda.Stream,
    memory: Memory,
    graph: torch.cuda.CUDAGraph,
    call: Callable[[], Result],
) -> tuple[Result, torch.Tensor | None]:
    """The same, on a stream and in a pool."""
    before = torch.cuda.current_stream(side.device)
    generator = torch.cuda.default_generators[before.device_index]
    state, ended = generator.clone_state(), False
    side.wait_stream(before)
    # Memory of tables is no graph's: it comes first. Memory freed by a collection in here would
    # belong to no stream.
    with recording(side.device) as tables, uncollected(), torch.cuda.stream(side):
        try:
            graph.capture_begin(pool=memory.handle, capture_error_mode="thread_local")
            try:
                result = call()
            finally:
                graph.capture_end()
                ended = True
        except RuntimeError:
            if not ended:
                generator.graphsafe_set_state(state)  # the old one takes itself for captured
                left(memory, before.device_index)
            raise
    before.wait_stream(side)
    return result, tables.fill()


def left(memory: Memory, device: int) -> None:
    """Leave a pool in which a capture was lost to what waits for the device: torch's allocators go
    on recording there, that of the host's memory for good."""
    memory.lost = True
    for end in (torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool):
        with suppress(RuntimeError):
            end(device, memory.handle)


def product(device: torch.device) -> None:
    """A product with a bias, for which cuBLAS and cuBLASLt take their workspaces."""
    x = torch.zeros(16, 16, dtype=torch.half, device=device)
    torch.addmm(x[0], x, x)


def cuts() -> bool:
    """Whether torch's allocator cuts large pieces, as it does unless it was told otherwise."""
    told = os.environ.get("PYTORCH_ALLOC_CONF", os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""))
    return torch.cuda.get_allocator_backend() == "native" and "max_split_size" not in told
