"""The compiled backward of a stage: a program for each form that cotangents come in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lazytorch.autodiff.joint import Halves
from lazytorch.ir import Graph
from lazytorch.lower.memory_plan import MemoryPlan
from lazytorch.lower.program import Program, lower
from lazytorch.ops.aten import value_type
from lazytorch.runtime.setting import Setting, storages
from lazytorch.runtime.shortage import exhausted, out_of_memory
from lazytorch.types import TensorType


class Backward:
    """What runs when gradients of a stage's outputs are asked for.

    `wrt` are the positions, among the stage's inputs, of the tensors that require grad. `build`
    makes a program of a graph; nothing is built before the first backward pass.
    """

    def __init__(
        self, halves: Halves, wrt: Sequence[int], build: Callable[[Graph], Program]
    ) -> None:
        self.halves = halves
        self.wrt = {index: i for i, index in enumerate(wrt)}
        self.build = build
        self.programs: dict[tuple[TensorType | None, ...], Program] = {}

    def saved(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
        """The values that a forward pass leaves."""
        sides = {"input": inputs, "output": outputs}
        return [sides[side][i] for side, i in self.halves.saved]

    def places(
        self, inputs: Sequence[Any], tensors: Sequence[torch.Tensor]
    ) -> tuple[int | None, ...]:
        """Which result of the program is the gradient of each tensor; None for no dependence."""
        at = {id(x): i for i, x in enumerate(inputs)}
        positions = [self.wrt.get(at.get(id(t), -1)) for t in tensors]
        return tuple([None if i is None else self.halves.gradients[i] for i in positions])

    def run(self, saved: Sequence[Any], grads: Sequence[torch.Tensor | None]) -> tuple[Any, ...]:
        """The gradients, from the cotangents of the outputs; None for those that are zero."""
        key: list[TensorType | None] = []
        for g in grads:
            typed = None if g is None else value_type(g)
            assert typed is None or isinstance(typed, TensorType)
            key.append(typed)
        program = self.programs.get(tuple(key))
        if program is None:
            program = self.build(self.halves.backward_for(key))
            self.programs[tuple(key)] = program
        given = [*saved, *[g for g in grads if g is not None]]
        try:
            with torch.no_grad():
                return program.run(*given)
        except RuntimeError as error:
            if not exhausted(error):
                raise
            raise out_of_memory(error, lambda: planned(program, given), program) from error


def planned(program: Program, given: Sequence[Any]) -> MemoryPlan:
    """What a backward pass, which is no CUDA graph, takes beside what it is given."""
    tensors = [x for x in given if isinstance(x, torch.Tensor)]
    device = next((x.device for x in tensors), torch.device("cpu"))
    nothing = lower(Graph((), ()), None, "prologue", owned=False)
    given_bytes = sum(storages(tensors).values())
    return Setting("a backward pass", device, None, given_bytes, still=True).plan(nothing, program)
