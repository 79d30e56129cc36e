"""Compiles kernels, in the background unless told to wait, and swaps them in when ready.

With `tune` they are measured first, at the first call that finds them built.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, partial

import torch

from lazytorch.errors import CompilerError
from lazytorch.ir import Graph
from lazytorch.lower.call import KernelCall
from lazytorch.lower.kernel import Kernel, Target
from lazytorch.lower.prepared import prepared
from lazytorch.lower.program import Program
from lazytorch.lower.triton.ahead import AHEAD
from lazytorch.ops.random import Bernoulli
from lazytorch.options import Environment, Options, environment
from lazytorch.runtime.cache import DiskCache
from lazytorch.runtime.draws import Draws
from lazytorch.runtime.marks import FEW, Asker
from lazytorch.runtime.tune import searching, tuner_for
from lazytorch.types import TensorType


class Builds:
    """The builds of one compiled function."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tuner = tuner_for(environment()) if options.tune else None
        self.threads: list[threading.Thread] = []
        self.failed: str = ""
        prepare_for_gpu()

    def target(self, graph: Graph) -> Target | None:
        """Where the graph's kernels are generated for; None when there is no compiler."""
        if self.failed:
            return None
        devices = {x.type.device.type for x in graph.nodes if isinstance(x.type, TensorType)}
        device = "cuda" if "cuda" in devices else "cpu"
        return target_for(device, self.options.numerics, environment())

    def expect(self, graph: Graph) -> None:
        """Let a graph's kernels be compiled meanwhile, by the process that does that."""
        target = self.target(graph) if AHEAD.running() is not None else None
        if target is not None:
            target.ask([*{x.name: x for x in prepared(graph, target, {}).values()}.values()])

    def tuned(self, program: Program, graph: Graph) -> Program:
        """The program, whose library calls are measured if anything is."""
        if any(isinstance(x.op, Bernoulli) and x.op.device.type == "cpu" for x in graph.effects):
            self.threads += [x for x in (Draws.start(environment()),) if x is not None]
        if self.tuner is None:
            return program
        for call in program.library:
            self.tuner.offer(call)
        return searching(program, graph)

    def start(self, calls: Sequence[KernelCall]) -> None:
        """Build the kernels of some call sites; at once with `wait`, else in the background."""
        if not calls:
            return
        if self.options.wait:
            self.build(calls)
            return
        thread = threading.Thread(target=self.build, args=(calls,), daemon=True)
        thread.start()
        self.threads = [*[x for x in self.threads if x.is_alive()], thread]

    def watch(self, tensors: int) -> None:
        """Build what asks many weights at once, if there are many; always in the background."""
        thread = Asker.start(environment()) if tensors >= FEW else None
        if thread is not None:
            self.threads.append(thread)

    def build(self, calls: Sequence[KernelCall]) -> None:
        """Build and swap; without a compiler torch's kernels stay, and one warning says so."""
        tuner = self.tuner
        unknown = [] if tuner is None else [call for call in calls if not tuner.recall(call)]
        calls = [call for call in calls if not call.settled]  # others stay with torch's kernels
        if not calls:
            return
        kernels: dict[str, Kernel] = {call.kernel.name: call.kernel for call in calls}
        refused = refusals(calls[0].target, kernels)
        if len(refused) == len(kernels):
            self.failed = next(iter(refused.values()))
        for message in dict.fromkeys(refused.values()):
            warn_once(message)
        for call in calls:
            if call.kernel.name in refused:
                call.measured, call.settled = None, True
            elif call not in unknown:
                call.swap()
                call.settled = True
        unknown = [call for call in unknown if call.kernel.name not in refused]
        if tuner is not None and unknown:
            tuner.prepare(unknown)
            for call in unknown:
                tuner.offer(call)

    def wait(self) -> None:
        """Return when nothing is being built."""
        for thread in self.threads:
            thread.join()
        self.threads.clear()


def refusals(target: Target, kernels: Mapping[str, Kernel]) -> dict[str, str]:
    """What the compiler says of the kernels that it refuses; the others are built."""
    try:
        target.build(list(kernels.values()))
    except CompilerError as error:
        if len(kernels) == 1:
            return dict.fromkeys(kernels, str(error))
        refused: dict[str, str] = {}
        for name, kernel in kernels.items():
            refused |= refusals(target, {name: kernel})
        return refused
    return {}


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """One warning per process and reason."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(
            f"{message}\nlazytorch runs torch's own kernels in its place, one by one.", stacklevel=2
        )


def prepare_for_gpu() -> None:
    """Start what compiles kernels, if an NVIDIA GPU is in use."""
    if torch.cuda.is_initialized() and torch.version.cuda is not None:
        AHEAD.start()


@cache
def target_for(device: str, numerics: str, here: Environment) -> Target:
    """The code generator for a kind of device; one a process, so that models share kernels."""
    rounding = numerics == "eager"
    if device == "cuda":
        from lazytorch.lower.triton.kernel import TritonTarget

        prepare_for_gpu()
        return TritonTarget(rounding)
    from lazytorch.lower.cpp.kernel import CppTarget
    from lazytorch.lower.cpp.toolchain import load

    store = DiskCache(here.cache).get_or_build
    return CppTarget(rounding, partial(load, cxx=here.cxx, store=store))
