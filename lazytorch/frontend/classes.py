"""Classes whose objects a function reaches: what of them its code may run and read, and what they
do not have yet."""

from __future__ import annotations

import types
from collections.abc import Iterator, Set
from typing import Any

from lazytorch.frontend import code

_MAKING = frozenset({"__init__", "__new__", "__post_init__"})
"""What runs when an object is made."""
_APART = frozenset({"__repr__", "__del__", "__init_subclass__"})
"""What no result depends on."""

Member = tuple[type, str | None, list[types.FunctionType]]


def members(kind: type, made: bool) -> Iterator[Member]:
    """The attributes of a class and of its bases that matter, with the functions that are in them;
    without a name where only those do. `made` says that code makes objects of the class."""
    for base in kind.__mro__:
        if code.library(base.__module__):
            continue
        if not code.users_class(base):
            yield base, None, list(code.python(vars(base).get("forward")))
            continue
        for name, value in list(vars(base).items()):
            functions = list(code.python(value))
            if not name.startswith("__") or runs(base, name, functions, made):
                yield base, name, functions


def runs(base: type, name: str, functions: list[types.FunctionType], made: bool) -> bool:
    """Whether a special method is the user's, and one that what a forward does may run."""
    if name in _APART or (name in _MAKING and not made):
        return False
    by_dataclass = "__dataclass_fields__" in vars(base)  # written from the names of all fields
    return any(not by_dataclass or f.__code__.co_filename != "<string>" for f in functions)


def lacking(kind: type, named: Set[str], stored: Set[str]) -> Iterator[tuple[type, str]]:
    """What a class of the user's does not have yet: what code sets, and what would come before
    that which it has from others."""
    above: set[str] = set()
    for base in reversed(kind.__mro__[:-1]):
        if code.users_class(base):
            for name in sorted((above | stored) & (named - vars(base).keys())):
                yield base, name
        above |= vars(base).keys()


def names(kind: type) -> set[str]:
    """The attributes of a class and of its bases."""
    return {name for base in kind.__mro__[:-1] for name in vars(base)}


def slotted(value: object, named: Set[str]) -> list[str]:
    """The named fields of an object that its classes have places for."""
    found: list[str] = []
    for kind in type(value).__mro__:
        places: Any = vars(kind).get("__slots__", ())
        found += [places] if isinstance(places, str) else list(places)
    return [name for name in found if name in named]
