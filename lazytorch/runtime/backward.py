"""Gradients of a compiled call: its compiled backward, or torch's own on the saved inputs.

The second way runs the user's function again, eagerly, with the random state and the buffers of the
forward, and differentiates that: for gradients of gradients (`create_graph=True`) and for what has
no backward graph (cuts, writes to what requires grad). Right for everything that eager is right
for, and as slow.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.autograd.function import FunctionCtx

from lazytorch.errors import UnsupportedError
from lazytorch.frontend import trees
from lazytorch.frontend.sources import Argument, Held, Recorded, Source, State
from lazytorch.interpret import aliased
from lazytorch.ir import Write
from lazytorch.runtime.gradients import Backward
from lazytorch.runtime.stage import Stage
from lazytorch.runtime.state import StaleError

Found = tuple[list[tuple[int, State | Held]], list[tuple[int, torch.Tensor]]]
"""The places of a stage by number, and the tensors that it found there."""


@dataclass
class Call:
    """What it takes to run a call again: the function, its arguments, and the state before it."""

    fn: Callable[..., Any]
    leaves: list[Any]
    spec: trees.Spec
    arguments: list[list[int]]  # leaves that require grad, those that are one tensor together
    state: list[torch.Tensor]  # parameters that require grad
    read: list[torch.Tensor]  # what the function finds as it was: all but what it writes
    written: list[tuple[Source, torch.Tensor]]  # what the forward writes, with its values before
    results: list[int]  # leaves of the result that carry gradients
    random: list[torch.Tensor]
    autocast: list[tuple[str, bool, torch.dtype]]
    recalled: Callable[[], AbstractContextManager[None]]  # Python values as the forward saw them
    run: Callable[[], tuple[Any, ...]]
    outputs: tuple[Any, ...] = ()
    halves: Backward | None = None  # the compiled backward, and which tensors are its inputs
    inputs: list[Any] = field(default_factory=list[Any])
    fills: bool = False  # the arguments follow in the flattened result
    stages: list[Found] = field(default_factory=list[Any])  # what was in the places that it reads
    replaced: list[tuple[State, torch.Tensor]] = field(default_factory=list[Any])  # and replaces
    versions: list[int] = field(default_factory=list[int])  # of what is read

    def wanted(self) -> list[torch.Tensor]:
        """The tensors that gradients may be asked of."""
        return [*[self.leaves[i] for i, *_ in self.arguments], *self.state]

    def again(self) -> list[torch.Tensor]:
        """The differentiable results, computed by eager with gradients on."""
        if versions(self.read) != self.versions:
            raise UnsupportedError(
                "one of the variables needed for gradient computation has been modified by an "
                "inplace operation, after a compiled function that is computed again for its "
                "gradients",
                hint="write to a clone, or after backward()",
            )
        leaves = list(self.leaves)
        with ExitStack() as stack:
            stack.enter_context(self.recalled())
            for place, tensor in (*standing(self.stages), *self.replaced):
                stack.enter_context(replaced(place, tensor))
            for source, before in self.written:
                # The run gets copies to write to: the real buffers have moved on already.
                if isinstance(source, Argument):
                    leaves[source.index] = before.clone()
                else:
                    stack.enter_context(replaced(source, before.clone()))
            args, kwargs = trees.unflatten(self.spec, leaves)
            stack.enter_context(torch.enable_grad())
            for device, enabled, dtype in self.autocast:
                stack.enter_context(torch.autocast(device, dtype, enabled))
            if self.random:
                stack.enter_context(torch.random.fork_rng())
                set_random_state(self.random)
            returned = self.fn(*args, **kwargs)
            result, _ = trees.flatten((returned, (args, kwargs)) if self.fills else returned)
        return [result[i] for i in self.results]


class Replay(torch.autograd.Function):
    """Compiled forward, eager backward."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The compiled outputs that carry gradients."""
        ctx.call = call
        ctx.set_materialize_grads(False)
        call.outputs = call.run()
        saved = [] if call.halves is None else call.halves.saved(call.inputs, call.outputs[-1])
        ctx.numbers = [None if isinstance(x, torch.Tensor) else x for x in saved]
        call.versions = versions(call.read)
        # What the compiled backward does not read may be written until then.
        kept = tensors if call.halves is None else [x for x in saved if isinstance(x, torch.Tensor)]
        ctx.save_for_backward(*kept)
        ctx.places = None if call.halves is None else call.halves.places(call.inputs, tensors)
        return call.outputs[: len(call.results)]

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: torch.Tensor | None) -> Any:
        """Run the compiled backward, or differentiate eager's own computation."""
        known: Any = ctx  # its attributes were set in forward
        call: Call = known.call
        kept: tuple[torch.Tensor, ...] = known.saved_tensors
        if call.halves is not None and not torch.is_grad_enabled():
            rest = iter(kept)
            saved = [next(rest) if x is None else x for x in known.numbers]
            found = call.halves.run(saved, grads)
            return (None, *[None if i is None else found[i] for i in known.places])
        outputs, tensors = call.again(), call.wanted()
        wanted = [(y, g) for y, g in zip(outputs, grads, strict=True) if g is not None]
        found = torch.autograd.grad(
            [y for y, _ in wanted],
            tensors,
            [g for _, g in wanted],
            allow_unused=True,
            create_graph=torch.is_grad_enabled(),
        )
        return (None, *found)


def versions(tensors: Sequence[torch.Tensor]) -> list[int]:
    """How often the memory of tensors was written; inference tensors do not say."""
    try:
        return [x._version for x in tensors]
    except RuntimeError:
        return [-1 if x.is_inference() else x._version for x in tensors]


def standing(stages: Sequence[Found]) -> Iterator[tuple[State, torch.Tensor]]:
    """What was in places that may hold other tensors now."""
    for places, tensors in stages:
        found = dict(tensors)
        for i, source in places:
            if isinstance(source, State) and i in found:
                yield source, found[i]


@contextmanager
def replaced(source: Source, tensor: torch.Tensor) -> Generator[None]:
    """Put another tensor in the place of a parameter or buffer for a while."""
    assert isinstance(source, State)
    store, name = source.slot.store, source.slot.name
    real = store[name]
    store[name] = tensor
    try:
        yield
    finally:
        store[name] = real


def random_state(stage: Stage) -> list[torch.Tensor]:
    """State of the default generators, where the function may draw from them."""
    # What draws is an effect of the graph; what a cut calls is not looked into.
    if stage.cut is None and all(isinstance(e.op, Write) for e in stage.piece.graph.effects):
        return []
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    return states


def set_random_state(states: list[torch.Tensor]) -> None:
    """Inverse of `random_state`."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


def autocast_state() -> list[tuple[str, bool, torch.dtype]]:
    """Which autocast regions the call is in."""
    return [
        (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        for device in ("cpu", "cuda")
        if torch.is_autocast_enabled(device)
    ]


def refuse_written(written: Sequence[tuple[Source, torch.Tensor]]) -> None:
    """Refuse writes that the second, eager run could not do on a copy."""
    for source, tensor in written:
        if tensor.requires_grad or not isinstance(source, Argument | State):
            raise UnsupportedError(
                "the function writes in place to a tensor that requires grad, or that shares "
                "its memory with others, while gradients are on",
                {"shape": tuple(tensor.shape)},
                hint="write to a clone, or call it under torch.no_grad()",
            )


def plan_tensors(stage: Stage, leaves: list[Any]) -> list[torch.Tensor]:
    """The tensors that a stage and its successors read: arguments and state."""
    found = [x for x in leaves if isinstance(x, torch.Tensor)]
    stack = [stage]
    while stack:
        s = stack.pop()
        state = s.state
        if state.moved():
            state.look()
        tensors = [x for _, x in state.tensors]
        if [x.requires_grad for x in tensors] != state.flags:
            raise StaleError("a parameter requires grad now, or does no more")
        found += tensors
        stack.extend(s.branches.values())
    return list({id(x): x for x in found}.values())


def written_inputs(stage: Stage, leaves: list[Any]) -> list[tuple[Source, torch.Tensor]]:
    """What a stage and its successors write to."""
    found: dict[int, tuple[Source, torch.Tensor]] = {}
    stack = [stage]
    while stack:
        s = stack.pop()
        targets = {e.inputs[0] for e in s.piece.graph.effects if isinstance(e.op, Write)}
        if targets:
            tensors = s.state.inputs(leaves, None)
            inputs = s.piece.graph.inputs
            for x, tensor, source in zip(inputs, tensors, s.piece.sources, strict=True):
                if x in targets:
                    found[id(tensor)] = (source, tensor)
        stack.extend(s.branches.values())
    return list(found.values())


def realias(stage: Stage, outputs: list[Any], leaves: list[Any]) -> None:
    """Views of differentiable outputs and inputs again, now where autograd sees them."""
    graph = stage.piece.graph
    for k, alias in enumerate(graph.aliases):
        if alias is None:
            continue
        if alias.source == "output":
            outputs[k] = aliased(alias, outputs)
        elif alias.strides is not None:
            inputs = [None] * len(graph.inputs)
            inputs[alias.index] = stage.state.inputs(leaves, None)[alias.index]
            outputs[k] = aliased(alias, inputs)
    for leaf in cast(Recorded, stage.recorded).leaves:
        if leaf.output is None or leaf.requires_grad:
            continue
        alias = graph.aliases[leaf.output]
        if alias is not None and alias.strides is not None:
            outputs[leaf.output] = outputs[leaf.output].detach()
