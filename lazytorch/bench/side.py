"""One way to run a model, made ready: what every way that is compared offers to the measuring."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from lazytorch.bench.case import tensors
from lazytorch.bench.measure import Pending


def nothing() -> None:
    """Nothing is under way."""


@dataclass(frozen=True)
class Side:
    """A model made ready to be called: `call` runs it, `settle` waits for what is under way.

    `warm_up` is how many first calls are still part of compiling, all inside `compiling()`.
    `graphs` says that it runs CUDA graphs, in whose memory results may live until the next call.
    `foreign` says that another library than torch allocates, so that its memory is not counted.
    """

    name: str
    call: Callable[[], Any]
    settle: Callable[[], None] = nothing
    warm_up: int = 1
    graphs: bool = False
    compiling: Callable[[], AbstractContextManager[None]] = nullcontext
    foreign: bool = False

    def results(self) -> list[torch.Tensor]:
        """Copies of the tensors that one call returns: another call may write over them."""
        found = self.call()
        if isinstance(found, Pending):
            return found.read()
        return [x.clone() for x in tensors(found)]

    def first_call(self) -> list[torch.Tensor]:
        """The tensors of the first call's result."""
        with self.compiling():
            return self.results()

    def speed_up(self) -> None:
        """Whatever still lies between the first call and full speed, with a call at full speed."""
        with self.compiling():
            self.settle()
            for _ in range(self.warm_up):
                self.call()
