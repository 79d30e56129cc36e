"""Python values that a recording relies on: whether they are as they were, what the forward
changed of them, and putting them back.

Being the same is a question of identity, answered in C for all values at once; only where an object
is another one than before are values compared. Attributes of modules are behind the epoch that
setting one moves; everything else can change without anybody noticing and is looked at every call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, cast

import torch

from lazytorch.errors import Where
from lazytorch.frontend.code import line_of
from lazytorch.frontend.dicts import Dicts
from lazytorch.frontend.epoch import Epoch
from lazytorch.frontend.inside import bytes_of
from lazytorch.frontend.known import Change, Known, content, put
from lazytorch.frontend.places import Slot
from lazytorch.frontend.reach import ATOMS, Holder, Reach

_DEEP = 20


class Watch:
    """What `fn` and the objects among its arguments rely on, from when this is made."""

    def __init__(self, fn: Callable[..., Any], arguments: Iterable[object] = ()) -> None:
        self.fn = fn
        self.arguments = [x for x in arguments if not isinstance(x, torch.Tensor)]
        self.build()

    def build(self) -> None:
        """Look at everything anew."""
        self.epoch = Epoch.now
        self.reach = reach = Reach(self.fn, self.arguments)
        stores: list[Holder] = []
        children: list[Holder] = []
        for path, module in reach.modules:
            stores += [Holder(x, path) for x in (vars(module), module._parameters, module._buffers)]
            children.append(Holder(module._modules, path))
        hidden = [h for h, (_, m) in zip(stores[::3], reach.modules, strict=True)
                  if Epoch.hidden(type(m))]  # fmt: skip
        held = [h for h in reach.mostly_empty if h.container]
        self.attributes = Known([], stores)
        self.others = Known(reach.slots, [*reach.holders, *held, *hidden])
        self.empty = Known([], [h for h in (*reach.mostly_empty, *children) if not h.container])
        self.empties = [h.container for h in self.empty.holders]
        self.children = Known([], [h for h in children if h.container])
        self.groups = (self.others, self.children, self.empty, self.attributes)
        self.kinds = [type(module) for _, module in reach.modules]
        self.trees = [h.container for h in self.children.holders]
        self.copies = [dict(tree) for tree in self.trees]
        self.order = list(chain.from_iterable(self.trees))
        self.dicts = Dicts([*self.trees, *self.empties])
        self.arrays = [(h, bytes_of(h.container)) for h in reach.arrays]
        self.sizes = [(h, len(h.container)) for h in reach.large]
        self.state = {(id(slot.store), slot.name) for slot in reach.state}
        self.by_id = {
            id(h.container): kept
            for known in (self.others, self.attributes)
            for h, kept in zip(known.holders, known.contents, strict=True)
        }
        for _, value in reach.objects:
            if hasattr(value, "__dict__"):
                self.by_id.setdefault(id(vars(value)), content(vars(value)))

    @property
    def notes(self) -> list[str]:
        """What is not compared in full."""
        return [
            f"{h.label}: {size:,} entries are too many to compare at every call; "
            "only their number is"
            for h, size in self.sizes
        ]

    # Whether a plan still fits.

    def same(self) -> bool:
        """Whether everything is as it was."""
        if (
            self.dicts.same(self.unchanged)
            and self.others.same()
            and (not self.arrays or all(bytes_of(h.container) == b for h, b in self.arrays))
            and (not self.sizes or all(len(h.container) == n for h, n in self.sizes))
        ):
            if self.epoch == Epoch.now:
                return True
            epoch = Epoch.now
            if self.attributes.same() and self.kinds == [type(m) for _, m in self.reach.modules]:
                self.epoch = epoch
                return True
        return self.equal()

    def unchanged(self) -> bool:
        """Whether modules have the submodules that they had, in order, and still no hooks."""
        return (
            self.trees == self.copies
            and not any(self.empties)
            and self.order == list(chain.from_iterable(self.trees))
        )

    def equal(self) -> bool:
        """Whether what is there now says the same as what was there, though other objects do."""
        epoch = Epoch.now
        if any(True for _ in self.differences()):
            return False
        if not (self.attributes.same() and self.others.same()):
            self.build()  # equal containers may be new ones, to be looked into from now on
        self.epoch = epoch
        return True

    def differences(self) -> Iterator[Change]:
        """Places that say something else than they did, by value."""
        for known in self.groups:
            for change in known.changes((known.fields, known.contents)):
                if not self.found_again(change) and not self.equals(change.old, change.new):
                    yield change
        for (path, module), kind in zip(self.reach.modules, self.kinds, strict=True):
            if type(module) is not kind:
                yield Change(Holder(vars(module), path), f"{path}: its class", kind, type(module))
        for holder, old in self.arrays:
            if bytes_of(holder.container) != old:
                yield Change(holder, holder.label, "an array", "other values")
        for holder, size in self.sizes:
            if len(holder.container) != size:
                yield Change(holder, holder.label, size, len(holder.container))

    def found_again(self, change: Change) -> bool:
        """Whether a tensor replaced another in a place that a plan looks up at every call."""
        return self.looked_up(change) and alike(change.old, change.new)

    def looked_up(self, change: Change) -> bool:
        """Whether a call takes what is in this place then."""
        place = change.place
        return isinstance(place, Slot) and (id(place.store), place.name) in self.state

    def equals(self, old: Any, new: Any, depth: int = 0) -> bool:
        """Whether a value says what another said when this watch was made."""
        if old is new:
            return True
        # By type, since a number that varies says that its class is float.
        if type(old) is not type(new) or depth > _DEEP:
            return False
        if type(old) in ATOMS:
            return old == new and repr(old) == repr(new)  # 0.0 is not -0.0
        if isinstance(old, tuple):
            was, now = list(cast(tuple[Any, ...], old)), list(new)
        else:
            inside = old if isinstance(old, dict | list | deque) else getattr(old, "__dict__", None)
            kept = self.by_id.get(id(inside))
            if kept is None:
                return False
            was = kept
            now = content(new if inside is old else vars(new))
        return len(was) == len(now) and all(
            self.equals(a, b, depth + 1) for a, b in zip(was, now, strict=True)
        )

    # What a forward did to it.

    def replaced(self) -> list[Slot]:
        """Places of tensors that hold others of the same type now: a call can put others there."""
        if all(known.same() for known in self.groups):
            return []
        found = [change for known in self.groups for change in known.changes(known.base)]
        return [x.place for x in found if isinstance(x.place, Slot) and self.repeats(x)]

    def repeats(self, change: Change) -> bool:
        """Whether a call can put a tensor in the place of another: none that a gradient belongs to,
        by which it would be another tensor than eager's. Where it is of another type, there is
        another plan for what comes next."""
        tensors = change.old, change.new
        return (
            self.looked_up(change)
            and all(isinstance(x, torch.Tensor) for x in tensors)
            and not any(isinstance(x, torch.nn.Parameter) for x in tensors)
            and not any(x.requires_grad and x.is_leaf for x in tensors)
        )

    def undo(self, repeated: bool = False) -> list[Change]:
        """Put everything back; what the forward had changed, by value: without what is `replaced`,
        if that is `repeated` at every call."""
        if all(known.same() for known in self.groups):
            return []
        found = [
            change
            for known in self.groups
            for change in known.changes(known.base)
            if not (repeated and self.repeats(change)) and not self.equals(change.old, change.new)
        ]
        for known in self.groups:
            known.restore(known.base)
        return found

    @contextmanager
    def kept(self) -> Generator[None]:
        """What happens inside is eager: its changes are meant, and are not undone."""
        before = [known.present() for known in self.groups]
        yield
        for known, then in zip(self.groups, before, strict=True):
            known.accept(then)

    @contextmanager
    def recalled(self) -> Generator[None]:
        """Everything as it was when this watch was made, for a while."""
        if self.same():
            yield
            return
        present = [known.present() for known in self.groups]
        for known in self.groups:
            known.restore((known.fields, known.contents))
        try:
            yield
        finally:
            for known, now in zip(self.groups, present, strict=True):
                known.restore(now)

    @contextmanager
    def undone(self) -> Generator[None]:
        """What a forward changed so far is undone for a while."""
        present = [known.present() for known in self.groups]
        for known in self.groups:
            known.restore(known.base)
        try:
            yield
        finally:
            for known, now in zip(self.groups, present, strict=True):
                known.restore(now)

    def apply(self, changes: Iterable[Change]) -> None:
        """Make the changes that a forward makes."""
        for change in changes:
            put(change.place, change.new)
        Epoch.now += 1

    def line(self, change: Change) -> Where | None:
        """The user's line that changes a place."""
        return line_of(self.reach.functions, change.key or change.label.rpartition(".")[2])


def alike(a: object, b: object) -> bool:
    """Whether a tensor may take another's place in a plan."""
    return (
        isinstance(a, torch.Tensor)
        and isinstance(b, torch.Tensor)
        and a.shape == b.shape
        and a.dtype is b.dtype
        and a.device == b.device
        and a.requires_grad == b.requires_grad
        and a.stride() == b.stride()
    )
