"""Values that wait in the host's memory: copies there and back, beside what the device computes.

A copy begins where its value is there (`ToHost`), and the value's memory may go once it has ended
(`Sent`). A copy back begins with memory for it (`FromHost`), and has ended before the value is read
(`Received`). What each of them waits for are further operands: the graph says when copies begin,
and by when they must have ended. On a GPU they run on streams of their own, one each way, from and
to pinned memory; on the CPU they are copies and nothing more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Op
from lazytorch.types import OpaqueType, Shape, Strides, TensorType, Type

Result = TypeVar("Result")

PARCEL = OpaqueType(0, torch.device("cpu"))
"""The type of a value in the host's memory: it takes nothing of the device's."""


@dataclass
class Parcel:
    """A value in the host's memory, and the end of the last copy from or to it, on a GPU."""

    memory: torch.Tensor
    copied: torch.cuda.Event | None = None


class Transfer(Op, abstract=True):
    """A part of the way to the host's memory or back."""


class ToHost(Transfer):
    """A copy of a value to the host's memory begins."""

    def infer(self, x: TensorType) -> OpaqueType:
        return PARCEL

    def run(self, x: torch.Tensor) -> Parcel:
        if x.device.type != "cuda":
            return Parcel(x.clone())
        memory = pinned(x)
        return Parcel(memory, copied(memory, x, lanes(x.device)[0]))


class Sent(Transfer):
    """The copy of the second operand has ended; and the others are there."""

    view: ClassVar[bool] = True

    def infer(self, parcel: OpaqueType, x: TensorType, *others: Type) -> OpaqueType:
        return parcel

    def run(self, parcel: Parcel, x: torch.Tensor, *others: Any) -> Parcel:
        wait(parcel, x)
        return parcel


class FromHost(Transfer):
    """Memory to which the value is being copied back, from when the other operands are there."""

    shape: Shape
    strides: Strides
    dtype: torch.dtype
    device: torch.device

    def infer(self, parcel: OpaqueType, *others: Type) -> TensorType:
        return TensorType(self.shape, self.dtype, self.device, self.strides)

    def run(self, parcel: Parcel, *others: Any) -> torch.Tensor:
        x = torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device)
        if x.device.type != "cuda":
            return x.copy_(parcel.memory)
        parcel.copied = copied(x, parcel.memory, lanes(x.device)[1])
        return x


class Received(Transfer):
    """The first operand, to which its copy has ended; and the others are there."""

    view: ClassVar[bool] = True

    def infer(self, x: TensorType, parcel: OpaqueType, *others: Type) -> TensorType:
        return x

    def run(self, x: torch.Tensor, parcel: Parcel, *others: Any) -> torch.Tensor:
        wait(parcel, x)
        return x


def lanes(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """The streams of copies from a device to the host and back: this thread's, since a stream that
    takes part in one thread's recording must not be used by others meanwhile."""
    return lanes_of(device, threading.get_ident())


@cache
def lanes_of(device: torch.device, thread: int) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """Those of a thread."""
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


def copied(to: torch.Tensor, source: torch.Tensor, lane: torch.cuda.Stream) -> torch.cuda.Event:
    """Begin to copy once all that was asked of the present stream is done; the end of it."""
    lane.wait_stream(torch.cuda.current_stream(lane.device))
    with torch.cuda.stream(lane):
        to.copy_(source, non_blocking=True)
        event = torch.cuda.Event()
        event.record(lane)
        return event


def wait(parcel: Parcel, x: torch.Tensor) -> None:
    """The present stream goes on when the last copy has ended."""
    if parcel.copied is not None:
        torch.cuda.current_stream(x.device).wait_event(parcel.copied)


def landed(device: torch.device) -> None:
    """Wait for all copies, where a call that began some has failed: none may write into memory that
    is let go. A recording copies nothing, and cannot wait."""
    if not torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize(device)


class _Shelf(threading.local):
    """Pinned memory for what this thread records."""

    left: Iterator[torch.Tensor] | None = None


_shelf = _Shelf()


def shelved(call: Callable[[], Result], memory: Sequence[torch.Tensor]) -> Callable[[], Result]:
    """`call`, recorded in a CUDA graph: its copies to the host find their memory here, in the order
    in which they begin. It must live as long as the graph."""

    def whole() -> Result:
        before, _shelf.left = _shelf.left, iter(memory)
        try:
            return call()
        finally:
            _shelf.left = before

    return whole


def pinned(like: torch.Tensor) -> torch.Tensor:
    """Pinned memory with a tensor's geometry; of the shelf, while a CUDA graph is recorded, which
    uses it again at each replay."""
    if not torch.cuda.is_current_stream_capturing():
        return pinned_as(like.shape, like.stride(), like.dtype)
    if _shelf.left is None:
        raise UnsupportedError(
            "values that wait in the host's memory cannot be recorded in a CUDA graph of your own",
            hint="call the step outside of it: it is captured by itself",
        )
    memory = next(_shelf.left)
    assert memory.shape == like.shape and memory.dtype is like.dtype, "copies in another order"
    return memory


def pinned_as(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Pinned memory of a geometry."""
    return torch.empty_strided(shape, strides, dtype=dtype, pin_memory=True)
