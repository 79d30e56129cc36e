"""Dictionaries that a plan relies on, compared whole, in order and by identity.

A model has hundreds of them: modules' parameters, buffers, submodules and hooks. Python compares
them one by one; a compiled function, which the runtime brings, takes a third of that time. Where it
says no, or is not there, Python's own comparison counts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, ClassVar

Compare = Callable[..., int]


class Dicts:
    """Some dictionaries, with what they held when they were last found unchanged."""

    compiled: ClassVar[Compare | None] = None
    """From addresses of dictionaries, how many they are, their sizes, and addresses of their keys
    and values in turn: 1 if they hold just these."""

    def __init__(self, dicts: Sequence[dict[Any, Any]]) -> None:
        self.dicts = dicts
        self.call: Callable[[], int] | None = None if dicts else lambda: 1
        # An ordered dictionary has an order of its own, which only matters if it has entries.
        self.plain = all(type(d) is dict or not d for d in dicts)

    def same(self, look: Callable[[], bool]) -> bool:
        """Whether they hold what they held, which `look` finds out in Python."""
        if self.call is not None and self.call():
            return True
        if not look():
            return False
        if self.compiled is not None and self.plain:
            call = compared(self.compiled, self.dicts)
            self.call = call if look() else None  # no other thread has written meanwhile
        return True


def compared(compare: Compare, dicts: Sequence[dict[Any, Any]]) -> Callable[[], int]:
    """What compares dictionaries with what they hold now."""
    held = [list(d.items()) for d in dicts]
    entries = list(chain.from_iterable(chain.from_iterable(held)))
    sizes = (ctypes.c_int64 * len(held))(*map(len, held))
    addresses = (ctypes.c_void_p * len(held))(*map(id, dicts))
    values = (ctypes.c_void_p * len(entries))(*map(id, entries))
    given = (ctypes.byref(addresses), len(held), ctypes.byref(sizes), ctypes.byref(values))
    # What they hold is kept: while it lives, no other object has its addresses.
    return lambda kept=(dicts, entries): compare(*given)
