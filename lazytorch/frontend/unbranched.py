"""The step of an optimizer that looks at no value: what it would decide in Python is computed.

A few of torch's optimizers go on by a number that they read from their state (how many steps were
done). Each has a form for CUDA graphs, `capturable=True`, which chooses elements instead, and which
is recorded here on every device. What that form computes with tensors of one number, torch's usual
form computes with Python numbers: such state is therefore recorded in float64. Others take the
larger or the smaller of two numbers, which is a number too.
"""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch

from lazytorch.frontend.number import Number

DECIDING = (torch.optim.RAdam, torch.optim.ASGD, torch.optim.Rprop)
"""torch's optimizers that decide by values unless they are `capturable`."""
NUMBERS = frozenset({"step", "eta", "mu"})
"""What such an optimizer remembers in tensors of one number."""
WARNED = "_warned_capturable_if_run_uncaptured"


@contextmanager
def unbranched(optimizer: torch.optim.Optimizer) -> Generator[None]:
    """The optimizer's code without decisions by values, as far as it has such forms."""
    groups: list[dict[str, Any]] = optimizer.param_groups if deciding(optimizer) else []
    kept = [group["capturable"] for group in groups]
    names: dict[str, Any] = {"max": larger, "min": smaller}
    if groups:
        names["_get_capturable_supported_devices"] = every_device
    files = scopes(optimizer)
    before = [{name: file[name] for name in names if name in file} for file in files]
    own = vars(optimizer)
    warned = {WARNED: own[WARNED]} if WARNED in own else {}
    try:
        own[WARNED] = True  # that the form is slow without a CUDA graph is no news to a recording
        for group in groups:
            group["capturable"] = True
        for file, theirs in zip(files, before, strict=True):
            for name in names:
                if name in theirs or name in ("max", "min"):
                    file[name] = names[name]
        yield
    finally:
        for file, theirs in zip(files, before, strict=True):
            for name in names:
                file.pop(name, None)
            file.update(theirs)
        for group, value in zip(groups, kept, strict=True):
            group["capturable"] = value
        del own[WARNED]
        own.update(warned)


def deciding(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's step, torch's own, is recorded in its capturable form."""
    return isinstance(optimizer, DECIDING)


def computed(optimizer: torch.optim.Optimizer, name: str, x: torch.Tensor) -> torch.Tensor:
    """A tensor of the optimizer's state, in float64 where it is in the place of a number."""
    return x.double() if name in NUMBERS and deciding(optimizer) else x


def scopes(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The globals of the optimizer's code, if that means Python's `max` and `min`."""
    steps = [vars(x)["step"] for x in type(optimizer).__mro__ if "step" in vars(x)]
    found = [inspect.unwrap(step).__globals__ for step in steps if callable(step)]
    return [x for x in {id(x): x for x in found}.values() if not {"max", "min"} & x.keys()]


def every_device(supports_xla: bool = True) -> list[str]:
    """Where a recorded step may run."""
    return ["cpu", "cuda"]


def choice(name: str) -> Callable[..., Any]:
    """Python's `max` or `min`, which gives of a number of the graph a number of the graph."""
    plain = getattr(builtins, name)

    def chosen(*xs: Any, **named: Any) -> Any:
        if len(xs) == 2 and not named:
            for x in xs:
                if type(x) is Number:
                    made = x.node.apply(name, *xs)
                    return plain(*xs) if made is NotImplemented else made
        return plain(*xs, **named)

    return chosen


larger = choice("max")
smaller = choice("min")
