"""Checksums of tensors: what `check=True` compares to see writes that torch does not count."""

from __future__ import annotations

import zlib
from typing import Any

import torch

_CHUNK = 1 << 20  # 8-byte words weighed at once, so that little memory is taken beside the tensor


def checksum(x: torch.Tensor) -> tuple[object, ...]:
    """A value that differs, all but surely, when any byte, place or type of `x` does.

    CRC-32 on the CPU; elsewhere a sum of words weighed by their place, with one synchronization.
    """
    typed = (tuple(x.shape), x.stride(), x.dtype, x.device)
    data = x.detach().contiguous().reshape(-1).view(torch.uint8)
    if x.device.type == "cpu":
        buffer: Any = data.numpy()  # its stubs do not say that it is a buffer
        return (*typed, zlib.crc32(buffer))
    return (*typed, *weighed(data))


def weighed(data: torch.Tensor) -> tuple[int, ...]:
    """The sum of the 8-byte words of flat bytes weighed by their place, then the bytes left."""
    if data.storage_offset() % 8:
        data = data.clone()  # words must start at a multiple of their size
    tail = data.numel() % 8
    words = data[: data.numel() - tail].view(torch.int64)
    total = torch.zeros((), dtype=torch.int64, device=data.device)
    for start in range(0, words.numel(), _CHUNK):
        part = words[start : start + _CHUNK]
        weight = torch.arange(start, start + part.numel(), device=data.device).mul_(2).add_(1)
        total += ((part ^ (part >> 31)) * (weight * 0x9E3779B97F4A7C1 | 1)).sum()
    return int(total.item()), *data[data.numel() - tail :].tolist()
