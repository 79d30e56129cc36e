"""Python's and NumPy's random numbers in a function that is recorded.

A replay runs no Python: a number that was drawn while the function was recorded would be every
later call's. Where it matters, that is refused by name. Models draw numbers in vain too, whether a
layer is dropped in training, say: a recording with the least and one with the greatest number tell.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
from torch.utils._python_dispatch import _get_current_dispatch_mode

from lazytorch.errors import UnsupportedError
from lazytorch.frontend.sources import Recorded
from lazytorch.ir import Where

BETWEEN = ("random", "uniform", "rand", "random_sample")
"""Functions whose numbers lie between two others; 0 and 1 where these are not given."""

OTHERS = (
    "randint", "randrange", "choice", "choices", "sample", "shuffle", "gauss", "normalvariate",
    "triangular", "expovariate", "betavariate", "getrandbits", "randn", "normal", "standard_normal",
    "permutation", "exponential", "binomial", "poisson", "beta", "bytes",
)  # fmt: skip
MODULES: tuple[Any, ...] = (random, np.random)
BELOW = 1 - 2**-53
"""Of an interval, how far its numbers reach."""


class Draws:
    """What a recording draws; `forced` says where in its interval each number lies instead."""

    def __init__(self, forced: float | None = None) -> None:
        self.forced = forced
        self.before = random.getstate(), np.random.get_state()
        self.seen: list[tuple[str, Where | None, bool]] = []
        """What drew, where, and whether its least and greatest numbers are known."""

    def drawn(self, name: str, value: Any, args: Any, where: Where | None) -> Any:
        """The number for the function; `value` is what was drawn."""
        low, high = (*args, 1.0)[:2] if args else (0.0, 1.0)
        known = name.rpartition(".")[2] in BETWEEN and isinstance(value, float)
        known = known and all(isinstance(x, int | float) for x in (low, high))
        self.seen.append((name, where, known))
        if self.forced is None or not known:
            return value
        return low + (high - low) * self.forced * BELOW

    def refuse(self) -> UnsupportedError:
        """Why the function cannot be replayed."""
        name, where, _ = self.seen[0]
        return UnsupportedError(
            f"{name}() draws a number that every later call would use again",
            where=where,
            hint="draw with torch (torch.rand), or mark the function that draws lt.disable",
        )


_LOCK = threading.Lock()
_watched: list[tuple[Any, str, Any]] = []
_recordings = 0


@contextmanager
def watched() -> Generator[None]:
    """Tell recordings what is drawn on their thread, until the end of the block."""
    global _recordings
    with _LOCK:
        _recordings += 1
        if _recordings == 1:
            for module in MODULES:
                for name in (*BETWEEN, *OTHERS):
                    if draws := getattr(module, name, None):
                        _watched.append((module, name, draws))
                        setattr(module, name, telling(f"{module.__name__}.{name}", draws))
    try:
        yield
    finally:
        with _LOCK:
            _recordings -= 1
            while not _recordings and _watched:
                setattr(*_watched.pop())


def telling(name: str, draws: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which tells the recording on this thread, if there is one."""

    @wraps(draws)
    def tell(*args: Any, **kwargs: Any) -> Any:
        value = draws(*args, **kwargs)
        recorder = getattr(_get_current_dispatch_mode(), "recorder", None)
        found: Draws | None = getattr(recorder, "draws", None)
        if found is None or recorder is None:
            return value
        given = (*args, *kwargs.values()) if kwargs.keys() <= {"a", "b", "low", "high"} else (None,)
        return found.drawn(name, value, given, recorder.here())

    return tell


def in_vain(
    draws: Draws, cuts: int, recorded: Recorded, again: Callable[[float], Recorded]
) -> None:
    """Refuse what was drawn, with both generators as they were, unless the function is recorded
    `again` to the same with the least and with the greatest numbers."""
    after = random.getstate(), np.random.get_state()
    try:
        if cuts or not all(known for *_, known in draws.seen):  # pieces that ran may not run again
            raise draws.refuse()
        for forced in (0.0, 1.0):
            other = again(forced)
            if str(other.piece.graph) != str(recorded.piece.graph) or told(other) != told(recorded):
                raise draws.refuse()
    except Exception:
        after = draws.before
        raise
    finally:
        random.setstate(after[0])
        np.random.set_state(after[1])


def told(recorded: Recorded) -> str:
    """What a function returns besides tensors."""
    return repr([x.value for x in recorded.leaves if x.output is None])
