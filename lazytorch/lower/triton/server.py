"""A process that compiles kernels into Triton's cache, many at a time: `ahead` starts it.

Compiling is Python for a good part, so that threads of one process wait for each other; forks of
one that has imported Triton, and nothing of torch, start at once and do not. A line of JSON on the
standard input asks for a kernel, a line with its number answers when the cache has it, or when it
could not be compiled: who asked compiles again then, and hears why.

Run as a script, so that no package above this folder is imported. Ends with its input, or when
nobody asked for `IDLE` seconds.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

IDLE = 600.0


def without_torch() -> None:
    """Let modules of this folder be imported, and none of the packages around them be run."""
    folder = Path(__file__).parent
    for name, path in (
        ("lazytorch", folder.parent.parent),
        ("lazytorch.lower", folder.parent),
        ("lazytorch.lower.triton", folder),
    ):
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = [str(path)]


def prepare() -> None:
    """Do what every fork would otherwise do."""
    from triton.backends.nvidia import driver
    from triton.runtime import cache

    import_module("lazytorch.lower.triton.arithmetic")
    import_module("lazytorch.lower.triton.source")
    cache.triton_key()
    with suppress(Exception):  # there is none without a GPU
        driver.library_dirs()
    with suppress(Exception):  # a fork would hear it again
        rehearse()


REHEARSED = """
import triton
import triton.language as tl

SIGNATURE = {"p0": "*fp32", "p1": "*fp32"}
DIVISIBILITY = {}
OPTIONS = {}


@triton.jit
def rehearsed(p0, p1):
    i = tl.arange(0, 128)
    tl.store(p1 + i, tl.load(p0 + i) + 1.0)
"""


def rehearse() -> None:
    """Compile something for any GPU, and forget it: what a first compilation imports and asks
    for takes longer than a small kernel."""
    from triton.backends.compiler import GPUTarget

    from lazytorch.lower.triton.source import compile_kernel, run_source

    before = os.environ.get("TRITON_CACHE_DIR")
    with TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        try:
            module = run_source("rehearsed", REHEARSED)
            compile_kernel(module, module.rehearsed, True, GPUTarget("cuda", 80, 32))
        finally:
            if before is None:
                del os.environ["TRITON_CACHE_DIR"]
            else:
                os.environ["TRITON_CACHE_DIR"] = before


def compiled(job: dict[str, Any]) -> None:
    """Compile one kernel, and where Triton builds a launcher for each signature, that."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia import driver

    from lazytorch.lower.triton.source import compile_kernel, run_source

    module = run_source(job["name"], job["source"])
    function = getattr(module, job["name"])
    found = compile_kernel(module, function, job["aligned"], GPUTarget(*job["target"]))
    if hasattr(driver, "make_launcher"):
        driver.CudaLauncher(found.src, found.metadata)


def introduced() -> None:
    """Build what Triton talks to CUDA with."""
    from triton.backends.nvidia import driver

    driver.CudaUtils()


def forked(do: Callable[[], None]) -> int:
    """The process that does something, and ends."""
    pid = os.fork()
    if pid:
        return pid
    with suppress(BaseException):
        do()
    os._exit(0)


def serve(answers: int) -> None:
    """Do what the standard input asks for."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    most = os.cpu_count() or 1
    waiting: list[dict[str, Any]] = []
    running: dict[int, int | None] = {forked(introduced): None}
    rest = b""
    while events := selector.select(IDLE):
        for key, _ in events:
            read = os.read(key.fd, 1 << 16)
            if key.fd == 0:
                if not read:
                    return
                *lines, rest = (rest + read).split(b"\n")
                waiting += map(json.loads, lines)
        while running:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            number = running.pop(pid)
            if number is not None:
                os.write(answers, b"%d\n" % number)
        while waiting and len(running) < most:
            job = waiting.pop(0)
            running[forked(partial(compiled, job))] = job["number"]


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    answers = os.dup(1)
    os.dup2(2, 1)  # what a compiler prints is no answer
    without_torch()
    prepare()
    serve(answers)
