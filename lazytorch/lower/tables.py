"""Tables of addresses: how a kernel on a GPU finds hundreds of tensors.

A table holds what one launch reads, and is never changed while a launch may read it: other
addresses make another one. While a CUDA graph is recorded nothing can be copied from the host: the
graph would read the host's memory again at each replay. Its tables get their memory before and
their values after, for as long as the graph is replayed.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch

ROOM = 1 << 17
"""Numbers that the tables of one recording hold together: 1 MiB."""

KEPT = 8
"""Tables of one call site that are remembered."""

EVEN = 2
"""Tables begin at multiples of so many numbers: of 16 bytes, as tensors of torch's own do."""


class Recorded:
    """The tables of one recording."""

    def __init__(self, device: torch.device) -> None:
        self.memory = torch.empty(ROOM, dtype=torch.int64, device=device)
        self.values: list[int] = []

    def table(self, values: Sequence[int]) -> torch.Tensor | None:
        """Memory for a table; None where there is no room for it."""
        first = -(-len(self.values) // EVEN) * EVEN
        if first + len(values) > ROOM:
            return None
        self.values += [0] * (first - len(self.values))
        self.values += values
        return self.memory[first : len(self.values)]

    def fill(self) -> torch.Tensor | None:
        """Fill all of them, now that nothing is recorded; their memory, which must live as long as
        what was recorded."""
        if not self.values:
            return None
        self.memory[: len(self.values)].copy_(torch.tensor(self.values))
        return self.memory


class _Recording(threading.local):
    """What this thread records."""

    now: Recorded | None = None


_recording = _Recording()


@contextmanager
def recording(device: torch.device) -> Generator[Recorded]:
    """Around a recording by this thread: its tables, which are to be filled afterwards."""
    before, _recording.now = _recording.now, Recorded(device)
    try:
        yield _recording.now
    finally:
        _recording.now = before


class Tables:
    """The tables of one call site, the last ones remembered by what is in them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known: dict[tuple[int, ...], torch.Tensor] = {}

    def find(self, *values: int) -> torch.Tensor | None:
        """A table of `values`; None while somebody else records, who would not fill it."""
        stream = 0
        if self.device.type == "cuda":
            if torch.cuda.is_current_stream_capturing():
                now = _recording.now
                return None if now is None else now.table(values)
            # Memory that is given back is used again in the order of the stream that it was for.
            stream = torch._C._cuda_getCurrentRawStream(self.device.index or 0)
        key = (stream, *values)
        found = self.known.get(key)
        if found is None:
            if len(self.known) == KEPT:
                self.known.clear()
            found = self.known[key] = uploaded(values, self.device)
        return found


def uploaded(values: Sequence[int], device: torch.device) -> torch.Tensor:
    """The values in a device's memory, without waiting for what the device does."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=torch.int64)
    here = torch.tensor(values, dtype=torch.int64, pin_memory=True)
    return here.to(device, non_blocking=True)
