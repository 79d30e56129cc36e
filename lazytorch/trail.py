"""Compiles the pieces of a function along one way through its data-dependent Python."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.frontend import trees
from lazytorch.frontend.record import record
from lazytorch.frontend.sources import Assumed, Cut, Leaf, Piece, Recorded, Relied
from lazytorch.frontend.watch import Watch
from lazytorch.runtime.backward import random_state, written_inputs
from lazytorch.runtime.setting import Setting
from lazytorch.runtime.stage import Stage
from lazytorch.staging import staged

if TYPE_CHECKING:
    from lazytorch.compiled import Compiled


Before = dict[int, torch.Tensor]
"""Copies of tensors that a call writes to, as they were before it, by the tensors' ids."""


class Trail:
    """Records from the start along answered cuts, compiles the pieces that are new and runs those
    that end in a cut."""

    def __init__(
        self,
        owner: Compiled,
        leaves: list[Any],
        watch: Watch,
        varying: frozenset[int] | None,
        done: Sequence[tuple[Any, ...]] = (),
    ) -> None:
        self.owner = owner
        self.leaves = leaves
        self.watch = watch
        self.varying = varying
        self.setting = Setting.of(owner.name, watch, leaves, still=owner.options.static_inputs)
        self.assumed: list[Assumed] = []
        self.relied: tuple[Relied, ...] = ()
        self.failure = ""
        self.done = list(done)
        self.new: list[Stage] = []
        self.ran: list[tuple[Any, tuple[Any, ...]]] = []
        self.random: list[torch.Tensor] = []
        """State of the generators before anything ran."""
        self.before: Before = {}
        """What was written, by the tensor's id, with its values before."""

    def extend(self, spec: trees.Spec, known: tuple[Cut, ...]) -> Stage:
        """The first new stage; those after it hang on it as branches."""
        owner = self.owner
        started = time.perf_counter()
        recorded = record(
            owner.fn,
            self.leaves,
            spec,
            known,
            self.on_cut,
            owner.options.fullgraph,
            self.watch,
            self.varying,
        )
        self.assumed = recorded.assumed
        self.relied = recorded.relied
        if recorded.failure:
            self.failure = f"recording it as an input failed ({recorded.failure})"
            self.varying = None
        seconds = time.perf_counter() - started
        owner.stages.append(("record", seconds, 0, len(recorded.piece.graph)))
        self.check_constants(recorded, spec, known)
        self.setting = self.setting.replacing(recorded)
        backward = planned = None
        if owner.options.max_bytes is not None:
            if torch.is_grad_enabled() and any(x.requires_grad for x in recorded.leaves):
                raise UnsupportedError(
                    "max_bytes bounds a training step, or a call without gradients: this call "
                    "would leave values for a backward pass",
                    hint="use lt.train_step(model, loss_fn, optimizer, max_bytes=...), or no_grad",
                )
            planned = partial(self.setting.plan, measured=True)
        elif torch.is_grad_enabled() and recorded.cuts == 0:
            backward = owner.backward_of(recorded, self)
        self.new.append(staged(owner, recorded.piece, self.setting, recorded, backward, planned))
        self.new[-1].state.meet(self.leaves)
        for stage, (value, _), following in zip(self.new, self.ran, self.new[1:], strict=False):
            stage.add(value, following)
        return self.new[0]

    def on_cut(self, piece: Piece) -> Any:
        """Compile and run a new piece up to its cut; the value that decides."""
        with self.watch.undone():  # it reads what there was before the call
            stage = staged(self.owner, piece, self.setting, None)
            if torch.is_grad_enabled():
                self.remember(stage)
            with torch.no_grad():
                outputs = stage.run(self.leaves, self.done)
        with torch.no_grad():
            cut = cast(Cut, piece.cut)
            if cut.call is not None and (replaced := self.watch.replaced()):
                raise UnsupportedError(
                    f"a function kept eager runs after the forward replaced {replaced[0].label}, "
                    "which it would not see",
                    {"at": cut.where},
                    hint="write into the tensor (copy_), or replace it afterwards",
                )
            with self.watch.kept():
                value, outputs = cut.resolve(outputs)
        self.new.append(stage)
        self.done.append(outputs)
        self.ran.append((value, outputs))
        return value

    def remembered(self) -> Before:
        """What is kept for gradients, with what the last new stage will write."""
        if torch.is_grad_enabled():
            self.remember(self.new[-1])
        return self.before

    def remember(self, stage: Stage) -> None:
        """Keep what eager finds when it computes the function again for its gradients."""
        if not self.ran:
            self.random = random_state(stage)
        for _, tensor in written_inputs(stage, self.leaves):
            if id(tensor) not in self.before:
                self.before[id(tensor)] = tensor.detach().clone()

    def check_constants(self, recorded: Recorded, spec: trees.Spec, known: tuple[Cut, ...]) -> None:
        """What the function returns besides tensors must come out of a second recording equal."""
        odd = [leaf.value for leaf in recorded.leaves if leaf.output is None]
        if all(value is None or isinstance(value, bool) for value in odd):
            return
        if self.new:
            return
        again = record(
            self.owner.fn, self.leaves, spec, known, None, False, self.watch, self.varying
        )
        for i, (a, b) in enumerate(zip(recorded.leaves, again.leaves, strict=True)):
            if a.output is None and not same_value(a, b):
                raise LazyTorchError(
                    f"the function returns {type(a.value).__name__} objects that differ from call "
                    "to call, which a replay cannot do",
                    {"leaf": i, "first": a.value, "second": b.value},
                    hint="return tensors, or numbers that depend on the arguments alone",
                )


def same_value(a: Leaf, b: Leaf) -> bool:
    """Whether two recordings returned the same constant."""
    return type(a.value) is type(b.value) and bool(a.value == b.value)
