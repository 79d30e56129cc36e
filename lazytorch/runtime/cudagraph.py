"""Programs as CUDA graphs: run directly until every kernel is in place, captured once, replayed.

A replay launches the whole program at once, so the host's cost of every kernel is gone. What the
graph reads lies where it lay at the capture: state in its own place, arguments in buffers that are
filled before each replay. What it returns is copied out, so no result aliases memory that the next
call writes over. All graphs of a device share one memory pool; replays take turns, and a change of
stream waits for the stream before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, TypeVar

import torch

from lazytorch.frontend.modes import uncollected
from lazytorch.frontend.watch import alike
from lazytorch.interpret import aliased, laid_out, storage
from lazytorch.ir import Alias, Const, Graph, Input, Write
from lazytorch.lower.program import Program
from lazytorch.types import ScalarType, TensorType

CAPTURES = 4
"""Captures of one program, each since state had moved in memory; then it runs directly."""

Run = Callable[..., tuple[Any, ...]]


class Pool:
    """The memory that all graphs of one device share, and whose turn it is."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.handle = torch.cuda.graph_pool_handle()
        self.side = torch.cuda.Stream(device)
        self.lock = threading.Lock()
        self.last: torch.cuda.Stream | None = None
        # torch takes a pool away with its last graph: this one stays.
        self.first = torch.cuda.CUDAGraph()
        capture(self, self.first, partial(torch.zeros, 1, device=device))

    def enter(self) -> None:
        """Wait, on the present stream, for the replay before this one."""
        now = torch.cuda.current_stream(self.device)
        if self.last is not None and self.last != now:
            now.wait_stream(self.last)
        self.last = now


@cache
def pool_of(device: torch.device) -> Pool:
    """The pool of a device; one for the process."""
    return Pool(device)


class Captured:
    """One capture: the graph, the memory it reads and the memory it leaves results in."""

    def __init__(self, run: Run, inputs: Sequence[Any], fixed: Sequence[bool], pool: Pool) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.pool = pool
        self.inputs = [
            x if keep or not isinstance(x, torch.Tensor) else buffer(x)
            for x, keep in zip(inputs, fixed, strict=True)
        ]
        self.places = [
            x.data_ptr() if isinstance(x, torch.Tensor) and keep else None
            for x, keep in zip(inputs, fixed, strict=True)
        ]
        self.outputs = capture(pool, self.graph, partial(run, *self.inputs))


Result = TypeVar("Result")


def capture(pool: Pool, graph: torch.cuda.CUDAGraph, call: Callable[[], Result]) -> Result:
    """What `call` returns, its launches recorded in `graph` instead of done."""
    before = torch.cuda.current_stream(pool.device)
    pool.side.wait_stream(before)
    # Memory freed by a collection in here would belong to no stream.
    with uncollected(), torch.cuda.stream(pool.side):
        graph.capture_begin(pool=pool.handle, capture_error_mode="thread_local")
        try:
            result = call()
        finally:
            graph.capture_end()
    before.wait_stream(pool.side)
    return result


def copied(x: torch.Tensor) -> torch.Tensor:
    """`x` in memory of its own, with the same strides."""
    y = x.clone()
    return (
        y
        if y.stride() == x.stride()
        else laid_out(x, TensorType(tuple(x.shape), x.dtype, x.device, x.stride()))
    )


def buffer(x: torch.Tensor) -> torch.Tensor:
    """Memory with the geometry of `x`."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)


class Replayer:
    """Runs a program of one CUDA device, directly at first and as a graph as soon as it can.

    State (parameters, buffers, a prologue's values) is read where it lies, arguments are copied
    into buffers. `why` says why the program is not captured; empty when it is or will be.
    """

    def __init__(self, program: Program, graph: Graph, device: torch.device) -> None:
        self.program = program
        self.device = device
        self.fixed = [isinstance(x.op, Input) and x.op.role == "state" for x in graph.inputs]
        self.state = [i for i, fixed in enumerate(self.fixed) if fixed]
        self.arguments = [i for i, fixed in enumerate(self.fixed) if not fixed]
        self.aliases: tuple[Alias | None, ...] = graph.aliases
        self.fresh = [i for i, alias in enumerate(graph.aliases) if alias is None]
        written = {e.inputs[0] for e in graph.effects if isinstance(e.op, Write)}
        self.written = [i for i, x in enumerate(graph.inputs) if x in written]
        self.captured: Captured | None = None
        self.values: tuple[Any, ...] = ()  # the prologue's last ones
        self.owned: list[bool] = []  # which of them show no parameter's memory
        self.direct = 0
        self.captures = 0
        self.why = refusal(graph)

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """The program's outputs."""
        if torch.cuda.is_current_stream_capturing():  # into a graph of the user's own
            return self.program.run(*inputs)
        captured = self.captured
        if captured is None or not self.in_place(captured, inputs):
            captured = self.capture(inputs)
            if captured is None:
                self.direct += self.program.settled()
                return self.program.run(*inputs)
        return self.replay(captured, inputs)

    def renewed(self, values: tuple[Any, ...], read: Sequence[Any]) -> tuple[Any, ...]:
        """What the prologue computed anew from `read`, where a capture reads it.

        Values with memory of their own keep their place: weights that change at every step of a
        training loop need no new capture.
        """
        given = {storage(x) for x in read if isinstance(x, torch.Tensor)}
        own = [isinstance(x, torch.Tensor) and storage(x) not in given for x in values]
        before, self.values = self.values, values
        if self.captured is None or len(before) != len(values):
            self.owned = own
            return values
        pool = self.captured.pool
        with pool.lock:
            pool.enter()
            kept: list[Any] = []
            for old, new, was, now in zip(before, values, self.owned, own, strict=True):
                if was and now and alike(old, new):
                    old.copy_(new)
                    new = old
                kept.append(new)
        self.owned = own
        self.values = tuple(kept)
        return self.values

    def describe(self) -> str:
        """What became of the capture, for people."""
        if self.why:
            return f"not captured: {self.why}"
        if self.captured is None:
            return "not captured yet: it runs directly until every kernel is in place"
        times = "once" if self.captures == 1 else f"{self.captures} times, since state had moved"
        return f"captured {times}; {len(self.arguments)} arguments copied in at each call"

    def in_place(self, captured: Captured, inputs: Sequence[Any]) -> bool:
        """Whether state lies where the graph reads it."""
        places = captured.places
        return all(inputs[i].data_ptr() == places[i] for i in self.state)

    def capture(self, inputs: Sequence[Any]) -> Captured | None:
        """Capture if the kernels are in place and have run directly once; else None."""
        self.captured = None
        if self.why or not self.direct or not all(isinstance(x, torch.Tensor) for x in inputs):
            return None
        if self.captures == CAPTURES:
            self.why = f"state moved in memory after each of {CAPTURES} captures"
            return None
        pool = pool_of(self.device)
        with pool.lock:
            pool.enter()
            try:
                self.captured = Captured(self.program.run, inputs, self.fixed, pool)
            except RuntimeError as error:
                self.why = f"the capture failed: {str(error).splitlines()[0]}"
                return None
        self.captures += 1
        return self.captured

    def replay(self, captured: Captured, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Fill the argument buffers, launch the graph, copy the results out."""
        pool = captured.pool
        with pool.lock:
            pool.enter()
            for i in self.arguments:
                captured.inputs[i].copy_(inputs[i])
            captured.graph.replay()
            outputs: list[Any] = list(captured.outputs)
            for i in self.fresh:
                outputs[i] = copied(outputs[i])
        for i in self.written:
            if not inputs[i].is_inference():
                torch.autograd.graph.increment_version(inputs[i])
        for i, alias in enumerate(self.aliases):
            if alias is not None:
                outputs[i] = aliased(alias, inputs if alias.source == "input" else outputs)
        return tuple(outputs)


def replayer(program: Program, graph: Graph) -> Run:
    """How a program is run: as a CUDA graph where values lie on a GPU."""
    for x in graph.nodes:
        if isinstance(x.type, TensorType) and x.type.device.type == "cuda":
            return Replayer(program, graph, x.type.device)
    return program.run


def refusal(graph: Graph) -> str:
    """Why a program cannot be captured; empty when it can."""
    for x in graph.nodes:
        if isinstance(x.type, TensorType) and x.type.device.type != "cuda":
            return f"a value lies on the {x.type.device} ({x.op.name()} at {x.where})"
        if isinstance(x.type, ScalarType) and not isinstance(x.op, Const):
            return f"a number varies from call to call ({x.op.name()} at {x.where})"
    devices = {x.type.device for x in graph.nodes if isinstance(x.type, TensorType)}
    if len(devices) > 1:
        return f"values lie on several devices: {', '.join(sorted(map(str, devices)))}"
    for effect in graph.effects:
        if isinstance(effect.op, Write):
            target = effect.inputs[0].op
            if isinstance(target, Input) and target.role == "argument":
                return f"it writes to the argument {target.label}"
    return ""
