"""`lt.train_step`: forward, loss, backward, clipping and the optimizer's update as one graph."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from operator import is_
from typing import Any

import torch
from torch import nn

from lazytorch.compiled import Compiled
from lazytorch.errors import CutError, LazyTorchError, ShapeError, UnsupportedError
from lazytorch.first_step import first_step
from lazytorch.frontend import scaler as scaling
from lazytorch.frontend import trees
from lazytorch.frontend.optimizers import StateMadeError
from lazytorch.frontend.record import UnsettledError
from lazytorch.options import Options
from lazytorch.recorded_step import Loss, finite, recorded_step
from lazytorch.report import Event, Report
from lazytorch.skipped_step import Gradients, Values


def train_step(
    model: nn.Module,
    loss_fn: Loss | None,
    optimizer: torch.optim.Optimizer,
    *,
    clip_norm: float | None = None,
    accumulate: int = 1,
    amp: torch.dtype | None = None,
    keep_grads: bool = False,
    skip_nonfinite: bool = False,
    scaler: torch.amp.GradScaler | None = None,
    **options: Any,
) -> TrainStep:
    """A whole training step as one function of a batch, which returns the loss.

    `step(*inputs, target)` computes `loss_fn(model(*inputs), target)`; without a `loss_fn` the
    model is called with everything and returns the loss, or an output whose `loss` it is. The batch
    is split into `accumulate` parts along dimension 0, whose losses are averaged. Parameters,
    buffers and the optimizer's state are then what the same eager step leaves; `p.grad` is None,
    unless `keep_grads`.

    `clip_norm` bounds the norm of all gradients together (`torch.nn.utils.clip_grad_norm_`), `amp`
    is the dtype of an autocast region around model and loss. With `skip_nonfinite`, a loss or a
    gradient that is not finite leaves everything as it was. A `scaler` scales the loss, unscales
    gradients before they are clipped, and is updated: where a scaled gradient is not finite,
    parameters and the optimizer's state stay as they were. `options` are those of `lt.compile`.

    With `max_bytes` among them the step takes no more, everything counted, the first step too:
    where it must, it computes parts of the forward again. A `BudgetError`, raised before anything
    ran, names the smallest number of bytes that can be met.

    Numbers (a learning rate, the corrections of Adam and its kin) are computed in double precision,
    as Python does, on a GPU by the GPU; SGD's updates by the same gradients are eager's bit by bit.
    A step in which the optimizer makes state (the first, mostly) is eager's own.
    """
    if accumulate < 1:
        raise LazyTorchError("accumulate counts the parts of a batch", {"accumulate": accumulate})
    if skip_nonfinite and scaler is not None:
        raise LazyTorchError("a scaler skips updates itself, without skip_nonfinite")
    if needs_closure(optimizer):
        raise LazyTorchError(
            f"{type(optimizer).__name__} takes the loss several times a step, by a closure",
            hint="lt.compile the loss and its backward, and call them in the closure",
        )
    return TrainStep(
        model, loss_fn, optimizer, clip_norm, accumulate, amp, keep_grads, skip_nonfinite, options,
        scaler,
    )  # fmt: skip


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step cannot be done by gradients alone."""
    kinds = inspect.signature(type(optimizer).step).parameters.values()
    return any(x.name == "closure" and x.default is x.empty for x in kinds)


class TrainStep:
    """A model, a loss and an optimizer, stepped together. `compiled` is what runs."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss | None,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        accumulate: int,
        amp: torch.dtype | None,
        keep_grads: bool,
        skip_nonfinite: bool,
        options: Mapping[str, Any],
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.model = model
        self.loss_fn = loss_fn
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.amp = amp
        self.keep_grads = keep_grads
        self.skip_nonfinite = skip_nonfinite
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self.state = nn.Module()  # the optimizer's tensors, where a recording looks for tensors
        self.held: list[Any] = []  # what the optimizer's state was when it was put there
        self.moved: list[dict[str, Any]] = []  # the states whose count of steps is on the GPU now
        # Parameters by group that were trained so far, by identity, with a number for each choice.
        self.trained: dict[tuple[tuple[int, ...], ...], tuple[int, list[Any]]] = {}
        self.started = False
        self.refused = ""  # why steps are eager's own, once a recording was refused
        self.why = ""  # the same, with the optimizer's name and the line
        # A gradient cannot go through a cut.
        self.options = replace(Options.of(**options), fullgraph=True)
        recorded = functools.partial(recorded_step, model, loss_fn, self.state, self)
        recorded.__qualname__ = f"a training step of {type(model).__name__}"  # type: ignore[attr-defined]
        self.compiled = Compiled(recorded, self.options, has_eager=False)
        self.unsettled = 0  # steps in a row that were eager since the model filled a cache

    def __call__(self, *batch: Any, **named: Any) -> torch.Tensor:
        """Do one step; the loss before it."""
        self.check()
        before = Gradients(self.optimizer) if self.skip_nonfinite else None
        if self.keep_grads:
            self.forget()
        first = not self.started and not all(map(self.optimizer.state.get, self.parameters()))
        if first and self.options.max_bytes is not None:
            loss = first_step(self, self.options, (batch, named), before)
            self.started = True
            return loss
        self.started = True
        if first:
            with unsearched():
                return self.eager(batch, named, before)
        if self.refused:
            return self.eager(batch, named, before)
        self.hold()
        try:
            with torch.no_grad():
                loss, grads, fine = self.compiled(self.settings(), batch, named)
        except StateMadeError:  # the first step was skipped, a group is new, momentum was 0
            return self.eager(batch, named, before)
        except (UnsupportedError, CutError) as error:
            self.unsettled += 1
            few = self.unsettled <= self.options.max_plans and self.options.max_bytes is None
            if few and isinstance(error, UnsettledError):
                return self.eager(batch, named, before)
            for state in self.moved:  # eager asks for each of them at every step
                state["step"] = state["step"].cpu()
            self.moved.clear()
            if self.options.max_bytes is not None:
                raise
            self.refused = error.message
            said = f"eager's own from now on: {error.message}"
            said = said if error.where is None else f"{said}, at {error.where}"
            self.why = f"steps with {type(self.optimizer).__name__} are {said}"
            Report.add(Event("backward", "train_step", said, 0.0))
            return self.eager(batch, named, before)
        self.unsettled = 0
        if before is not None and fine is not None and not bool(fine):
            before.restore()
        elif self.keep_grads:
            for p, g in zip(self.parameters(), grads, strict=True):
                p.grad = g
        return loss

    def explain(self) -> str:
        """Stages, kernels and times of the compiled step; why there is none, where there is not."""
        said = self.compiled.explain()
        return f"{self.why}\n{said}" if self.refused else said

    def wait(self) -> None:
        """Return when every kernel is compiled and in use."""
        self.compiled.wait()

    def release(self) -> None:
        """Drop every plan and what it holds; the next step is recorded anew."""
        self.compiled.release()
        self.refused = self.why = ""

    # What a step reads besides its batch.

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer updates."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        return [p for group in groups for p in group["params"] if p.requires_grad]

    def check(self) -> None:
        """Gradients left from elsewhere would be added to in eager and be lost here."""
        if not self.keep_grads and any(p.grad is not None for p in self.parameters()):
            raise LazyTorchError(
                "a parameter has a gradient before the step",
                hint="call optimizer.zero_grad() first: train_step computes its own",
            )

    def forget(self) -> None:
        """Drop what a step left of a parameter that is frozen since: the optimizer would use it."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        for p in [p for group in groups for p in group["params"] if not p.requires_grad]:
            p.grad = None

    def settings(self) -> list[dict[str, Any]]:
        """The optimizer's numbers by group: arguments, so that schedulers may change them; then
        which parameters are trained, and the numbers of the scaler, if there is one."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        made = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        trained = [[p for p in group["params"] if p.requires_grad] for group in groups]
        which = tuple([tuple(map(id, group)) for group in trained])
        made.append({"trained": self.trained.setdefault(which, (len(self.trained), trained))[0]})
        return made if self.scaler is None else [*made, scaling.factors(self.scaler)]

    def choices(self) -> dict[str, Any]:
        """What a step is besides model, loss and optimizer."""
        return {
            "clip_norm": self.clip_norm, "accumulate": self.accumulate, "scaler": self.scaler,
            "keep_grads": self.keep_grads, "skip_nonfinite": self.skip_nonfinite,
        }  # fmt: skip

    def on_gpu(self) -> bool:
        """Whether the parameters are on a CUDA device, where a step becomes a CUDA graph."""
        return all(p.device.type == "cuda" for p in self.parameters())

    def hold(self) -> None:
        """Put the optimizer's tensors, and the scaler's, where a recording finds them again, if
        they are others."""
        buffers = self.state._buffers
        for place, value in self.scales().items():
            if buffers.get(place) is not value:
                buffers[place] = value
        states: list[dict[str, Any]] = list(self.optimizer.state.values())
        found = [value for state in states for value in state.values()]
        if len(found) == len(self.held) and all(map(is_, found, self.held)):
            return
        position = 0
        on_gpu = self.on_gpu()
        places = {*self.scales()}
        for p in self.parameters():
            state: dict[str, Any] = self.optimizer.state.get(p, {})
            count = state.get("step")
            if on_gpu and isinstance(count, torch.Tensor) and count.is_cpu:
                state["step"] = count.to(p.device)  # a CUDA graph reads no number of the host's
                self.moved.append(state)
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    place = f"{name}_{position}"
                    places.add(place)
                    if buffers.get(place) is not value:
                        buffers[place] = value
                    position += 1
        for place in [x for x in buffers if x not in places]:
            del buffers[place]
        self.held = [value for state in states for value in state.values()]

    def scales(self) -> dict[str, torch.Tensor]:
        """The scaler's tensors, if there is one."""
        if self.scaler is None:
            return {}
        return scaling.tensors(self.scaler, self.parameters()[0].device)

    def parts(
        self, batch: tuple[Any, ...], named: dict[str, Any]
    ) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The batch in as many parts as gradients are accumulated over."""
        if self.accumulate == 1:
            return [(batch, named)]
        leaves, spec = trees.flatten((batch, named))
        count = self.accumulate
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor) and (not leaf.dim() or leaf.shape[0] % count):
                raise ShapeError(
                    f"a batch cannot be split into {count} equal parts along dimension 0",
                    {"tensor": tuple(leaf.shape)},
                    hint="choose a batch size that accumulate divides",
                )
        made: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        for i in range(count):
            chosen = [x.chunk(count)[i] if isinstance(x, torch.Tensor) else x for x in leaves]
            made.append(trees.unflatten(spec, chosen))
        return made

    # A step, by eager or by what records it.

    def loss(self, batch: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
        """The loss of one part, of which the gradients are taken."""
        with self.region():
            if self.loss_fn is None:
                result = self.model(*batch, **named)
                found = result if isinstance(result, torch.Tensor) else result.loss
            else:
                found = self.loss_fn(self.model(*batch[:-1], **named), batch[-1])
        return found / self.accumulate if self.accumulate > 1 else found

    def region(self) -> AbstractContextManager[Any]:
        """The autocast region, if there is one."""
        if self.amp is None:
            return nullcontext()
        device = next((p.device.type for p in self.parameters()), "cpu")
        return torch.autocast(device, self.amp)

    def eager(
        self, batch: tuple[Any, ...], named: dict[str, Any], before: Gradients | None = None
    ) -> torch.Tensor:
        """The step as eager does it; the gradients `before` are there again if it is skipped."""
        parts = self.parts(batch, named)
        values = Values(self.model, self.loss_fn, (batch, named)) if self.skip_nonfinite else None
        total: torch.Tensor | None = None
        for p in self.parameters():
            p.grad = None
        # On this thread: libraries keep a workspace for each thread that calls them.
        with torch.enable_grad(), torch.autograd.set_multithreading_enabled(False):
            for part, more in parts:
                loss = self.loss(part, more)
                scaled = loss if self.scaler is None else self.scaler.scale(loss)
                assert isinstance(scaled, torch.Tensor)
                scaled.backward(inputs=self.parameters())  # others keep theirs, as recorded
                total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return self.update(total, before, values)

    def update(
        self, total: torch.Tensor, before: Gradients | None, values: Values | None
    ) -> torch.Tensor:
        """Torch's own update by the gradients that the parameters have; the loss. Where that or
        they are not finite, what was before is restored."""
        found = [p.grad for p in self.parameters() if p.grad is not None]
        if self.skip_nonfinite and not bool(finite(total, found)):
            for kept in (before, values):
                if kept is not None:
                    kept.restore()
            return total
        if self.scaler is None:
            self.clip()
            self.optimizer.step()
        else:
            self.scaler.unscale_(self.optimizer)
            self.clip()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if not self.keep_grads:
            for p in self.parameters():
                p.grad = None
        return total

    def clip(self) -> None:
        """Bound the norm of the gradients that the parameters have."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm, foreach=False)


@contextmanager
def unsearched() -> Generator[None]:
    """Convolutions without cuDNN's search, seconds long, for a step that is done once."""
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, False
    try:
        yield
    finally:
        cudnn.benchmark = before
