"""Programs as CUDA graphs: run directly until every kernel is in place, captured once, replayed.

A replay launches the whole program at once, so the host's cost of every kernel is gone. What the
graph reads lies where it lay at the capture: state in its own place, arguments, and state that
every call replaces, in buffers that are filled before each replay, or arguments in their own places
if they are promised to stay (`static_inputs`).
Numbers among the arguments have one buffer together, which is filled where one of them changed.
What it returns is copied out, so no result aliases memory that the next call writes over; a large
result that the program's last call makes is made behind the replay instead (`lower.last_call`). All
graphs of a device share one memory pool (`runtime.pool`); replays take turns, and a change of
stream waits for the stream before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from operator import is_
from typing import Any

import torch

from lazytorch.devices import device_named
from lazytorch.frontend.watch import alike
from lazytorch.interpret import aliased, storage
from lazytorch.ir import Alias, Const, Graph, Input, Write
from lazytorch.lower.arena import arena, spans
from lazytorch.lower.call import KernelCall
from lazytorch.lower.counted import counted
from lazytorch.lower.last_call import WORTH, LastCall, last_call
from lazytorch.lower.program import Program, waiting
from lazytorch.lower.timeline import timeline
from lazytorch.lower.workspaces import NONE, workspaces
from lazytorch.ops.offload import pinned_as, shelved
from lazytorch.passes.draws_in_kernels import dropped
from lazytorch.passes.numbers_on_device import enters, varies
from lazytorch.runtime.copies import Copies
from lazytorch.runtime.marks import ADDRESS, Marks, shift
from lazytorch.runtime.pool import Pool, capture, pool_of
from lazytorch.runtime.waits import waits
from lazytorch.types import TensorType

CAPTURES = 4
"""Captures of one program, each since state had moved in memory; then it runs directly. Arguments
that were promised to stay are copied in from then on."""

Run = Callable[..., tuple[Any, ...]]


class Numbers:
    """Floats in a device's memory, in float64, each a tensor without dimensions."""

    def __init__(self, values: Sequence[float], device: torch.device) -> None:
        self.memory = torch.empty(len(values), dtype=torch.float64, device=device)
        self.tensors = self.memory.unbind()
        self.known = b""

    def fill(self, values: Sequence[float]) -> None:
        """Copy them there without waiting, unless they are there, bit for bit."""
        found = struct.pack(f"{len(values)}d", *values)
        if found == self.known:
            return
        here = torch.tensor(values, dtype=torch.float64, pin_memory=self.memory.is_cuda)
        self.memory.copy_(here, non_blocking=True)
        self.known = found


class Captured:
    """One capture: the graph, the memory it reads and the memory it leaves results in.

    Inputs that are `fixed` are read where they lie; of the outputs, the `fresh` ones are handed out
    as copies, but for what the `last` call makes, which is not part of the graph. Values of types
    `host` are copied to the host's memory on the way.
    """

    def __init__(
        self,
        run: Run,
        inputs: Sequence[Any],
        fixed: Sequence[int],
        fresh: Sequence[int],
        pool: Pool,
        arena: int = 0,
        last: LastCall | None = None,
        host: Sequence[TensorType] = (),
    ) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.pool = pool
        self.fixed = fixed
        self.counting = [i for i, x in enumerate(inputs) if isinstance(x, float)]
        self.moving = [i for i in range(len(inputs)) if i not in fixed and i not in self.counting]
        self.buffers = [buffer(inputs[i]) for i in self.moving]
        self.filling = Copies(self.buffers)
        self.marks = Marks([inputs[i] for i in fixed], True, False)
        given = list(inputs)
        for i, x in zip(self.moving, self.buffers, strict=True):
            given[i] = x
        self.numbers = Numbers([inputs[i] for i in self.counting], pool.device)
        for i, x in zip(self.counting, self.numbers.tensors, strict=True):
            given[i] = x  # `Full`, which alone reads it, takes either
        self.host = [pinned_as(x.shape, x.strides, x.dtype) for x in host]
        call = shelved(partial(run, *given), self.host)
        self.outputs, self.tables = capture(pool, self.graph, call, arena)
        pool.serve(self)
        made = -1 if last is None else last.output
        self.results: list[torch.Tensor] = [self.outputs[i] for i in fresh if i != made]
        self.handing = Copies(self.results)
        self.allocate = [like(x) for x in self.handing.once(self.results)]
        self.shapes = [x.shape for x in self.results]
        self.last: Callable[[], tuple[torch.Tensor, ...]] | None = None
        self.place = 0  # of what it makes, among the results
        if last is not None:
            self.last = partial(last.run, *last.operands(given, self.outputs))
            self.place = fresh.index(made)

    def in_place(self, inputs: Sequence[Any]) -> bool:
        """Whether what is fixed lies where the graph reads it."""
        found = [inputs[i] for i in self.fixed]
        marked = self.marks
        if all(map(is_, found, marked.tensors)) and marked.same():
            return True
        return list(map(ADDRESS, found)) == marked.known[0]

    def replay(self, inputs: Sequence[Any]) -> list[torch.Tensor]:
        """Fill the argument buffers, launch the graph, copy the results out."""
        with self.pool.lock:
            self.pool.enter()
            if self.counting:
                self.numbers.fill([inputs[i] for i in self.counting])
            self.filling.copy(self.buffers, [inputs[i] for i in self.moving])
            results = [allocate() for allocate in self.allocate]  # before state is written
            self.graph.replay()
            self.handing.copy(results, self.results)
            made = () if self.last is None else self.last()
        if not self.handing.whole:
            results = [x.expand(shape) for x, shape in zip(results, self.shapes, strict=True)]
        results[self.place : self.place] = made
        return results


def buffer(x: torch.Tensor) -> torch.Tensor:
    """Memory with the geometry of `x`."""
    return like(x)()


def like(x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """What allocates memory with the geometry of `x`."""
    return partial(torch.empty_strided, x.shape, x.stride(), dtype=x.dtype, device=x.device)


class Replayer:
    """Runs a program of one CUDA device, directly at first and as a graph as soon as it can.

    State (parameters, buffers, a prologue's values) is read where it lies, but for what has `moved`
    at every call; arguments are copied into buffers, but for those that are `static`. `why` says
    why the program is not captured; empty when it is or will be.
    """

    def __init__(
        self,
        program: Program,
        graph: Graph,
        device: torch.device,
        static: frozenset[int],
        moved: frozenset[int] = frozenset(),
    ) -> None:
        self.program = program
        self.device = device
        written = {e.inputs[0] for e in graph.effects if isinstance(e.op, Write)}
        self.written = [i for i, x in enumerate(graph.inputs) if x in written]
        moved -= set(self.written)  # they are written in their own places
        self.state = frozenset(
            i
            for i, x in enumerate(graph.inputs)
            if isinstance(x.op, Input) and x.op.role == "state" and i not in moved
        )
        self.static = static
        self.aliases: tuple[Alias | None, ...] = graph.aliases
        self.fresh = [i for i, alias in enumerate(graph.aliases) if alias is None]
        self.captured: Captured | None = None
        self.values: tuple[Any, ...] = ()  # the prologue's last ones
        self.owned: list[bool] = []  # which of them show no parameter's memory
        self.direct = 0
        self.captures = 0
        self.why = refusal(graph) or burden(graph, static)
        roots = {root for root, _ in dropped(graph).values()}
        self.dropped = [
            i
            for i, x in enumerate(graph.inputs)
            if x in roots and i not in self.state and i not in static
        ]

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """The program's outputs."""
        if torch.cuda.is_current_stream_capturing():  # into a graph of the user's own
            return self.program.run(*inputs)
        captured = self.captured
        if captured is None or not captured.in_place(inputs):
            captured = self.capture(inputs)
            if captured is None:
                return self.directly(*inputs)
        return self.replay(captured, inputs)

    def directly(self, *inputs: Any) -> tuple[Any, ...]:
        """The program's outputs without a graph. The last run before a capture is watched."""
        if self.why or self.direct or not self.program.settled():
            return self.program.run(*inputs)
        with waits() as found:
            outputs = self.program.run(*inputs)
        self.direct += 1
        if found:
            self.why = f"it waits for the GPU (at {found[0]})"
        return outputs

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
            stay = [
                i for i, x in enumerate(before) if self.owned[i] and own[i] and alike(x, values[i])
            ]
            old = [before[i] for i in stay]
            Copies(old).copy(old, [values[i] for i in stay])
            kept = list(values)
            for i in stay:
                kept[i] = before[i]
        self.owned = own
        self.values = tuple(kept)
        return self.values

    def describe(self) -> str:
        """What became of the capture, for people."""
        if self.why:
            return f"not captured: {self.why}"
        if self.captured is None:
            return "not captured yet: it runs directly until every kernel is in place"
        what = "state or static inputs" if self.static else "state"
        times = "once" if self.captures == 1 else f"{self.captures} times, since {what} had moved"
        behind = "" if self.captured.last is None else ", the last call behind each replay"
        moving = len(self.captured.moving)
        return f"captured {times}{behind}; {moving} arguments copied in at each call"

    def capture(self, inputs: Sequence[Any]) -> Captured | None:
        """Capture if the kernels are in place and have run directly once; else None."""
        self.captured = None
        if self.why or not self.direct:
            return None
        if not all(isinstance(x, torch.Tensor | float) for x in inputs):
            return None
        if any(shift(inputs[i]) for i in self.dropped):
            self.why = "an argument begins off a boundary, which decides what is dropped from it"
            return None
        if self.captures == CAPTURES and self.static:
            self.static, self.captures = frozenset(), 0
        if self.captures == CAPTURES:
            self.why = f"state moved in memory after each of {CAPTURES} captures"
            return None
        pool = pool_of(self.device)
        with pool.lock:
            pool.enter()
            pool.settle()
            if calls_libraries(self.program):
                pool.prepare()
            try:
                counting = {i for i, x in enumerate(inputs) if isinstance(x, float)}
                fixed = sorted((self.state | self.static) - counting)
                last = last_call(self.program)
                program = self.program if last is None else last.before
                self.captured = Captured(
                    program.run, inputs, fixed, self.fresh, pool, self.arena(program), last,
                    waiting(program),
                )  # fmt: skip
            except RuntimeError as error:
                self.why = f"the capture failed: {str(error).splitlines()[0]}"
            if self.why:
                pool.settle()  # what was recorded until then has memory there
                return None
        self.captures += 1
        return self.captured

    def arena(self, program: Program) -> int:
        """Bytes of the piece of memory from which the capture's values are cut."""
        known = workspaces(device_named(self.device))
        return arena(spans(timeline(program, known.find).blocks))

    def replay(self, captured: Captured, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Replay; versions of what was written move, and views of inputs are made."""
        outputs: list[Any] = [None] * len(self.aliases)
        for i, result in zip(self.fresh, captured.replay(inputs), strict=True):
            outputs[i] = result
        counted(*[inputs[i] for i in self.written])
        for i, alias in enumerate(self.aliases):
            if alias is not None:
                outputs[i] = aliased(alias, inputs if alias.source == "input" else outputs)
        return tuple(outputs)


def replayer(
    program: Program,
    graph: Graph,
    static: frozenset[int] = frozenset(),
    moved: frozenset[int] = frozenset(),
) -> Run:
    """How a program is run: as a CUDA graph where values lie on a GPU. The inputs `static` are
    promised to stay where they are, those that have `moved` are elsewhere at every call."""
    for x in graph.nodes:
        if isinstance(x.type, TensorType) and x.type.device.type == "cuda":
            return Replayer(program, graph, x.type.device, static, moved)
    return program.run


def calls_libraries(program: Program) -> bool:
    """Whether a library may ask for memory that it keeps."""
    return any(
        x.node is not None
        and x.does == "call"
        and not isinstance(x.site, KernelCall)
        and not isinstance(x.node.op, NONE)
        for x in program.lines
    )


def refusal(graph: Graph) -> str:
    """Why a program cannot be captured; empty when it can."""
    for x in graph.nodes:
        if isinstance(x.type, TensorType) and x.type.device.type != "cuda":
            return f"a value lies on the {x.type.device} ({x.op.name()} at {x.where})"
        if varies(x) and not (isinstance(x.op, Input) and all(map(enters, graph.users[x]))):
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


def burden(graph: Graph, static: frozenset[int]) -> str:
    """Why a capture would cost more than it saves: what is copied in and out; else empty.

    Few operations on large tensors keep the GPU busy longer than the host takes to launch them.
    """
    given = [
        x.type
        for i, x in enumerate(graph.inputs)
        if isinstance(x.op, Input) and x.op.role != "state" and i not in static
    ]
    made = [x.type for x, alias in zip(graph.outputs, graph.aliases, strict=True) if alias is None]
    copied = sum(x.nbytes for x in (*given, *made) if isinstance(x, TensorType))
    launches = sum(not isinstance(x.op, Const | Input) and not x.op.view for x in graph.nodes)
    if copied <= WORTH * launches:
        return ""
    return f"{copied >> 20} MiB would be copied in and out at each call, for {launches} launches"
