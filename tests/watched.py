"""Runs a kernel in Triton's interpreter and watches what it reads and writes, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter


@dataclass
class Watch:
    """Addresses that kernels read and wrote, each as often as it happened."""

    read: list[Any] = field(default_factory=list[Any])
    written: list[Any] = field(default_factory=list[Any])

    def check(self, operands: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """Reads lie inside the operands, and every element of the outputs is written once."""
        places = [addresses(x) for x in operands]
        own = np.unique(np.concatenate([*places, np.zeros(0, np.uint64)]))
        read = np.unique(np.concatenate([*self.read, np.zeros(0, np.uint64)]))
        outside = np.setdiff1d(read, own)
        assert not len(outside), f"{len(outside)} reads are of no operand's element"
        wanted = np.sort(np.concatenate([addresses(x) for x in outputs]))
        written = np.sort(np.concatenate([*self.written, np.zeros(0, np.uint64)]))
        assert np.array_equal(np.unique(wanted), np.unique(written)), "not all, or others"
        assert len(wanted) == len(written), f"{len(written)} writes of {len(wanted)} elements"


def addresses(x: torch.Tensor) -> Any:
    """Where the elements of a tensor lie."""
    at = np.zeros((), np.int64)
    for size, stride in zip(x.shape, x.stride(), strict=True):
        at = at[..., None] + np.arange(size, dtype=np.int64) * stride
    return (at.reshape(-1) * x.element_size() + x.data_ptr()).astype(np.uint64)


def shown(mask: Any, ptrs: Any) -> Any:
    """Which of the addresses a mask lets through."""
    return np.broadcast_to(mask.data.astype(bool), ptrs.data.shape)


@contextmanager
def watched() -> Iterator[Watch]:
    """Watches the kernels that run inside; what a mask leaves out reads as a strange number."""
    watch = Watch()
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def loading(self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any) -> Any:
        watch.read.append(ptrs.data[shown(mask, ptrs)].reshape(-1))
        found = load(self, ptrs, mask, other, *rest)
        if other is None:
            data, hidden = found.data, ~shown(mask, ptrs)
            if hidden.any():
                strange = np.frombuffer(b"\xff" * data.dtype.itemsize, data.dtype)[0]  # NaN, -1
                if data.dtype == np.bool_:
                    strange = True
                found.data = np.where(hidden, strange, data)
        return found

    def storing(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        watch.written.append(ptrs.data[shown(mask, ptrs)].reshape(-1))
        return store(self, ptrs, value, mask, *rest)

    builder.create_masked_load, builder.create_masked_store = loading, storing
    try:
        yield watch
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
