"""Allocates what kernels write; large results lie on huge pages.

glibc maps a block of 32 MiB or more anew each time that it is asked for (M_MMAP_THRESHOLD in
mallopt(3)), and the first write to each of its pages is a fault, which of pages of 4 KiB takes
longer than most kernels do. Linux gives pages of 2 MiB where a program asks for them
(MADV_HUGEPAGE in madvise(2)); no other system, and no smaller result, is asked for anything.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from functools import cache, partial

import torch

from lazytorch.types import TensorType

LARGE = 32 << 20
"""Bytes of a result that lies in memory which was never written."""

Advise = Callable[[int, int, int], int]


def allocator(x: TensorType) -> Callable[[], torch.Tensor]:
    """What makes a tensor of the type, of which nothing is written yet."""
    allocate = partial(torch.empty_strided, x.shape, x.strides, dtype=x.dtype)
    advise = madvise()
    if x.nbytes < LARGE or advise is None:
        return allocate

    def on_huge_pages() -> torch.Tensor:
        made = allocate()
        memory = made.untyped_storage()
        begin = -(-memory.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        # Where the system has no such pages it says so, and nothing is different.
        advise(begin, memory.data_ptr() + memory.nbytes() - begin, mmap.MADV_HUGEPAGE)
        return made

    return on_huge_pages


@cache
def madvise() -> Advise | None:
    """The system's advice on memory: an address, a length and what is wanted; None without it."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found
