"""The tensors that a stage reads from places of their own: found again, and whether they changed.

At every call: are the same tensors in the same places (one comparison in C for all modules'
dictionaries), of the same types, and for those that the prologue read, at the same address and
version. With `check`, have they the same checksum too.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from copy import copy
from operator import getitem, is_
from typing import Any

import torch

from lazytorch.errors import LazyTorchError
from lazytorch.frontend.dicts import Dicts
from lazytorch.frontend.recorder import whole_storage
from lazytorch.frontend.sources import (
    Argument,
    Grad,
    Held,
    Live,
    Piece,
    State,
    Storage,
    tensor_of,
)
from lazytorch.ir import Input, Node, Write
from lazytorch.report import Event, Report
from lazytorch.runtime.checksum import checksum
from lazytorch.runtime.marks import Marks
from lazytorch.runtime.sharing import Sharing
from lazytorch.types import TensorType


class StaleError(LazyTorchError):
    """A parameter was replaced by one of another type: the plan does not fit any more."""


class StateTensors:
    """Inputs of one stage: its own tensors, and the places that each call fills."""

    def __init__(
        self,
        piece: Piece,
        prologue: Sequence[int],
        check: bool = False,
    ) -> None:
        sources, nodes = piece.sources, piece.graph.inputs
        self.check = check
        self.sharing = Sharing(any(isinstance(e.op, Write) for e in piece.graph.effects))
        self.filled: list[Any] = [None] * len(sources)
        self.arguments = [(i, s.index) for i, s in enumerate(sources) if isinstance(s, Argument)]
        self.live = [(i, s.piece, s.index) for i, s in enumerate(sources) if isinstance(s, Live)]
        self.storages = [(i, s.of) for i, s in enumerate(sources) if isinstance(s, Storage)]
        self.grads = [
            (i, of)
            for i, s in enumerate(sources)
            if isinstance(of := s.of if isinstance(s, Storage) else s, Grad)
        ]
        memory = [s.of if isinstance(s, Storage) else s for s in sources]
        self.given = [(i, s.index) for i, s in enumerate(memory) if isinstance(s, Argument)]
        if not self.sharing.writes and not torch.is_grad_enabled():
            self.given = []  # what only reads does not see whose memory it is
        beside = [(len(sources) + k, i, one) for k, (i, one) in enumerate(piece.beside)]
        self.ties = [(i, x.source) for _, i, x in beside if x.typed is None]
        self.loose = [  # what is looked at in every call: few
            (of, one)
            for _, i, one in beside
            if not isinstance(of := memory[i], Live) and (one.typed or not isinstance(of, State))
        ]
        # Tensors that are no input are numbered after the inputs.
        both = [*enumerate(memory), *[(k, one.source) for k, _, one in beside]]
        self.places = [(i, s) for i, s in both if isinstance(s, State | Held)]
        shared = {i for i, _ in self.storages}
        self.types = {i: typed_input(x) for i, x in enumerate(nodes) if i not in shared}
        self.types |= {k: one.typed for k, _, one in beside}
        self.labels = {i: x.op.label for i, x in enumerate(nodes) if isinstance(x.op, Input)}
        self.labels |= {k: self.labels[i] for k, i, _ in beside}
        self.prologue = tuple(prologue)
        self.read: list[torch.Tensor] = []
        self.marks: Marks | None = None
        self.sums: list[Any] = []
        self.tensors: list[tuple[int, torch.Tensor]] = []
        self.stores: list[dict[str, Any]] = []
        self.copies: list[dict[str, Any]] = []
        self.absent: list[dict[str, bool]] = []
        self.replaced: weakref.WeakMethod[Callable[[], None]] | None = None
        self.singles: tuple[list[Any], list[str], list[Any]] = ([], [], [])
        self.look()
        self.flags = [x.requires_grad for _, x in self.tensors]

    def look(self) -> None:
        """Find every tensor in its place again; one of another type makes the plan stale."""
        before, self.tensors = self.tensors, []
        stores: dict[int, dict[str, Any]] = {}
        singles: list[tuple[Any, str, Any]] = []
        for i, source in self.places:
            if isinstance(source, Held):
                tensor: Any = source.tensor
            else:
                slot = source.slot
                tensor = slot.store.get(slot.name)
            typed = self.types.get(i)
            if not isinstance(tensor, torch.Tensor) or (typed and not fits(tensor, typed)):
                raise StaleError(f"{self.labels[i]} was replaced by another type")
            if i < len(self.filled):
                self.filled[i] = tensor
            if i < len(self.filled) or typed:
                self.tensors.append((i, tensor))
            if isinstance(source, Held):
                continue
            if source.slot.registered:
                stores[id(source.slot.store)] = source.slot.store
            if not source.slot.registered or tensor.numel() < 2:
                # Two tensors of one element may be equal in the eyes of dict's comparison.
                singles.append((source.slot.store, source.slot.name, tensor))
        for i, source in self.ties:
            of = self.filled[i]
            if isinstance(source, State) and of is not None and tensor_of(source, ()) is not of:
                raise StaleError(f"{self.labels[i]} is another tensor than {source.slot.label} now")
        self.share()
        copies = [dict(store) for store in stores.values()]
        absent = [{k: x is None for k, x in store.items()} for store in copies]
        if self.absent and absent != self.absent:
            raise StaleError("a parameter or buffer was added or taken away")
        self.absent = absent
        self.stores = list(stores.values())
        self.copies = copies
        self.registered = Dicts(self.stores)
        self.singles = ([s for s, _, _ in singles], [n for _, n, _ in singles],
                        [x for _, _, x in singles])  # fmt: skip
        read = [self.filled[i] for i in self.prologue]
        if len(read) != len(self.read) or not all(map(is_, read, self.read)):
            self.marks = None
        self.read = read
        early, writes = set(self.prologue), self.sharing.writes
        self.late = Marks([x for i, x in self.tensors if i not in early], writes, False)
        gone = {id(x) for _, x in before} - {id(x) for _, x in self.tensors}
        if gone and self.replaced is not None and (told := self.replaced()) is not None:
            told()  # others may hold on to what is in no place any more

    def emptied(self) -> StateTensors:
        """The same without any tensor: they are found at the next call."""
        other = copy(self)
        other.sharing = copy(self.sharing)
        other.sharing.tensors = {}
        other.filled, other.tensors, other.read = [None] * len(self.filled), [], []
        other.marks, other.sums, other.late = None, [], Marks([], False, False)
        other.stores, other.copies, other.registered = [], [], Dicts([])
        other.singles = ([{}], ["nothing"], [None])  # which is not there: so they moved
        return other

    def moved(self) -> bool:
        """Whether another tensor is in some place, or one has another type."""
        stores, names, values = self.singles
        try:
            return not (
                self.registered.same(self.unchanged)
                and all(map(is_, map(getitem, stores, names), values))
                and self.late.same()
            )
        except (KeyError, ValueError, AttributeError, RuntimeError):
            return True  # a place is gone; or dict asked two tensors whether they are equal

    def unchanged(self) -> bool:
        """Whether modules' dictionaries hold what they held."""
        return self.stores == self.copies

    def inputs(self, leaves: Sequence[Any], done: Sequence[tuple[Any, ...]] | None) -> list[Any]:
        """The stage's inputs at this call, in order; without `done`, those known before it."""
        if self.places and self.moved():
            self.look()
        if self.given or self.loose:
            self.meet(leaves)
        found = self.filled.copy()
        for i, index in self.arguments:
            found[i] = leaves[index]
        if done is not None:
            for i, piece, index in self.live:
                found[i] = done[piece][index]
        for i, of in self.grads:
            found[i] = present(of, leaves)
        for i, of in self.storages:
            found[i] = whole_storage(leaves[of.index] if isinstance(of, Argument) else found[i])
        return found

    def share(self) -> None:
        """StaleError where the stage's own tensors share memory otherwise than recorded."""
        if not self.sharing.look(self.tensors):
            raise StaleError("parameters or buffers share memory otherwise than before")

    def meet(self, leaves: Sequence[Any]) -> None:
        """StaleError where arguments share memory with the stage's own tensors otherwise than
        recorded, or some tensor is not where it was in the memory of another."""
        if self.given and not self.sharing.meet(leaves, self.given):
            raise StaleError("an argument shares memory otherwise with parameters or buffers")
        for of, one in self.loose:
            if not one.holds(present(one.source, leaves), present(of, leaves)):
                raise StaleError("tensors that shared their memory do no more")

    def changed(self) -> bool:
        """Whether a tensor that the prologue reads was replaced, moved or written since `mark`."""
        if self.marks is None or not self.marks.same():
            return True
        if self.check:
            sums = list(map(checksum, self.read))
            for i, old, new in zip(self.prologue, self.sums, sums, strict=True):
                if old != new:
                    what = "its values changed by a write that torch does not count"
                    Report.add(Event("refresh", self.labels[i], what, 0.0))
            return sums != self.sums
        return False

    def mark(self) -> None:
        """Remember addresses and versions: the prologue is about to read."""
        for i, x in self.tensors:
            typed = self.types.get(i)
            if typed is not None and not fits(x, typed):
                raise StaleError(f"{self.labels[i]} was given another type")
        self.share()
        self.marks = Marks(self.read, True, True)
        if self.check:
            self.sums = list(map(checksum, self.read))


def present(source: Argument | State | Held | Grad, leaves: Sequence[Any]) -> Any:
    """What there is now at an argument's or a place's, or its gradient."""
    if isinstance(source, Grad):
        return tensor_of(source.of, leaves).grad
    return tensor_of(source, leaves)


def typed_input(node: Node) -> TensorType | None:
    """The type that an input was recorded with."""
    return node.type if isinstance(node.type, TensorType) else None


def fits(tensor: torch.Tensor, typed: TensorType) -> bool:
    """Whether a tensor has the type that was recorded."""
    return (
        tuple(tensor.shape) == typed.shape
        and tensor.dtype is typed.dtype
        and tensor.device == typed.device
        and tuple(tensor.stride()) == typed.strides
    )
