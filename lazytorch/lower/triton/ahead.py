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


class Ahead:
    """The process, started when a GPU is about to be compiled for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0

    def start(self) -> None:
        """Start the process, unless it runs."""
        if self.running() is not None or os.name != "posix":
            return
        with self.lock:
            if self.running() is not None:
                return
            self.stop()
            try:
                self.process = subprocess.Popen(
                    [sys.executable, str(SERVER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            except OSError:
                return
            self.owner = os.getpid()
            atexit.register(self.stop)
        threading.Thread(target=introduce, daemon=True).start()

    def running(self) -> subprocess.Popen[bytes] | None:
        """The process of this process, if it runs."""
        process = self.process if self.owner == os.getpid() else None
        return process if process is not None and process.poll() is None else None

    def compile(self, kernels: Iterable[Kernel], target: tuple[str, int, int]) -> None:
        """Return when the cache has the kernels that can be compiled for a kind of device.

        `target` is its kind, its architecture and the threads of a warp.
        """
        jobs = [
            {"number": i, "name": x.name, "source": x.source, "aligned": True, "target": target}
            for i, x in enumerate(kernels)
        ]
        with self.lock:
            process = self.running()
            if process is None or process.stdin is None or process.stdout is None:
                return
            try:
                process.stdin.writelines([json.dumps(job).encode() + b"\n" for job in jobs])
                process.stdin.flush()
                for _ in jobs:
                    if not process.stdout.readline():
                        return
            except OSError:
                return

    def stop(self) -> None:
        """End the process."""
        if self.process is not None and self.owner == os.getpid():
            with self.process as process:
                process.kill()
        self.process = None


def introduce() -> None:
    """Import Triton here too, and let it hash itself, while something else is waited for.

    Each of several threads that load kernels would do that, as long as none is done.
    """
    with suppress(Exception):  # said by what compiles
        from triton.runtime import cache

        cache.triton_key()


AHEAD = Ahead()
"""One of a process."""
