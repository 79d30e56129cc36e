"""An optimizer's first step within a budget: its gradients come from a planned program, and torch's
own update makes the state that later steps are recorded with.

Everything is planned before anything runs: that program, the update (tried on tensors without
memory), and the steps that follow.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from lazytorch.compiled import Compiled
from lazytorch.devices import device_named
from lazytorch.errors import BudgetError
from lazytorch.frontend import trees
from lazytorch.frontend.guard import guarded
from lazytorch.frontend.stand_in import StandIns
from lazytorch.frontend.watch import Watch
from lazytorch.lower.allocation import Watched
from lazytorch.lower.memory_plan import size
from lazytorch.options import Options
from lazytorch.prediction import predict
from lazytorch.recorded_step import finite, recorded_gradients
from lazytorch.runtime.setting import Setting, pieces_here, storages
from lazytorch.skipped_step import Gradients

if TYPE_CHECKING:
    from lazytorch.training import TrainStep

Batch = tuple[tuple[Any, ...], dict[str, Any]]


def first_step(
    step: TrainStep, options: Options, batch: Batch, before: Gradients | None
) -> torch.Tensor:
    """Do the first step; BudgetError before anything has run where it, or those that follow, cannot
    be done in so many bytes."""
    assert options.max_bytes is not None
    fail_early(step, options, batch)
    gc.collect()  # plans hold the constants that they recorded
    parameters = step.parameters()
    gradients = Compiled(gradients_only(step), options)
    with torch.no_grad():
        total, grads = gradients(*batch)
    gradients.release()
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g
    with singly(step.optimizer):
        return step.update(total, before, None)


def fail_early(step: TrainStep, options: Options, batch: Batch) -> None:
    """BudgetError where the steps that follow, or the first one's update, take too much."""
    from lazytorch.forecast import plan_step  # which makes training steps itself

    assert options.max_bytes is not None
    limit = options.max_bytes
    device = device_named(next((p.device for p in step.parameters()), "cpu"))
    failed: BudgetError | None = None
    try:
        plan_step(
            step.model, batch, device, None, step.amp, step.loss_fn, step.optimizer,
            {**vars(options), **step.choices()}, measured=True,
        )  # fmt: skip
    except BudgetError as error:
        failed = error
    needs = update_bytes(step, batch)
    if needs > limit and (failed is None or needs > failed.smallest):
        failed = BudgetError(
            f"the first step's update does not fit in {size(int(limit))}: with all gradients, and "
            f"with the state that the optimizer makes, it takes {size(needs)}",
            needs,
            {"without computing anything again": size(needs)},
        )
    if failed is None:
        return
    try:  # what is named as enough must be enough for the first step's gradients, too
        leaves, spec = trees.flatten((batch, {}))
        fn, name = gradients_only(step), "the first step's gradients"
        setting = Setting.of(name, Watch(fn, leaves), leaves, device, options.static_inputs)
        predict(fn, leaves, spec, options, setting, measured=True)
    except BudgetError as error:
        failed = max(failed, error, key=lambda e: e.smallest)
    raise failed


def gradients_only(step: TrainStep) -> functools.partial[Any]:
    """What is recorded for the gradients of a first step."""
    step.hold()
    recorded = functools.partial(recorded_gradients, step.model, step.loss_fn, step.state, step)
    recorded.__qualname__ = f"the first training step of {type(step.model).__name__}"  # type: ignore[attr-defined]
    return recorded


def update_bytes(step: TrainStep, batch: Batch) -> int:
    """What is alive at most while torch's own update runs for the first time."""
    parameters = step.parameters()
    leaves = trees.flatten(batch)[0]
    tensors = [*step.model.parameters(), *step.model.buffers(), *leaves]
    pieces = pieces_here(device_named(parameters[0].device))
    held = storages((x for x in tensors if isinstance(x, torch.Tensor)), pieces)
    grads = sum(p.nbytes for p in parameters)
    made = StandIns(parameters[0].device)
    copies = [made.of(p) for p in parameters]
    states: list[dict[str, Any]] = list(step.optimizer.state.values())
    groups: list[dict[str, Any]] = step.optimizer.param_groups
    there = [made.of(x) for some in (*states, *groups) for x in some.values() if is_tensor(x)]
    optimizer: torch.optim.Optimizer = made.copied(step.optimizer, [])
    with guarded(made.device), made.mode, torch.no_grad():
        found = [torch.zeros_like(p) for p in copies]
        for p, g in zip(copies, found, strict=True):
            p.grad = g
        with singly(optimizer), Watched([*copies, *found, *there]) as watched:
            if step.skip_nonfinite:
                finite(found[0].sum(), found)
            if step.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(copies, step.clip_norm, foreach=False)
            optimizer.step()
    return sum(held.values()) + grads + watched.most


def is_tensor(x: Any) -> bool:
    """Whether an entry of an optimizer's state is a tensor."""
    return isinstance(x, torch.Tensor)


@contextmanager
def singly(optimizer: torch.optim.Optimizer) -> Generator[None]:
    """One parameter after the other, where torch would choose to make temporaries of all."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    before = [group.get("foreach") for group in groups]
    for group in groups:
        if "foreach" in group and not group.get("fused"):
            group["foreach"] = False
    try:
        yield
    finally:
        for group, chosen in zip(groups, before, strict=True):
            if "foreach" in group:
                group["foreach"] = chosen
