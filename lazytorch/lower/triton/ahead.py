"""Asks a process of its own to compile kernels into Triton's cache, from where they are loaded.

Nothing depends on its success: a kernel that is not in the cache is compiled where it is wanted.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lazytorch.lower.kernel import Kernel

SERVER = Path(__file__).parent / "server.py"

PATIENCE = 120.0
"""Seconds that a kernel may take: then it is compiled where it is wanted."""

Gpu = tuple[str, int, int]
"""A kind of device as Triton names it: its backend, its architecture, the threads of a warp."""


class Ahead:
    """The process, started when a GPU is about to be compiled for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0
        self.hearing: threading.Thread | None = None
        self.asked: dict[tuple[str, Gpu], threading.Event] = {}
        self.answers: list[threading.Event] = []  # by number

    def start(self) -> None:
        """Start the process, unless it runs."""
        if self.running() is not None or os.name != "posix":
            return
        with self.lock:
            if self.running() is not None:
                return
            self.stop()
            try:
                process = subprocess.Popen(
                    [sys.executable, str(SERVER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            except OSError:
                return
            self.owner, self.process = os.getpid(), process
            self.asked, self.answers = {}, []
            self.hearing = threading.Thread(target=hear, args=(process, self.answers), daemon=True)
            self.hearing.start()
            atexit.register(self.stop)
        threading.Thread(target=introduce, daemon=True).start()

    def running(self) -> subprocess.Popen[bytes] | None:
        """The process of this process, if it runs."""
        process = self.process if self.owner == os.getpid() else None
        return process if process is not None and process.poll() is None else None

    def ask(self, kernel: Kernel, gpu: Gpu) -> None:
        """Let a kernel be compiled, if it has not been asked for."""
        with self.lock:
            process = self.running()
            if process is None or process.stdin is None or (kernel.name, gpu) in self.asked:
                return
            job = {
                "number": len(self.answers), "name": kernel.name, "source": kernel.source,
                "aligned": True, "target": gpu,
            }  # fmt: skip
            done = self.asked[kernel.name, gpu] = threading.Event()
            self.answers.append(done)
            try:
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
            except (OSError, ValueError):  # it has just ended
                done.set()

    def wait(self, kernels: Iterable[Kernel]) -> None:
        """Return when the cache has those that were asked for, as far as they can be compiled."""
        names = {x.name for x in kernels}
        for done in [x for (name, _), x in tuple(self.asked.items()) if name in names]:
            done.wait(PATIENCE)

    def stop(self) -> None:
        """End the process."""
        if self.process is not None and self.hearing is not None and self.owner == os.getpid():
            self.process.kill()
            self.hearing.join()
        self.process = None


def hear(process: subprocess.Popen[bytes], answers: list[threading.Event]) -> None:
    """Take a process's answers, until it ends."""
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            answers[int(line)].set()
    for done in answers:
        done.set()


def introduce() -> None:
    """Import Triton here too, and let it hash itself, while something else is waited for.

    Each of several threads that load kernels would do that, as long as none is done.
    """
    with suppress(Exception):  # said by what compiles
        from triton.runtime import cache

        cache.triton_key()


AHEAD = Ahead()
"""One of a process."""
