"""What there is before a training step, for one that is skipped since it is not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lazytorch.frontend import trees
from lazytorch.frontend.reach import Reach


class Gradients:
    """The gradients of an optimizer's parameters, those of frozen ones too."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        groups: list[dict[str, Any]] = optimizer.param_groups
        self.each = [(p, p.grad) for group in groups for p in group["params"]]

    def restore(self) -> None:
        """Give every parameter its own."""
        for p, grad in self.each:
            p.grad = grad


class Values:
    """Copies of everything that a forward may write: what the model and the loss hold, and the
    batch. A recorded step needs none: it knows what it writes, and is refused if it replaces any of
    them."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, loss_fn: Callable[..., Any] | None, batch: Any) -> None:
        reach = Reach(model, [] if loss_fn is None else [loss_fn])
        self.held = [(slot, slot.store.get(slot.name)) for slot in reach.state]
        held = [x for _, x in self.held]
        found = [x for x in [*held, *trees.flatten(batch)[0]] if isinstance(x, torch.Tensor)]
        # Where elements share a place, torch refuses every write.
        self.each = [
            (x, x.clone())
            for x in {id(x): x for x in found}.values()
            if torch._debug_has_internal_overlap(x) != 1  # type: ignore[attr-defined]
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Write them back, and put back what was replaced."""
        for slot, x in self.held:
            if slot.store.get(slot.name) is not x:
                slot.store[slot.name] = x
        for x, before in self.each:
            x.copy_(before)
