"""A stage: one compiled piece of a recording, its prologue, and the stages that may follow it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lazytorch.errors import LazyTorchError
from lazytorch.frontend.recorder import whole_storage
from lazytorch.frontend.sources import (
    Argument,
    Cut,
    Held,
    Live,
    Piece,
    Recorded,
    Source,
    State,
    Storage,
)
from lazytorch.ir import Graph, Input
from lazytorch.lower.program import Program
from lazytorch.op import attribute_key
from lazytorch.runtime.cudagraph import Run
from lazytorch.types import TensorType

BRANCHES = 64  # values of one cut that are remembered; the least recently used is dropped


class StaleError(LazyTorchError):
    """A parameter was replaced by one of another type: the plan does not fit any more."""


class Exactly:
    """A value as a key: 0.0 and -0.0 differ, NaN equals itself."""

    __slots__ = ("key", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.key = attribute_key(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exactly) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return repr(self.value)


Fetch = Callable[[Sequence[Any], Sequence[tuple[Any, ...]]], Any]


@dataclass
class Stage:
    """A piece lowered: `prologue` runs when state changed, `main` at every call.

    `replay` runs `main` in the way that suits its device.
    """

    piece: Piece
    optimized: Graph
    prologue: Program
    main: Program
    prologue_inputs: tuple[int, ...]
    main_inputs: tuple[int, ...]
    replay: Run
    recorded: Recorded | None = None
    branches: OrderedDict[Exactly, Stage] = field(default_factory=OrderedDict["Exactly", "Stage"])
    values: tuple[Any, ...] = ()
    seen: list[tuple[int, int, int]] | None = None

    def __post_init__(self) -> None:
        self.fetch = [
            fetcher(s, x.op)
            for s, x in zip(self.piece.sources, self.piece.graph.inputs, strict=True)
        ]

    @property
    def cut(self) -> Cut | None:
        """What the piece ends in; None for a last piece."""
        return self.piece.cut

    def run(self, leaves: Sequence[Any], done: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        """The piece's outputs; `done` are the outputs of the pieces before it."""
        inputs = [fetch(leaves, done) for fetch in self.fetch]
        self.refresh_if_changed(inputs)
        return self.replay(*[inputs[i] for i in self.main_inputs], *self.values)

    def refresh_if_changed(self, inputs: list[Any]) -> None:
        """Run the prologue again if a tensor it read was replaced, moved or written."""
        marks = [
            (id(x), x.data_ptr(), version(x)) for x in [inputs[i] for i in self.prologue_inputs]
        ]
        if marks != self.seen:
            with torch.no_grad():
                self.values = self.prologue.run(*[inputs[i] for i in self.prologue_inputs])
            self.seen = marks

    def refresh(self) -> None:
        """Forget the prologue's values, here and in every stage that follows."""
        self.seen = None
        self.values = ()
        for stage in self.branches.values():
            stage.refresh()

    def follow(self, value: Any) -> Stage | None:
        """The stage for a value of the cut, if it was seen."""
        key = Exactly(value)
        stage = self.branches.get(key)
        if stage is not None:
            self.branches.move_to_end(key)
        return stage

    def add(self, value: Any, stage: Stage) -> None:
        """Remember the stage for a value; the least recently used one makes room."""
        self.branches[Exactly(value)] = stage
        if len(self.branches) > BRANCHES:
            self.branches.popitem(last=False)


def version(x: torch.Tensor) -> int:
    """How often a tensor was written; inference tensors do not count."""
    return 0 if x.is_inference() else x._version


def fetcher(source: Source, op: Any) -> Fetch:
    """How an input is found at a call: from the arguments' leaves or from its own place."""
    assert isinstance(op, Input)
    typed = op.typed
    if isinstance(source, Argument):
        index = source.index
        return lambda leaves, done: leaves[index]
    if isinstance(source, Live):
        piece, index = source.piece, source.index
        return lambda leaves, done: done[piece][index]
    if isinstance(source, Storage):
        of = fetcher(source.of, Input(op.label, None))
        return lambda leaves, done: whole_storage(of(leaves, done))
    if isinstance(source, Held):
        tensor = source.tensor
        return lambda leaves, done: tensor
    assert isinstance(source, State)
    return state_fetcher(source, typed)


def state_fetcher(source: State, typed: TensorType | None) -> Fetch:
    """Looks a parameter or buffer up in its place; a replaced one must have the same type."""
    store, name, label = source.slot.store, source.slot.name, source.slot.label
    last: list[Any] = [None]

    def fetch(leaves: Sequence[Any], done: Sequence[tuple[Any, ...]]) -> Any:
        tensor = store.get(name)
        if tensor is not last[0]:
            if typed is not None and not fits(tensor, typed):
                raise StaleError(f"{label} was replaced by another type")
            last[0] = tensor
        return tensor

    return fetch


def fits(tensor: object, typed: TensorType) -> bool:
    """Whether a tensor has the type that was recorded."""
    return (
        isinstance(tensor, torch.Tensor)
        and tuple(tensor.shape) == typed.shape
        and tensor.dtype is typed.dtype
        and tensor.device == typed.device
        and tuple(tensor.stride()) == typed.strides
    )
