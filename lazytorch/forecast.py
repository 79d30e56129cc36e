"""`lt.plan`: the memory of a call or of a training step on a device that need not be here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from lazytorch.devices import Device, device_named
from lazytorch.errors import LazyTorchError
from lazytorch.frontend import trees
from lazytorch.frontend.guard import guarded
from lazytorch.frontend.stand_in import StandIns
from lazytorch.frontend.watch import Watch
from lazytorch.lower.memory_plan import MemoryPlan
from lazytorch.options import Options, option_names, refuse_unknown
from lazytorch.prediction import predict
from lazytorch.runtime.setting import Setting
from lazytorch.training import Loss, train_step

STEP = ("clip_norm", "accumulate", "keep_grads", "skip_nonfinite", "scaler")
"""What `lt.train_step` takes by name, without `amp`, which `plan` takes, and without options."""

PLANS = 6
"""Plans that the search for a batch makes beyond the first two."""

Optimizers = Callable[..., torch.optim.Optimizer]


def plan(
    model: nn.Module,
    example: Any,
    *,
    device: str | torch.device = "",
    kwargs: Mapping[str, Any] | None = None,
    batch: int | None = None,
    loss_fn: Loss | None = None,
    optimizer: Optimizers | torch.optim.Optimizer | None = None,
    amp: torch.dtype | None = None,
    train: Mapping[str, Any] | None = None,
    **options: Any,
) -> MemoryPlan:
    """What a call of a model takes at its highest, before anything runs, for a device by name
    (`"h200"`, `"l4"`: `lazytorch.devices`) or the one where its tensors are.

    `example` is the argument, or a tuple of arguments; only shapes and types are read, so model and
    example may lie on "meta". Dimension 0 of the example becomes `batch`, if that is given.

    With an `optimizer`, or what makes one of parameters (`torch.optim.AdamW`), it is a training
    step's plan: `example` is then (inputs, ..., target) and `loss_fn` as in `lt.train_step`, to
    which `train` (`clip_norm` and such) is passed on. `amp` is the dtype of an autocast region.
    """
    of_step = {"loss_fn": loss_fn, "train": train}
    if optimizer is None and any(x is not None for x in of_step.values()):
        given = ", ".join(name for name, x in of_step.items() if x is not None)
        raise LazyTorchError(
            "a plan of a training step needs an optimizer",
            {"given": given},
            hint="pass optimizer=torch.optim.AdamW, or whichever the step is to use",
        )
    args = example if isinstance(example, tuple) else (example,)
    where = device_named(device or present(model, args))
    inputs = args, dict(kwargs or {})
    if optimizer is None:
        return plan_call(model, inputs, where, batch, amp, Options.of(**options))
    more = {**(train or {}), **options}
    refuse_unknown(more, [*STEP, *option_names()], "a training step takes")
    return plan_step(model, inputs, where, batch, amp, loss_fn, optimizer, more)


def largest_batch(peak: Callable[[int], int], limit: int, start: int = 1) -> int:
    """The largest batch found to fit, 0 if none does; `peak` plans a batch and gives its bytes.

    Memory grows about as a line does: the batch that a line through two plans reaches is planned
    next, until the one that fits and the one that does not are close.
    """
    known = {start: peak(start), 2 * start: peak(2 * start)}
    for _ in range(PLANS):
        fits = max((b for b, n in known.items() if n <= limit), default=0)
        over = min((b for b, n in known.items() if n > limit), default=None)
        if over is not None and over - fits <= max(1, fits // 50):
            break
        near = sorted(known, key=lambda b: abs(known[b] - limit))[:2]
        a, b = sorted(near)
        slope = max((known[b] - known[a]) / (b - a), 1.0)
        guess = int(a + (limit - known[a]) / slope)
        low, high = fits + 1, guess if over is None else over - 1
        guess = min(max(guess, low), max(high, low))
        if guess in known:
            break
        known[guess] = peak(guess)
    return max((b for b, n in known.items() if n <= limit), default=0)


def plan_call(
    model: Callable[..., Any],
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    device: Device,
    batch: int | None,
    amp: torch.dtype | None,
    options: Options,
) -> MemoryPlan:
    """The plan of an inference call."""
    made = StandIns(device.torch_device)
    copy = made.module(model) if isinstance(model, nn.Module) else model
    leaves, spec = trees.flatten(made.tree(inputs, sizes(inputs, batch)))
    name, still = type(model).__name__, options.static_inputs
    setting = Setting.of(name, Watch(copy, leaves), leaves, device, still)
    return predict(copy, leaves, spec, options, setting, around=standing(made, amp))


def plan_step(
    model: nn.Module,
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    device: Device,
    batch: int | None,
    amp: torch.dtype | None,
    loss_fn: Loss | None,
    optimizer: Optimizers | torch.optim.Optimizer,
    more: Mapping[str, Any],
    measured: bool = False,
) -> MemoryPlan:
    """The plan of a training step that is not the first: the optimizer has its state."""
    made = StandIns(device.torch_device)
    copy = made.module(model)
    loss = made.module(loss_fn) if isinstance(loss_fn, nn.Module) else loss_fn
    args, named = made.tree(inputs, sizes(inputs, batch))
    scaler = deepcopy(more.get("scaler"))  # of a number: a step's scale is made anew
    if isinstance(optimizer, torch.optim.Optimizer):
        updates = made.optimizer(optimizer)
    else:
        with standing(made, None):
            updates = optimizer(copy.parameters())
    with standing(made, None):
        with_state(updates)
        given: dict[str, Any] = {**more, "scaler": scaler}
        step = train_step(copy, loss, updates, **given)
        step.region = functools.partial(autocast, made.device, amp)
        step.hold()
        leaves, spec = trees.flatten(((step.settings(), args, named), {}))
    fn, chosen = step.compiled.fn, step.compiled.options
    name = f"a training step of {type(model).__name__}"
    setting = Setting.of(name, Watch(fn, leaves), leaves, device, chosen.static_inputs)
    around = standing(made, None)
    return predict(fn, leaves, spec, chosen, setting, around=around, measured=measured)


@contextmanager
def standing(made: StandIns, amp: torch.dtype | None) -> Generator[None]:
    """Around code that meets stand-ins, in an autocast region if that is asked for."""
    with guarded(made.device), made.mode, autocast(made.device, amp):
        yield


def with_state(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer make its state, by a step on stand-ins."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    parameters = [p for group in groups for p in group["params"] if p.requires_grad]
    if all(map(optimizer.state.get, parameters)):
        return
    for p in parameters:
        p.grad = torch.zeros_like(p)
    try:
        optimizer.step()
    except DataDependentOutputException:
        for group in groups:
            for p in group["params"]:
                if p.requires_grad and not optimizer.state.get(p):
                    begin(optimizer, {**group, "params": [p]})
    for p in parameters:
        p.grad = None


def begin(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """A step of one group that looks at values, which stand-ins have not: its state is made before
    it does."""
    groups = optimizer.param_groups
    optimizer.param_groups = [group]
    try:
        optimizer.step()
    except DataDependentOutputException:
        if not all(map(optimizer.state.get, group["params"])):
            raise
    finally:
        optimizer.param_groups = groups


def sizes(inputs: Any, batch: int | None) -> tuple[int, int] | None:
    """The batch size of some arguments, which is that of the first tensor, and the one wanted."""
    if batch is None:
        return None
    for x in trees.flatten(inputs)[0]:
        if isinstance(x, torch.Tensor) and x.dim():
            return x.shape[0], batch
    raise LazyTorchError("no argument has a batch dimension", {"batch": batch})


def present(model: nn.Module, args: tuple[Any, ...]) -> torch.device:
    """Where a model's tensors are; the CPU for one that has none, or none anywhere."""
    found = [
        *model.parameters(),
        *(x for x in trees.flatten(args)[0] if isinstance(x, torch.Tensor)),
    ]
    where = found[0].device if found else torch.device("cpu")
    return torch.device("cpu") if where.type == "meta" else where


class autocast:
    """`torch.autocast`, also for a device that is not here, for which torch's does nothing."""

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self.kind = device.type
        self.dtype = dtype

    def __enter__(self) -> None:
        if self.dtype is None:
            return
        self.before = torch.is_autocast_enabled(self.kind), torch.get_autocast_dtype(self.kind)
        torch.set_autocast_enabled(self.kind, True)
        torch.set_autocast_dtype(self.kind, self.dtype)
        torch.autocast_increment_nesting()

    def __exit__(self, *_: object) -> None:
        if self.dtype is None:
            return
        if not torch.autocast_decrement_nesting():
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(self.kind, self.before[0])
        torch.set_autocast_dtype(self.kind, self.before[1])
