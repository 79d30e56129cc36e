"""The ways to run a model that are compared, by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from lazytorch.bench.case import Model, tensors
from lazytorch.compile import compile
from lazytorch.errors import LazyTorchError
from lazytorch.frontend import trees


@dataclass(frozen=True)
class Side:
    """A model made ready to be called: `call` runs it, `settle` waits for what is under way.

    `warm_up` is how many first calls are still part of compiling, all inside `compiling()`.
    `graphs` says that it runs CUDA graphs, in whose memory results may live until the next call.
    """

    name: str
    call: Callable[[], Any]
    settle: Callable[[], None]
    warm_up: int = 1
    graphs: bool = False
    compiling: Callable[[], AbstractContextManager[None]] = nullcontext

    def first_call(self) -> list[torch.Tensor]:
        """The tensors of the first call's result."""
        with self.compiling():
            found = tensors(self.call())
            return [x.clone() for x in found] if self.graphs else found

    def speed_up(self) -> None:
        """Whatever still lies between the first call and full speed, with a call at full speed."""
        with self.compiling():
            self.settle()
            for _ in range(self.warm_up):
                self.call()


def eager(model: Model) -> Side:
    """The module as it is."""
    return Side("eager", model, nothing)


def channels_last(model: Model) -> Side:
    """Eager on a copy whose weights and images have their channels innermost in memory."""
    module = copy.deepcopy(model.module)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch documents it
    leaves, spec = trees.flatten((model.args, model.kwargs))
    moved = [
        x.to(memory_format=torch.channels_last)
        if isinstance(x, torch.Tensor) and x.dim() == 4
        else x
        for x in leaves
    ]
    args, kwargs = trees.unflatten(spec, moved)
    return Side("channels_last", Model(module, args, kwargs), nothing)


def lazytorch(name: str, freeze: bool = False) -> Callable[[Model], Side]:
    """lazytorch, whose kernels are compiled in the background."""

    def side(model: Model) -> Side:
        fast = compile(model.module, freeze=freeze)
        graphs = any(x.is_cuda for x in tensors((model.args, model.kwargs)))
        return Side(name, lambda: fast(*model.args, **model.kwargs), fast.wait, 3, graphs)

    return side


def inductor(name: str, freezing: bool = False, graphs: bool = False) -> Callable[[Model], Side]:
    """torch.compile; its options are part of what it caches by, so that sides do not share code."""
    options: dict[str, Any] = {"freezing": freezing, "triton.cudagraphs": graphs}

    def side(model: Model) -> Side:
        fast = torch.compile(model.module, options=options)
        return Side(
            name,
            lambda: fast(*model.args, **model.kwargs),
            nothing,
            3 if graphs else 1,
            graphs,
            frozen if freezing else nullcontext,
        )

    return side


@contextmanager
def frozen() -> Generator[None]:
    """The process-wide setting on, which a part of torch.compile reads instead of the options."""
    import torch._inductor.config as config

    before = config.freezing
    config.freezing = True
    try:
        yield
    finally:
        config.freezing = before


def nothing() -> None:
    """Nothing is under way."""


SIDES: dict[str, Callable[[Model], Side]] = {
    "eager": eager,
    "channels_last": channels_last,
    "lazytorch": lazytorch("lazytorch"),
    "lazytorch-freeze": lazytorch("lazytorch-freeze", freeze=True),
    "inductor": inductor("inductor"),
    "inductor-freezing": inductor("inductor-freezing", freezing=True),
    "reduce-overhead": inductor("reduce-overhead", graphs=True),
    "reduce-overhead-freezing": inductor("reduce-overhead-freezing", freezing=True, graphs=True),
}


def check_side(name: str) -> None:
    """LazyTorchError where no side has that name."""
    if name not in SIDES:
        raise LazyTorchError(f"no side is called {name!r}", hint=f"there are {', '.join(SIDES)}")


def make_side(name: str, model: Model) -> Side:
    """The side called `name`; LazyTorchError where there is none."""
    check_side(name)
    return SIDES[name](model)
