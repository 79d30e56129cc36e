"""A recorded piece as a stage: optimized, lowered to programs, its kernels on their way."""

from __future__ import annotations

import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

from lazytorch.frontend.sources import Piece, Recorded, addresses
from lazytorch.ir import Graph
from lazytorch.lower.budget import Planned, check
from lazytorch.lower.lowered import lowered
from lazytorch.runtime.cudagraph import replayer
from lazytorch.runtime.gradients import Backward
from lazytorch.runtime.libraries import load
from lazytorch.runtime.setting import Setting
from lazytorch.runtime.stage import Stage

if TYPE_CHECKING:
    from lazytorch.compiled import Compiled


def staged(
    owner: Compiled,
    piece: Piece,
    known: Setting,
    recorded: Recorded | None,
    back: Backward | None = None,
    planned: Planned | None = None,
) -> Stage:
    """A stage of a recorded piece; with a backward pass, it leaves what that reads. `planned`
    gives the memory of its programs, which `max_bytes` bounds."""
    began = time.perf_counter()
    load(piece.graph)
    if back is not None:
        piece = replace(piece, graph=back.halves.forward)
    owner.stages.append(("recorded", 0.0, 0, len(piece.graph)))

    def observe(name: str, before: Graph, after: Graph) -> None:
        nonlocal began
        now = time.perf_counter()
        owner.stages.append((name, now - began, len(before), len(after)))
        began = now

    builds, options = owner.builds, owner.options
    costs = known.costs_of(piece)
    found = lowered(piece.graph, options, builds.target, observe, planned, builds.expect, costs)
    program = builds.tuned(found.main, found.rest)
    stage = Stage(
        piece,
        found.graph,
        builds.tuned(found.prologue, found.steady),
        program,
        found.read,
        replayer(program, found.rest, *addresses(piece, recorded, options.static_inputs))
        if back is None
        else program.run,
        known,
        recorded,
        options.check,
        back,
    )
    stage.state.replaced = weakref.WeakMethod(owner.let_go)
    observe("lower", found.graph, found.rest)
    builds.start([*stage.prologue.calls, *stage.main.calls])
    builds.watch(len(stage.state.tensors))
    check(options.max_bytes, planned, stage.prologue, stage.main)
    return stage
