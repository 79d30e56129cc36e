"""Objects of libraries that go on by themselves: generators of numbers, schedulers of rates,
iterators.

What one gave while a function was recorded would be every later call's, and what it went on by
would be once, and not once a call. So a function in which one moves is refused, and it is put back.
An iterator cannot be put back, so a function that reaches one is refused before it runs.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch.optim.lr_scheduler import LRScheduler

from lazytorch.errors import UnsupportedError

GENERATORS = random.Random | np.random.Generator | np.random.RandomState


def moves(value: object) -> bool:
    """Whether an object is such a one, with a state that can be put back."""
    if isinstance(value, random.SystemRandom):
        return False
    return isinstance(value, GENERATORS | LRScheduler)


def refuse_iterators(found: Iterable[tuple[str, object]]) -> None:
    """Refuse a function that may take the next of what an iterator gives."""
    for label, x in found:
        what = "an argument" if label == "argument" else label
        raise UnsupportedError(
            f"{what} ({type(x).__name__}) is an iterator, which goes on with every "
            "next() and loop: a replay would use again what it gave at first",
            hint="call next() outside, or pass a list of what it gives",
        )


@contextmanager
def unmoved(objects: Iterable[tuple[str, Any]]) -> Generator[None]:
    """A recording in which none of these objects may move; generators are as they were afterwards,
    schedulers by the watch, which sees what they hold."""
    before = [(label, x, state_of(x)) for label, x in objects]
    moved: list[tuple[str, Any]] = []
    try:
        yield
    finally:
        for label, x, state in before:
            if pickle.dumps(state_of(x)) != pickle.dumps(state):
                moved.append((label, x))
                restore(x, state)
    for label, x in moved:
        drew = isinstance(x, GENERATORS)
        what = (
            "draws what every later call would use again" if drew else "steps once, not once a call"
        )
        draw = "draw with torch (torch.rand), or mark a function that draws lt.disable"
        raise UnsupportedError(
            f"{label or 'an argument'} ({type(x).__name__}) {what}",
            hint=draw if drew else "step it outside of the compiled function",
        )


def state_of(x: Any) -> Any:
    """What decides what a generator does next; of a scheduler, how often it stepped."""
    match x:
        case random.Random():
            return x.getstate()
        case np.random.RandomState():
            return x.get_state(legacy=False)
        case np.random.Generator():
            return x.bit_generator.state
        case _:
            return getattr(x, "last_epoch", None), getattr(x, "_step_count", None)


def restore(x: Any, state: Any) -> None:
    """Let a generator go on from a state again."""
    match x:
        case random.Random():
            x.setstate(state)
        case np.random.RandomState():
            x.set_state(state)
        case np.random.Generator():
            x.bit_generator.state = state
        case _:
            pass
