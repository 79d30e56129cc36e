"""Places outside the arguments where a function finds tensors and values: `store[name]`."""

from __future__ import annotations

import types
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

Store = dict[Any, Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place that holds a tensor or a value: `store[name]`, called `label` in graphs.

    `registered` are a module's parameters and buffers.
    """

    store: Store
    name: Any
    label: str
    registered: bool = False


class CellStore(dict[str, Any]):
    """A closure cell seen as a dictionary with one entry, so that slots need one form."""

    def __init__(self, cell: types.CellType) -> None:
        super().__init__()
        self.cell = cell

    def __getitem__(self, name: str) -> Any:
        return self.cell.cell_contents

    def __setitem__(self, name: str, value: Any) -> None:
        self.cell.cell_contents = value

    def get(self, name: str, default: Any = None) -> Any:
        """The cell's present content."""
        try:
            return self.cell.cell_contents
        except ValueError:
            return default

    def pop(self, name: str, default: Any = None) -> None:
        """Empty the cell."""
        with suppress(ValueError):
            del self.cell.cell_contents


class ListStore(dict[Any, Any]):
    """A list seen as a dictionary from positions to entries."""

    def __init__(self, entries: list[Any]) -> None:
        super().__init__()
        self.entries = entries

    def __getitem__(self, name: int) -> Any:
        return self.entries[name]

    def __setitem__(self, name: int, value: Any) -> None:
        self.entries[name] = value

    def get(self, name: int, default: Any = None) -> Any:
        """The present entry."""
        return self.entries[name] if name < len(self.entries) else default


class FieldStore(dict[str, Any]):
    """Attributes that are no entry of a `__dict__`: those of classes and functions, of `__slots__`,
    and what each thread has of its own."""

    def __init__(self, owner: object) -> None:
        super().__init__()
        self.owner = owner
        entries = vars(owner) if isinstance(owner, type) else None
        self.entries: Mapping[str, Any] | None = entries

    def __getitem__(self, name: str) -> Any:
        return getattr(self.owner, name) if self.entries is None else self.entries[name]

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self.owner, name, value)

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute's present value."""
        try:
            return self[name]
        except (AttributeError, KeyError):
            return default

    def pop(self, name: str, default: Any = None) -> None:
        """Delete the attribute."""
        with suppress(AttributeError):
            delattr(self.owner, name)


class ContextStore(dict[str, Any]):
    """A context variable seen as a dictionary with one entry."""

    def __init__(self, variable: ContextVar[Any]) -> None:
        super().__init__()
        self.variable = variable

    def __getitem__(self, name: str) -> Any:
        return self.variable.get()

    def __setitem__(self, name: str, value: Any) -> None:
        self.variable.set(value)

    def __contains__(self, name: object) -> bool:
        return self.get("", self) is not self

    def get(self, name: str, default: Any = None) -> Any:
        """What the variable says in this context."""
        try:
            return self.variable.get()
        except LookupError:
            return default
