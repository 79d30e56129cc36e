"""A compiled call whose results carry gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from lazytorch.autodiff.engine import hooked
from lazytorch.autodiff.joint import halves
from lazytorch.errors import UnsupportedError
from lazytorch.frontend import trees
from lazytorch.frontend.sources import Live, Recorded, Source, State, Storage
from lazytorch.ir import Graph
from lazytorch.lower.program import Program
from lazytorch.passes import Pass
from lazytorch.plan import Plan
from lazytorch.runtime.backward import (
    Call,
    Replay,
    autocast_state,
    random_state,
    realias,
    refuse_written,
    written_inputs,
)
from lazytorch.runtime.gradients import Backward
from lazytorch.runtime.stage import Stage
from lazytorch.runtime.state import present
from lazytorch.trail import Before, Trail

if TYPE_CHECKING:
    from lazytorch.compiled import Compiled


def differentiable(
    owner: Compiled,
    plan: Plan,
    leaves: list[Any],
    spec: trees.Spec,
    tensors: list[torch.Tensor],
    trail: Trail | None,
) -> tuple[Stage, tuple[Any, ...]]:
    """Run under an autograd node whose backward is compiled, or torch's own on the saved inputs."""
    first = plan.stage
    places: dict[int, list[int]] = {}
    for i, x in enumerate(leaves):
        if isinstance(x, torch.Tensor) and x.requires_grad:
            places.setdefault(id(x), []).append(i)
    arguments = list(places.values())
    state = [t for t in tensors if t.requires_grad and id(t) not in places]
    written = written_inputs(first, leaves)
    refuse_written(written)
    changing = {id(t) for _, t in written}
    ran = trail if trail is not None and trail.ran else None  # pieces, while it was recorded
    before = {} if ran is None else ran.before
    call = Call(
        owner.fn, leaves, spec, arguments, state,
        [x for x in tensors if id(x) not in changing],
        [(source, before.get(id(t), t.detach()).clone()) for source, t in written],
        [], random_state(first) if ran is None else ran.random, autocast_state(),
        plan.watch.recalled, tuple,
    )  # fmt: skip
    last: list[Stage] = []

    def run() -> tuple[Any, ...]:
        overwritten: Before = {}
        stage, outputs = owner.forward(plan, leaves, spec, trail, overwritten)
        recorded = cast(Recorded, stage.recorded)
        last.append(stage)
        if overwritten:  # a way that was not known yet, and what it writes
            new = [x for x in written_inputs(first, leaves) if id(x[1]) not in changing]
            refuse_written(new)
            call.written += [(source, overwritten[id(t)]) for source, t in new]
            call.read = [x for x in call.read if all(x is not t for _, t in new)]
        if stage.backward is not None and stage is first:
            call.halves = stage.backward
            call.inputs = stage.state.inputs(leaves, None)
        call.fills = recorded.fills
        call.stages = [(x.state.places, x.state.tensors) for x in first.successors()]
        call.replaced = [(State(x), x.store[x.name]) for x in recorded.replaced]
        graph = stage.piece.graph
        one = {
            leaf.output: i
            for i, leaf in enumerate(recorded.leaves)
            if leaf.requires_grad and leaf.output is not None and graph.aliases[leaf.output] is None
        }
        call.results = list(one.values())
        carried = [outputs[cast(int, recorded.leaves[i].output)] for i in call.results]
        return (*map(writable, carried), outputs)

    call.run = run
    carried = Replay.apply(call, *call.wanted())
    stage = last[0]
    recorded = cast(Recorded, stage.recorded)
    outputs = list(call.outputs[-1])
    for i, value in zip(call.results, carried, strict=True):
        outputs[cast(int, recorded.leaves[i].output)] = value
    call.outputs, call.inputs, call.run = (), [], tuple  # or results would never be freed
    realias(stage, outputs, leaves)
    return stage, tuple(outputs)


def writable(x: torch.Tensor) -> torch.Tensor:
    """A result as a tensor that the caller may write in place, as eager's. The program gives it
    memory of its own, but may have made it as a view, which torch does not let out of a function.
    """
    return x.detach() if x._is_view() and not folded(x) else x


def folded(x: torch.Tensor) -> bool:
    """Whether one place in memory may be several elements."""
    reach = 0
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += (size - 1) * stride
    return False


def differentiated(
    recorded: Recorded,
    leaves: Sequence[Any],
    build: Callable[[Graph], Program],
    first: Sequence[Pass] = (),
) -> Backward | None:
    """The backward pass of a function recorded in one piece; None where no result has gradients.
    The passes `first` come before all others.

    Raises UnsupportedError where an operation has no derivative, or memory that requires grad is
    shared or written.
    """
    piece = recorded.piece
    graph = piece.graph
    carried = [
        leaf.output
        for leaf in recorded.leaves
        if leaf.requires_grad and leaf.output is not None and graph.aliases[leaf.output] is None
    ]

    def needed(source: Source) -> bool:
        of = source.of if isinstance(source, Storage) else source
        tensor = None if isinstance(of, Live) else present(of, leaves)
        return isinstance(tensor, torch.Tensor) and tensor.requires_grad

    wrt = [i for i, source in enumerate(piece.sources) if needed(source)]
    beside = [one.source for _, one in piece.beside if one.typed is not None]
    if any(isinstance(piece.sources[i], Storage) for i in wrt) or any(map(needed, beside)):
        raise UnsupportedError("tensors that require grad share their memory")
    carried = list(dict.fromkeys(carried))
    if not carried or not wrt:
        return None
    hooks = None if recorded.recorder is None else hooked(recorded.recorder, False, outside=False)
    asked = [graph.inputs[i] for i in wrt]
    return Backward(halves(graph, carried, asked, hooks, first), wrt, build)
