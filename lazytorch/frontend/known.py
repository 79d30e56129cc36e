"""Places and what they held: compared all at once by identity, listed where they differ, and
given other contents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from operator import contains, getitem, is_
from typing import Any

import torch

from lazytorch.frontend.places import CellStore, FieldStore, Slot
from lazytorch.frontend.reach import ATOMS, Holder, dotted

ABSENT = object()  # in place of a value that is not there
_END = object()  # closes both sides of a comparison, so that neither may be longer


@dataclass(frozen=True)
class Change:
    """A place whose content is another one than when it was looked at first."""

    place: Slot | Holder
    label: str
    old: Any
    new: Any
    key: str = ""

    def __str__(self) -> str:
        if isinstance(self.place, Holder) and self.place.label == self.label:
            return f"{self.label} has other entries"
        return f"{self.label}: {short(self.old)} -> {short(self.new)}"


class Known:
    """A group of places with what they held, compared all at once by identity."""

    def __init__(self, slots: list[Slot], holders: list[Holder]) -> None:
        entries = [s for s in slots if attribute(s) is None]
        there = [s for s in entries if s.store.get(s.name, ABSENT) is not ABSENT]
        lacking = [s for s in entries if s.store.get(s.name, ABSENT) is ABSENT]
        fields = [(s, *x) for s in slots if (x := attribute(s)) is not None]
        self.slots = [*there, *[s for s, _, _ in fields], *lacking]
        self.holders = holders
        self.stores, self.keys = [mapping(s) for s in there], [s.name for s in there]
        self.owners, self.names = [x for _, x, _ in fields], [name for _, _, name in fields]
        self.lacking, self.lacked = [mapping(s) for s in lacking], [s.name for s in lacking]
        self.views = [view for h in holders for view in views(h.container)] + [(_END,)]
        self.fields, self.contents = self.base = self.present()
        found = self.fields[: len(self.slots) - len(lacking)]
        self.flat = [*found, *chain.from_iterable(self.contents), _END]

    def present(self) -> tuple[list[Any], list[list[Any]]]:
        """What the places hold now."""
        fields = [slot.store.get(slot.name, ABSENT) for slot in self.slots]
        return fields, [content(h.container) for h in self.holders]

    def accept(self, before: tuple[list[Any], list[list[Any]]]) -> None:
        """Count what changed since `before` as done for good; only `restore` asks."""
        fields, contents = self.present()
        known = zip(before[0], fields, self.base[0], strict=True)
        held = zip(before[1], contents, self.base[1], strict=True)
        self.base = (
            [x if now is then else now for then, now, x in known],
            [x if identical(then, now) else now for then, now, x in held],
        )

    def restore(self, wanted: tuple[list[Any], list[list[Any]]]) -> None:
        """Give the places other contents."""
        for slot, old in zip(self.slots, wanted[0], strict=True):
            if slot.store.get(slot.name, ABSENT) is not old:
                put(slot, old)
        for holder, old in zip(self.holders, wanted[1], strict=True):
            if not identical(old, content(holder.container)):
                fill(holder.container, old)

    def same(self) -> bool:
        """Whether every place holds the very same objects; one pass in C."""
        if not self.slots and not self.holders:
            return True
        try:
            now = chain(
                map(getitem, self.stores, self.keys),
                map(getattr, self.owners, self.names, repeat(ABSENT)),
                chain.from_iterable(self.views),
            )
            if any(map(contains, self.lacking, self.lacked)):
                return False
            return all(map(is_, now, self.flat))
        except (LookupError, ValueError, AttributeError, RuntimeError):
            return False  # a place is gone

    def changes(self, since: tuple[list[Any], list[list[Any]]]) -> Iterator[Change]:
        """Places that hold other objects than they did."""
        for slot, old in zip(self.slots, since[0], strict=True):
            new = slot.store.get(slot.name, ABSENT)
            if new is not old:
                yield Change(slot, slot.label, old, new)
        for holder, old in zip(self.holders, since[1], strict=True):
            new = content(holder.container)
            if not identical(old, new):
                yield from entries(holder, old, new)


def attribute(slot: Slot) -> tuple[object, str] | None:
    """The object and the attribute that a place is, where it is one."""
    store = slot.store
    if isinstance(store, CellStore):
        return store.cell, "cell_contents"
    if isinstance(store, FieldStore) and store.entries is None:
        return store.owner, slot.name
    return None


def mapping(slot: Slot) -> Any:
    """What a place is an entry of."""
    return slot.store.entries if isinstance(slot.store, FieldStore) else slot.store


def views(container: Any) -> tuple[Iterable[Any], ...]:
    """Live iterables that show all a container holds."""
    return (container, container.values()) if isinstance(container, dict) else (container,)


def content(container: Any) -> list[Any]:
    """What a container holds, keys first."""
    return list(chain.from_iterable(views(container)))


def entries(holder: Holder, old: list[Any], new: list[Any]) -> Iterator[Change]:
    """Entries of a container that changed, one by one where it is a dictionary of names."""
    was, now = pairs(holder, old), pairs(holder, new)
    if was is None or now is None or [k for k in was if k in now] != [k for k in now if k in was]:
        yield Change(holder, holder.label, old, new)
        return
    for name in {**was, **now}:
        a, b = was.get(name, ABSENT), now.get(name, ABSENT)
        if a is not b:
            slot = Slot(holder.container, name, dotted(holder.label, name))
            yield Change(slot, slot.label, a, b, name)


def pairs(holder: Holder, flat: list[Any]) -> dict[Any, Any] | None:
    """The content of a dictionary whose keys are names or numbers, as a dictionary again."""
    half = len(flat) // 2
    named = all(key.__class__ is str or key.__class__ is int for key in flat[:half])
    if not isinstance(holder.container, dict) or not named:
        return None
    return dict(zip(flat[:half], flat[half:], strict=True))


def put(place: Slot | Holder, value: Any) -> None:
    """Store an old or a new content in its place."""
    if isinstance(place, Holder):
        fill(place.container, value)
    elif value is ABSENT:
        place.store.pop(place.name, None)
    else:
        place.store[place.name] = value


def identical(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists hold the very same objects."""
    return len(a) == len(b) and all(map(is_, a, b))


def fill(container: Any, value: list[Any]) -> None:
    """Give a container another content."""
    container.clear()
    if isinstance(container, dict):
        half = len(value) // 2
        container.update(zip(value[:half], value[half:], strict=True))
    elif isinstance(container, set):
        container.update(value)
    else:
        container.extend(value)


def short(value: object) -> str:
    """A value in a few words."""
    if value is ABSENT:
        return "absent"
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    text = repr(value) if value.__class__ in ATOMS else f"a {type(value).__name__}"
    return text if len(text) < 60 else text[:57] + "..."
