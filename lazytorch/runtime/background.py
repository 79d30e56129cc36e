"""What is compiled once for the process, in the background."""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import ClassVar

from lazytorch.errors import LazyTorchError
from lazytorch.lower.cpp.toolchain import load
from lazytorch.options import Environment
from lazytorch.runtime.cache import DiskCache


class Background:
    """A compiled function of C++ `source`, which `take` is given as soon as it is there.

    Where there is no compiler, or something that it needs is missing, Python goes on without it;
    and where Python has no lock that holds still what it asks.
    """

    source: ClassVar[str]
    started: ClassVar[bool] = False

    @classmethod
    def start(cls, here: Environment) -> threading.Thread | None:
        """Compile in the background, at the first call."""
        if cls.started:
            return None
        cls.started = True
        thread = threading.Thread(target=cls.build, args=(here,), daemon=True)
        thread.start()
        return thread

    @classmethod
    def build(cls, here: Environment) -> None:
        """Compile, load and take it."""
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            return
        try:
            cls.take(load(cls.source, cxx=here.cxx, store=DiskCache(here.cache).get_or_build))
        except (LazyTorchError, OSError, AttributeError, ValueError):
            return

    @classmethod
    def take(cls, library: ctypes.CDLL) -> None:
        """Use the library, if it does what it is for."""
        raise NotImplementedError
