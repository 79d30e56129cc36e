"""A stage: one compiled piece of a recording, its prologue, and the stages that may follow it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lazytorch.frontend.sources import Cut, Piece, Recorded
from lazytorch.ir import Graph
from lazytorch.lower.memory_plan import MemoryPlan
from lazytorch.lower.program import Program, waiting
from lazytorch.op import attribute_key
from lazytorch.ops.offload import landed
from lazytorch.runtime.cudagraph import Replayer, Run
from lazytorch.runtime.gradients import Backward
from lazytorch.runtime.setting import Setting
from lazytorch.runtime.shortage import exhausted, out_of_memory
from lazytorch.runtime.state import StateTensors
from lazytorch.types import TensorType

BRANCHES = 64  # values of one cut that are remembered; the least recently used is dropped


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
    replay: Run
    setting: Setting
    recorded: Recorded | None = None
    check: bool = False
    backward: Backward | None = None
    branches: OrderedDict[Exactly, Stage] = field(default_factory=OrderedDict["Exactly", "Stage"])
    values: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        graph = self.piece.graph
        self.state = StateTensors(self.piece, self.prologue_inputs, self.check)
        # A device that works while Python goes on: what changed is looked at after the launch,
        # and the call repeated, which a program that writes nothing allows.
        self.ahead = not graph.effects and any(
            isinstance(x.type, TensorType) and x.type.device.type == "cuda" for x in graph.inputs
        )

    def successors(self) -> Iterator[Stage]:
        """This stage and all that may follow it, each before those that follow it."""
        yield self
        for following in self.branches.values():
            yield from following.successors()

    @property
    def cut(self) -> Cut | None:
        """What the piece ends in; None for a last piece."""
        return self.piece.cut

    def run(self, leaves: Sequence[Any], done: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        """The piece's outputs; `done` are the outputs of the pieces before it."""
        try:
            try:
                return self.outputs(leaves, done)
            except BaseException:  # also an interrupt: memory is let go when this goes up
                if away := waiting(self.main):
                    landed(away[0].device)
                raise
        except RuntimeError as error:
            if not exhausted(error):
                raise
            raise out_of_memory(error, self.plan, self.main, self.prologue) from error

    def plan(self, setting: Setting | None = None) -> MemoryPlan:
        """What it takes at its highest, from its programs as they are now; as it was compiled for,
        or in another `setting`."""
        return (setting or self.setting).plan(self.prologue, self.main)

    def outputs(self, leaves: Sequence[Any], done: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        """Run the prologue if it has to be, and the program."""
        state = self.state
        inputs = state.inputs(leaves, done)
        if not self.prologue_inputs and state.marks is not None:
            return self.replay(*inputs, *self.values)
        values = self.values
        if self.ahead and state.marks is not None:
            outputs = self.replay(*inputs, *values)
            if not state.changed():
                return outputs
            del outputs
            values = self.prepare(state, inputs)
        elif state.changed():
            values = self.prepare(state, inputs)
        return self.replay(*inputs, *values)

    def prepare(self, state: StateTensors, inputs: list[Any]) -> tuple[Any, ...]:
        """The prologue's values of what its tensors hold now."""
        self.values = ()  # what was there is of no use: it goes before the new ones come
        state.mark()
        read = [inputs[i] for i in self.prologue_inputs]
        try:
            with torch.no_grad():
                values = self.prologue.run(*read)
                if isinstance(self.replay, Replayer):
                    values = self.replay.renewed(values, read)
        except BaseException:
            state.marks = None  # the next call tries again
            raise
        self.values = values
        return values

    def let_go(self) -> None:
        """Forget tensors that were replaced, and what was computed of them; one that runs in
        another thread meanwhile keeps its own."""
        if self.state.moved():
            self.state, self.values = self.state.emptied(), ()

    def refresh(self) -> None:
        """Forget the prologue's values, here and in every stage that follows."""
        self.state.marks = None
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
