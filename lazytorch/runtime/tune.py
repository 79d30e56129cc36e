"""Chooses among the ways of a call site by measuring them: `lt.compile(f, tune=True)`.

The generated kernel, the same in other launch shapes, torch's kernels one by one, or the backends
of a library operation: each is timed on the operands of a call, once for each operation, operand
types and device, and the fastest stays. Nothing that is measured writes to an operand (what writes
into an input is given other memory), and results are dropped, so the call's own result is what it
would have been.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch

from lazytorch.errors import CompilerError, LazyTorchError
from lazytorch.ir import Graph
from lazytorch.lower.call import TORCH, KernelCall, Measured, Site, Way
from lazytorch.lower.kernel import Kernel, Target
from lazytorch.lower.program import Program
from lazytorch.ops.conv import Convolution
from lazytorch.ops.cudnn import CudnnConvolution, CudnnConvolutionRelu
from lazytorch.options import Environment
from lazytorch.runtime.choices import Choices
from lazytorch.runtime.timing import measure
from lazytorch.types import TensorType

MARGIN = 0.05
"""Part of its time by which a way must be faster than the one that runs unmeasured, so that noise
changes nothing."""


class Tuner:
    """What is measured in this process, one call site at a time: others would disturb it."""

    def __init__(self, here: Environment) -> None:
        self.folder = here.cache
        self.devices: dict[torch.device, Choices] = {}
        self.lock = threading.RLock()

    def choices(self, device: torch.device) -> Choices:
        """What is known of a device's call sites."""
        with self.lock:
            if device not in self.devices:
                self.devices[device] = Choices(self.folder, device)
            return self.devices[device]

    def recall(self, call: KernelCall) -> bool:
        """Whether a call site's choice is known; it takes it up, and its kernel is then to be built
        if it is a generated one."""
        measured = self.choices(call.device).find(call.key())
        if measured is None:
            return False
        if measured.chosen == TORCH:
            call.take(measured, call.by_torch)
            return True
        kernels = [call.kernel]
        if measured.chosen != call.kernel.way:
            kernels += call.target.variants(call.op, call.operands)
        for kernel in kernels:
            if kernel.way == measured.chosen:
                call.kernel, call.measured = kernel, measured
                return True
        return False

    def prepare(self, calls: Sequence[KernelCall]) -> None:
        """Build the other launch shapes of call sites that are to be measured."""
        known: dict[str, Sequence[Kernel]] = {}
        for call in calls:
            key = call.key()
            if key not in known:
                known[key] = call.target.variants(call.op, call.operands)
        kernels = {x.name: x for found in known.values() for x in found}
        names = {x.name for x in built(calls[0].target, list(kernels.values()))} if kernels else ()
        for call in calls:
            call.others = [x for x in known[call.key()] if x.name in names]

    def offer(self, site: Site) -> None:
        """Measure a call site at its next call that is not recorded into a CUDA graph."""
        site.settled = False
        default = site.call

        def first(*xs: Any) -> Any:
            if site.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return default(*xs)
            with self.lock:
                if not site.settled:
                    self.settle(site, site.spare(xs))
            return site.call(*xs)

        site.call = first

    def settle(self, site: Site, xs: Sequence[Any]) -> None:
        """Choose for a call site by what is known, or by what is measured on `xs` now."""
        ways, choices, key = site.ways(xs), self.choices(site.device), site.key(xs)
        known = choices.find(key)
        if known is not None:
            default = next(iter(ways))
            few = {name: ways[name] for name in (default, known.chosen) if name in ways}
            ways = alike(few, xs)
            if known.chosen in ways:
                site.take(known, ways[known.chosen])
                return
            ways = site.ways(xs)
        ways = alike(ways, xs)
        seconds = measure({name: partial(way, *xs) for name, way in ways.items()}, site.device)
        measured = Measured(seconds, fastest(seconds))
        choices.add(key, measured)
        site.take(measured, ways[measured.chosen])


@cache
def tuner_for(here: Environment) -> Tuner:
    """The tuner; one a process, so that models share what it measures."""
    return Tuner(here)


def fastest(seconds: dict[str, float]) -> str:
    """The fastest way; the first one unless another is faster by the margin."""
    default, best = next(iter(seconds)), min(seconds, key=lambda way: seconds[way])
    return best if seconds[best] < (1 - MARGIN) * seconds[default] else default


def alike(ways: dict[str, Way], xs: Sequence[Any]) -> dict[str, Way]:
    """The ways whose results lie in memory as the first one's do, and that do not fail.

    What reads the results was prepared for how they lie.
    """
    found: dict[str, Way] = {}
    expected: object = None
    for name, way in ways.items():
        try:
            # Torch warns of each reason why a backend refuses.
            with warnings.catch_warnings(action="ignore"):
                geometry = laid(way(*xs))
        except (RuntimeError, LazyTorchError):
            if not found:
                raise
            continue
        expected = expected or geometry
        if geometry == expected:
            found[name] = way
    return found


def laid(result: Any) -> tuple[object, ...]:
    """How a result, or each of several, lies in memory."""
    results: Sequence[torch.Tensor] = result if isinstance(result, tuple) else (result,)
    return tuple([(x.shape, x.stride(), x.dtype, x.device) for x in results])


def built(target: Target, kernels: Sequence[Kernel]) -> list[Kernel]:
    """Those of the kernels that the compiler takes: a launch shape may need more than there is."""
    try:
        target.build(kernels)
    except CompilerError:
        return [x for x in kernels if compiles(target, x)]
    return list(kernels)


def compiles(target: Target, kernel: Kernel) -> bool:
    """Whether the compiler takes a kernel."""
    try:
        target.build([kernel])
    except CompilerError:
        return False
    return True


def searching(program: Program, graph: Graph) -> Program:
    """The program with cuDNN's search for the fastest convolution on while it runs itself.

    Torch keeps what it finds, for replays too. The user's own setting is put back each time.
    """
    convolutions = (Convolution, CudnnConvolution, CudnnConvolutionRelu)
    for x in graph.nodes:
        on_gpu = isinstance(x.type, TensorType) and x.type.device.type == "cuda"
        if on_gpu and isinstance(x.op, convolutions):
            program.run = partial(searched, program.run)
            break
    return program


def searched(run: Callable[..., tuple[Any, ...]], *inputs: Any) -> tuple[Any, ...]:
    """`run` with the search on, unless a CUDA graph is recorded, which cannot hold it."""
    cudnn = torch.backends.cudnn
    if cudnn.benchmark or torch.cuda.is_current_stream_capturing():
        return run(*inputs)
    cudnn.benchmark = True
    try:
        return run(*inputs)
    finally:
        cudnn.benchmark = False
