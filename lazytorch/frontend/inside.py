"""What objects of Python's own library hold, and how they are looked into: views of dictionaries,
wrappers of containers, references, memory of numbers, iterators."""

from __future__ import annotations

import array
import gc
import io
import threading
import types
import weakref
from collections import ChainMap, UserDict, UserList, UserString
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any

import numpy as np

from lazytorch.frontend import code

NUMBERS = (np.ndarray, array.array, bytearray, memoryview)
"""Memory of numbers, compared byte by byte."""
_WRAPPERS = (UserDict, UserList, UserString, ChainMap, weakref.WeakValueDictionary, weakref.WeakSet)
_VIEWS = (types.MappingProxyType, KeysView, ValuesView, ItemsView)


def inside(value: Any) -> list[Any]:
    """What an object of Python's own library shows of others: nothing for most."""
    if isinstance(value, _WRAPPERS):
        return [vars(value)]
    if isinstance(value, _VIEWS):
        return gc.get_referents(value)  # the only way to the dictionary of a view
    if isinstance(value, weakref.ReferenceType):
        return [value()]
    return []


def bytes_of(numbers: Any) -> bytes:
    """What memory of numbers holds now."""
    return bytes(numbers) if isinstance(numbers, bytearray) else numbers.tobytes()


def goes_on(value: object) -> bool:
    """Whether an object is an iterator that no code of the user's defines: a generator, a counter,
    what runs through a list. It is another one after each `next`, and nothing tells."""
    return (
        isinstance(value, Iterator)
        and not isinstance(value, io.IOBase)
        and not code.users_class(type(value))
    )

    """An object's own attributes, of this thread; none where it has no `__dict__`."""
    return vars(value) if hasattr(value, "__dict__") else {}


def of_threads(value: object) -> bool:
    """Whether each thread has attributes of its own."""
    return isinstance(value, threading.local)
