"""A plan: what one signature compiled to, whether it still holds, and the result of a call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import torch

from lazytorch.frontend import trees
from lazytorch.frontend.sources import Argument, Piece, Recorded, tensor_of
from lazytorch.guards import Key, flat
from lazytorch.ops.alignment import BOUNDARY
from lazytorch.passes.draws_in_kernels import dropped
from lazytorch.runtime.marks import shift
from lazytorch.runtime.stage import Stage
from lazytorch.trail import Trail
from lazytorch.varying import Assumptions

if TYPE_CHECKING:
    from lazytorch.fastpath import FastPath

Given = tuple[tuple[Any, ...], dict[str, Any]]  # a call's arguments, as the caller gave them


class Plan:
    """What one signature compiled to: the first stage, the Python values it relies on, and what it
    assumes of the floats that vary."""

    def __init__(self, stage: Stage, trail: Trail) -> None:
        self.stage = stage
        self.watch = trail.watch
        self.varying = trail.varying
        self.assumptions = Assumptions(trail.assumed)
        self.relied = trail.relied  # what there was of gradients
        self.grad = torch.is_grad_enabled()
        self.fast: FastPath | None = None  # once it has replayed
        self.objects = [
            (i, x)
            for i, x in enumerate(trail.leaves)
            if not isinstance(x, torch.Tensor) and not trees.plain(x)
        ]
        # Where an argument itself is returned, another one that says the same will not do.
        recorded = [s.recorded for s in stage.successors() if s.recorded is not None]
        returned = {id(leaf.value) for r in recorded for leaf in r.leaves if leaf.output is None}
        # Without results that carry gradients, a call needs no place in torch's own graph.
        self.carries = stage.cut is not None or any(
            leaf.requires_grad for r in recorded for leaf in r.leaves
        )
        self.exact = any(id(x) in returned for _, x in self.objects)
        # What torch would draw for an argument's elements depends on where in memory that begins.
        pieces = [s.piece if s.recorded is None else s.recorded.piece for s in stage.successors()]
        arguments = [i for piece in pieces for i in dropped_arguments(piece)]
        self.dropped = {i: shift(trail.leaves[i]) for i in arguments}

    def holds(self, leaves: list[Any]) -> bool:
        """Whether Python values, and objects among the arguments, are as when it was recorded, and
        what it assumed of numbers is true of these arguments."""
        if not self.assumptions.hold(leaves) or not self.lies(leaves):
            return False
        if not all([one.holds(leaves) for one in self.relied]):
            return False
        others = [(x, leaves[i]) for i, x in self.objects if leaves[i] is not x]
        if others and self.exact:
            return False
        return self.watch.same() and all(self.watch.equals(old, new) for old, new in others)

    def lies(self, leaves: Sequence[Any]) -> bool:
        """Whether arguments for which is drawn begin in memory as when it was recorded."""
        return all([shift(leaves[i]) == x for i, x in self.dropped.items()])

    def let_go(self) -> None:
        """Hold no weights that were replaced, nor what was computed of them."""
        self.watch.same()  # which remembers what is there now
        for stage in self.stage.successors():
            stage.let_go()


def dropped_arguments(piece: Piece) -> list[int]:
    """The arguments whose memory a dropout reads as it lies."""
    roots = {root for root, _ in dropped(piece.graph).values()}
    found = [s for x, s in zip(piece.graph.inputs, piece.sources, strict=True) if x in roots]
    return sorted({x.index for x in found if isinstance(x, Argument)})


def assemble(stage: Stage, outputs: tuple[Any, ...], given: Given, leaves: Sequence[Any]) -> Any:
    """The function's result from the program's outputs; containers that it fills are filled,
    tensors get the gradients that it leaves, and the tensors that it replaces are replaced."""
    recorded = cast(Recorded, stage.recorded)
    found = [x.value if x.output is None else outputs[x.output] for x in recorded.leaves]
    for i, leaf in enumerate(recorded.leaves):
        if leaf.ends or leaf.apart:
            found[i] = found[i].detach().requires_grad_(leaf.ends)
    result = trees.unflatten(recorded.spec, found)
    tensors: Sequence[torch.Tensor] = ()
    if recorded.replaced:
        result, tensors = result
    if recorded.grads:
        result, grads = result
        for source, grad in zip(recorded.grads, grads, strict=True):
            tensor_of(source, leaves).grad = grad
    for slot, tensor in zip(recorded.replaced, tensors, strict=True):
        slot.store[slot.name] = tensor
    if recorded.fills:
        result, after = result
        trees.graft(given, after)
    return result


def why_none(plans: OrderedDict[Key, list[Plan]], key: Key, leaves: list[Any]) -> str:
    """Why no plan fits, in words."""
    if not plans:
        return "first call"
    if plans.get(key):
        latest = plans[key][0]
        changed = [str(change) for change in islice(latest.watch.differences(), 3)]
        if changed:
            return "; ".join(changed)
        if not all([one.holds(leaves) for one in latest.relied]):
            return "a tensor has a gradient now, or has none any more, or another hook"
        if where := latest.assumptions.broken(leaves):
            return f"a number compares otherwise at {where}"
        if not latest.lies(leaves):
            return f"an argument that is dropped from begins elsewhere, modulo {BOUNDARY} bytes"
        return "an object among the arguments says something else"
    last = next(reversed(plans))
    parts = zip(flat((last[0], *last[2:])), flat((key[0], *key[2:])), strict=False)
    changed = [f"{a!r} -> {b!r}" for a, b in parts if a != b]
    return "another signature: " + "; ".join(changed[:3])
