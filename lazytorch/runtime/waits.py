"""Whether what runs waits for the GPU: a CUDA graph cannot hold that.

A capture that meets such an operation is lost, and torch's random generator with it, which goes on
taking itself for captured. So it is found out in a direct run before.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch

WARNS = 1
TOLD = "called a synchronizing CUDA operation"


@contextmanager
def waits() -> Generator[list[str]]:
    """Around what runs; the list has an entry for each time that it waited, as far as torch knows.

    Where the user asked torch to tell of such operations, that is left to torch.
    """
    found: list[str] = []
    if torch.cuda.get_sync_debug_mode():
        yield found
        return
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode(WARNS)
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode(0)
    finally:
        sort(caught, found)


def sort(caught: list[warnings.WarningMessage], found: list[str]) -> None:
    """Keep what tells of waiting, and give on the rest."""
    for x in caught:
        if TOLD in str(x.message):
            found.append(f"{x.filename}:{x.lineno}")
        elif "Synchronization debug mode" not in str(x.message):
            warnings.warn_explicit(x.message, x.category, x.filename, x.lineno)
