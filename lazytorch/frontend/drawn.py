"""Python's and NumPy's random numbers in a function that is recorded.

A replay runs no Python: what was drawn while the function was recorded would be every later call's.
So nothing is drawn then. The function gets a `Drawn`, which is refused wherever it is used. Models
draw in vain too, whether to drop a layer, say, before they look whether they are in training.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn

import numpy as np
from torch.utils._python_dispatch import _get_current_dispatch_mode

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Where

NAMES = (
    "random", "uniform", "rand", "random_sample", "randint", "randrange", "choice", "choices",
    "sample", "shuffle", "gauss", "normalvariate", "triangular", "expovariate", "betavariate",
    "getrandbits", "randn", "normal", "standard_normal", "permutation", "exponential", "binomial",
    "poisson", "beta", "bytes",
)  # fmt: skip
MODULES: tuple[Any, ...] = (random, np.random)
IN_PLACE = "shuffle"
"""What gives nothing that could be refused later."""

USES = (
    "lt le eq ne gt ge bool hash len iter contains getitem call int float index complex round "
    "trunc floor ceil abs neg pos invert str format array"
)
BINARY = "add sub mul truediv floordiv mod divmod pow matmul and or xor lshift rshift"


class Drawn:
    """In place of what `name` would have given at a line of the user's."""

    def __init__(self, name: str, where: Where | None) -> None:
        self.name = name
        self.where = where

    def refuse(self, *_: object, **__: object) -> NoReturn:
        """UnsupportedError: it is used."""
        raise UnsupportedError(
            f"{self.name}() draws what every later call would use again",
            where=self.where,
            hint="draw with torch (torch.rand), or mark the function that draws lt.disable",
        )


for use in (*USES.split(), *BINARY.split(), *[f"r{name}" for name in BINARY.split()]):
    setattr(Drawn, f"__{use}__", Drawn.refuse)

_LOCK = threading.Lock()
_watched: list[tuple[Any, str, Any]] = []
_recordings = 0


@contextmanager
def watched() -> Generator[None]:
    """Recordings get a `Drawn` for what is drawn on their thread, until the end of the block."""
    global _recordings
    with _LOCK:
        _recordings += 1
        if _recordings == 1:
            for module in MODULES:
                for name in NAMES:
                    if draws := getattr(module, name, None):
                        _watched.append((module, name, draws))
                        setattr(module, name, drawing(f"{module.__name__}.{name}", draws))
    try:
        yield
    finally:
        with _LOCK:
            _recordings -= 1
            while not _recordings and _watched:
                setattr(*_watched.pop())


def drawing(name: str, draws: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but for a recording on this thread."""

    @wraps(draws)
    def draw(*args: Any, **kwargs: Any) -> Any:
        recorder = getattr(_get_current_dispatch_mode(), "recorder", None)
        drawn: list[Drawn] | None = getattr(recorder, "drawn", None)
        if drawn is None or recorder is None:
            return draws(*args, **kwargs)
        drawn.append(Drawn(name, recorder.here()))
        if name.endswith(IN_PLACE):
            drawn[-1].refuse()
        return drawn[-1]

    return draw
