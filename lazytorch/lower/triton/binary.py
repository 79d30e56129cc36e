"""Compiles generated Triton kernels ahead of their first launch, several at a time."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import Any

import torch

from lazytorch.errors import CompilerError
from lazytorch.lower.kernel import Kernel
from lazytorch.lower.triton.ahead import AHEAD, Gpu
from lazytorch.lower.triton.source import compile_kernel, run_source

LOADING = threading.Lock()
"""Held while a kernel's launcher is loaded. Triton gives the libraries of all launchers one module
name, and Python one module object to all that it loads again: another thread's launcher would be
found in it. Built they are before, by a process of its own (`server`)."""


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU (`TRITON_INTERPRET=1`)."""
    if "TRITON_INTERPRET" not in os.environ:
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


class Binaries:
    """The kernels that are compiled, and the devices that they are wanted on.

    A kernel is compiled for tensors that begin at multiples of 16 bytes, as nearly all do; for
    the others once more, when they are first met.
    """

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self.wanted: dict[str, dict[int, None]] = {}
        self.loaded: dict[tuple[str, int, bool], Any] = {}
        self.lock = threading.Lock()

    def expect(self, kernel: Kernel, device: torch.device) -> None:
        """Remember that a kernel is to be built for a device."""
        index = device.index or 0
        with self.lock:
            self.wanted.setdefault(kernel.name, {})[index] = None

    def ask(self, kernels: Iterable[Kernel]) -> None:
        """Let kernels be compiled meanwhile, the longest first: what takes long begins early."""
        if AHEAD.running() is None:
            return
        for kernel in sorted(kernels, key=lambda x: len(x.source), reverse=True):
            for index in tuple(self.wanted.get(kernel.name, ())):
                if (kernel.name, index, True) not in self.loaded:
                    AHEAD.ask(kernel, gpu_of(index))

    def build(self, kernels: Sequence[Kernel]) -> None:
        """Compile and load what is not loaded yet; CompilerError when the compiler refuses."""
        missing: dict[tuple[str, int], Kernel] = {}
        for kernel in kernels:
            for index in tuple(self.wanted.get(kernel.name, (0,))):
                if (kernel.name, index, True) not in self.loaded:
                    missing[kernel.name, index] = kernel
        if len(missing) < 2:
            for (_, index), kernel in missing.items():
                self.load(kernel, index)
            return
        self.ask({x.name: x for x in missing.values()}.values())
        with ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as pool:
            tasks = [pool.submit(self.fetch, x, index) for (_, index), x in missing.items()]
        for task in tasks:
            task.result()

    def fetch(self, kernel: Kernel, index: int) -> None:
        """Load a kernel as soon as it is compiled, while others still are."""
        AHEAD.wait([kernel])
        self.load(kernel, index)

    def load(self, kernel: Kernel, index: int, aligned: bool = True) -> Any:
        """The kernel on a device: Triton's compiled kernel, or what its interpreter runs."""
        found = self.loaded.get((kernel.name, index, aligned))
        if found is None:
            try:
                found = self.compile(kernel, index, aligned)
            except ImportError as error:
                raise CompilerError(f"triton cannot be imported: {error}") from error
            self.loaded[kernel.name, index, aligned] = found
        return found

    def compile(self, kernel: Kernel, index: int, aligned: bool) -> Any:
        """Run the kernel's source and compile what it defines."""
        with self.lock:
            module = self.modules.get(kernel.name)
            if module is None:
                module = self.modules[kernel.name] = run_source(kernel.name, kernel.source)
        function = getattr(module, kernel.name)
        if interpreting():
            return function
        from triton.errors import TritonError
        from triton.runtime import driver

        try:
            with self.lock:  # the first of several threads starts the driver, alone
                driver.active.get_current_target()
            with torch.cuda.device(index):  # of this thread
                compiled = compile_kernel(module, function, aligned, target=None)
                with LOADING:
                    compiled.run  # noqa: B018  # loads it, and builds its launcher
        except (TritonError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            raise CompilerError(f"triton refused kernel {kernel.name}: {error}") from error
        return compiled


@cache
def gpu_of(index: int) -> Gpu:
    """A GPU as Triton names it."""
    major, minor = torch.cuda.get_device_capability(index)
    return "cuda", 10 * major + minor, 32
