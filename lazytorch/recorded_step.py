"""What `lt.train_step` records: the loss, its gradients, and what an optimizer makes of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lazytorch.autodiff.joint import laid_out_as
from lazytorch.autodiff.transforms import current
from lazytorch.errors import UnsupportedError
from lazytorch.frontend import scaler as scaling
from lazytorch.frontend import trees
from lazytorch.frontend.optimizers import given
from lazytorch.frontend.recorder import Recorder
from lazytorch.frontend.tensor import LazyTensor
from lazytorch.ir import Node
from lazytorch.ops.after import After
from lazytorch.ops.calculus import Calculus
from lazytorch.ops.compare import Where

if TYPE_CHECKING:
    from lazytorch.training import TrainStep

Loss = Callable[..., torch.Tensor]


def recorded_step(
    model: nn.Module,
    loss_fn: Loss | None,
    state: nn.Module,
    step: TrainStep,
    settings: list[dict[str, Any]],
    batch: tuple[Any, ...],
    named: dict[str, Any],
) -> tuple[torch.Tensor, list[torch.Tensor | None], torch.Tensor | None]:
    """What is recorded: the loss, the gradients that are kept and, where they are only if all is
    finite, whether it is. Model, loss and state are arguments so that their tensors are found."""
    r = current()
    assert r is not None
    r.undoes = step.skip_nonfinite
    parameters = step.parameters()
    scales = {name: r.lazy(x) for name, x in step.scales().items()}
    total, grads = gradients_of(r, step, batch, named, scales.get("scale"))
    groups = settings[: len(step.optimizer.param_groups)]
    with torch.no_grad():
        fine = overflow = None
        before: dict[int, Node] = {}
        if scales:  # what the forward wrote stays
            grads, overflow = scaling.unscaled(grads, scales["scale"])
            fine = overflow.logical_not()
            before = {id(cell): cell.value for cell in r.outer_cells()}
        elif step.skip_nonfinite:
            fine = finite(total, [g for g in grads if g is not None])
        with given(step.optimizer, r, groups), gradients(parameters, grads):
            step.clip()
            step.optimizer.step()
            kept = [p.grad for p in parameters] if step.keep_grads else []
        if fine is not None:
            undone(r, fine, before)
        if overflow is not None:
            scaling.rescale(scales["scale"], scales["growth_tracker"], overflow, settings[-1])
    return total, kept, fine if step.keep_grads and step.skip_nonfinite else None


def recorded_gradients(
    model: nn.Module,
    loss_fn: Loss | None,
    state: nn.Module,
    step: TrainStep,
    batch: tuple[Any, ...],
    named: dict[str, Any],
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The loss and the gradients alone, scaled where there is a scaler. What the forward wrote is
    undone already where a step is skipped."""
    r = current()
    assert r is not None
    r.undoes = step.skip_nonfinite
    scale = step.scales().get("scale")
    total, grads = gradients_of(r, step, batch, named, None if scale is None else r.lazy(scale))
    if step.skip_nonfinite:
        with torch.no_grad():
            undone(r, finite(total, [g for g in grads if g is not None]), {})
    return total, grads


def gradients_of(
    r: Recorder,
    step: TrainStep,
    batch: tuple[Any, ...],
    named: dict[str, Any],
    scale: torch.Tensor | None,
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The loss and the gradients of a batch, part after part: none begins before the gradients of
    those before it are there, so that one part's values are alive at a time."""
    parameters = step.parameters()
    total: torch.Tensor | None = None
    grads: list[torch.Tensor | None] = [None] * len(parameters)
    with torch.enable_grad():
        for part, more in step.parts(batch, named):
            waiting = Waiting(r, [g for g in grads if g is not None])
            loss = step.loss(*waiting.tree((part, more)))
            scaled = loss if scale is None else loss * scale
            found = torch.autograd.grad(scaled, parameters, allow_unused=True)
            found = [laid_out(r, g, p) for g, p in zip(found, parameters, strict=True)]
            grads = [added(g, new) for g, new in zip(grads, found, strict=True)]
            total = loss.detach() if total is None else total + loss.detach()
            waiting.check()
    assert total is not None
    return total, grads


class Waiting:
    """Tensors of a part of a batch that are there only after some gradients."""

    def __init__(self, r: Recorder, grads: Sequence[torch.Tensor]) -> None:
        self.r = r
        self.others = [r.read(r.lazy(g)) for g in grads]
        self.made: list[tuple[LazyTensor, Node]] = []

    def tree(self, part: Any) -> Any:
        """The part with such tensors in the place of its own."""
        leaves, spec = trees.flatten(part)
        return trees.unflatten(spec, [self.later(x) for x in leaves])

    def later(self, x: Any) -> Any:
        """A leaf, told to wait if it is a tensor."""
        if not self.others or not isinstance(x, torch.Tensor):
            return x
        node = self.r.b(After(), self.r.read(self.r.lazy(x)), *self.others)
        made = self.r.fresh(node, x.requires_grad)
        self.made.append((made, node))
        return made

    def check(self) -> None:
        """A write to such a tensor would not reach the batch."""
        if any(x.cell.value is not node for x, node in self.made):
            raise UnsupportedError("a forward writes into a batch that is split by accumulate")


def laid_out(r: Recorder, g: torch.Tensor | None, p: torch.Tensor) -> torch.Tensor | None:
    """A gradient as it is accumulated: code that looks for it may write it in place."""
    if g is None:
        return None
    have, node = r.read(r.lazy(g)), r.read(r.lazy(p))
    made = laid_out_as(have, node)
    return g if made is have else r.fresh(made, False)


def added(g: torch.Tensor | None, new: torch.Tensor | None) -> torch.Tensor | None:
    """A gradient and one more part of it."""
    if g is None or new is None:
        return g if new is None else new
    return g + new


def finite(loss: torch.Tensor, grads: Sequence[torch.Tensor]) -> torch.Tensor:
    """Whether the loss and every gradient are finite, as a tensor."""
    every = [loss.isfinite().all(), *[g.isfinite().all() for g in grads]]
    return torch.stack(every).all()


def undone(r: Recorder, fine: torch.Tensor, before: Mapping[int, Node]) -> None:
    """Let every write of the recording since `before` keep what was there, unless `fine`."""
    condition = r.read(r.lazy(fine))
    b = Calculus(r.here())
    for cell in r.outer_cells():
        old = before.get(id(cell), cell.initial)
        if cell.value is not old:
            cell.value = b(Where(), condition, cell.value, old)
            cell.version += 1


@contextmanager
def gradients(
    parameters: Sequence[nn.Parameter], grads: Sequence[torch.Tensor | None]
) -> Generator[None]:
    """Parameters with these gradients, for code that looks for them there."""
    before = [p.grad for p in parameters]
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g
    try:
        yield
    finally:
        for p, g in zip(parameters, before, strict=True):
            p.grad = g
