"""Large results of C++ kernels lie on huge pages; what they hold is the same."""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

import pytest
import torch

import lazytorch as lt
from lazytorch.lower.cpp import pages
from lazytorch.lower.cpp.pages import LARGE, allocator, madvise
from lazytorch.types import tensor_type

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
GIVEN = ENABLED.exists() and "[never]" not in ENABLED.read_text()


def advised(place: int) -> bool:
    """Whether the mapping with this address has been asked to lie on huge pages: how many it gets,
    and when, is the system's to say."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= place < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    return False


def told() -> bool:
    """Whether this system tells what was asked of it."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, LARGE, private) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        first = ctypes.c_char.from_buffer(memory)
        found = advised(ctypes.addressof(first) + LARGE // 2)
        del first
    return found


@pytest.mark.skipif(
    not GIVEN or madvise() is None or not told(), reason="the system has no huge pages to give"
)
def test_a_large_result_is_asked_onto_huge_pages() -> None:
    x = torch.randn(LARGE // 4 + 5)
    fast = lt.compile(lambda x: torch.relu(x * 2 + 1), wait=True)
    for _ in range(2):
        found = fast(x)
    assert torch.equal(found, torch.relu(x * 2 + 1))
    assert advised(found.data_ptr() + found.nbytes // 2)
    assert not advised(x.data_ptr() + x.nbytes // 2)


def test_a_small_result_is_torchs_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def advise(begin: int, length: int, wanted: int) -> int:
        asked.append(length)
        return -1  # a system that has none

    monkeypatch.setattr(pages, "madvise", lambda: advise)
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 14, raising=False)
    shape = (LARGE // 4 - 1,)
    assert allocator(tensor_type(shape, torch.float32, torch.device("cpu")))().shape == shape
    assert not asked
    made = allocator(tensor_type((2, LARGE // 8), torch.float32, torch.device("cpu")))()
    assert made.shape == (2, LARGE // 8) and made.is_contiguous()
    (length,) = asked
    assert made.nbytes - mmap.PAGESIZE < length <= made.nbytes


def test_a_system_without_such_pages_is_asked_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "madvise", lambda: None)
    made = allocator(tensor_type((LARGE,), torch.int8, torch.device("cpu")))()
    assert made.shape == (LARGE,) and made.dtype is torch.int8
