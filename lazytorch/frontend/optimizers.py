"""`optimizer.step()` while it is recorded: torch's own code, one tensor at a time.

`stepping` is for a compiled function that steps optimizers, `given` for a step whose numbers are
arguments.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from lazytorch.errors import CutError, UnsupportedError
from lazytorch.frontend.recorder import Recorder
from lazytorch.frontend.unbranched import computed, unbranched


class StateMadeError(UnsupportedError):
    """An optimizer made state while its step was recorded; in eager it is there afterwards."""


@contextmanager
def stepping(
    optimizers: Sequence[tuple[str, torch.optim.Optimizer]], r: Recorder
) -> Generator[None]:
    """The steps of these optimizers are recorded until the end of the block."""
    with ExitStack() as stack:
        for _, optimizer in optimizers:
            stack.enter_context(recorded_step(optimizer, r))
        yield


@contextmanager
def recorded_step(optimizer: torch.optim.Optimizer, r: Recorder) -> Generator[None]:
    """`optimizer.step` as it is recorded, in the optimizer's own attributes."""
    own = vars(optimizer).get("step")
    theirs: Any = optimizer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        with plainly(optimizer), lazily(optimizer, r):
            return theirs(*args, **kwargs)

    vars(optimizer)["step"] = step
    try:
        yield
    finally:
        del vars(optimizer)["step"]
        if own is not None:
            vars(optimizer)["step"] = own


@contextmanager
def given(
    optimizer: torch.optim.Optimizer, r: Recorder, settings: Sequence[dict[str, Any]]
) -> Generator[None]:
    """The optimizer with these numbers by group; afterwards it is as it was.

    What it remembers in Python numbers may not change: a replay would not change it. Nor may it
    begin to remember a tensor (`StateMadeError`); one that it remembers anew is written where the
    old one is.
    """
    groups: list[dict[str, Any]] = optimizer.param_groups
    states: list[dict[str, Any]] = list(optimizer.state.values())
    kept = [(x, dict(x)) for x in (*groups, *states)]
    numbers = after = python_numbers(optimizer)
    tensors = now = remembered(optimizer)
    try:
        for group, values in zip(groups, settings, strict=True):
            group.update(values)
        with plainly(optimizer), lazily(optimizer, r):
            yield
        now = remembered(optimizer)
        after = python_numbers(optimizer)
    except (CutError, UnsupportedError) as error:
        if remembered(optimizer) != tensors:  # the numbers of new state are known to eager alone
            raise made(optimizer) from error
        raise
    finally:
        for p in [p for p in optimizer.state if not any(optimizer.state[p] is x for x in states)]:
            del optimizer.state[p]
        for known, before in kept:
            known.clear()
            known.update(before)
    if now != tensors:
        raise made(optimizer)
    if after != numbers:
        raise UnsupportedError(
            f"{type(optimizer).__name__} counts in Python numbers, which a replay would not do",
            hint="keep what changes from step to step in tensors",
        )


def made(optimizer: torch.optim.Optimizer) -> StateMadeError:
    """What says that a step made state."""
    return StateMadeError(f"{type(optimizer).__name__} makes its state in this step")


def remembered(optimizer: torch.optim.Optimizer) -> set[tuple[Any, str]]:
    """Where an optimizer's state has tensors, by parameter and name."""
    states: dict[Any, dict[str, Any]] = optimizer.state
    return {
        (p, name)
        for p, state in states.items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def python_numbers(optimizer: torch.optim.Optimizer) -> list[Any]:
    """What an optimizer's state holds besides tensors."""
    states: list[dict[str, Any]] = list(optimizer.state.values())
    return [
        (name, value)
        for state in states
        for name, value in state.items()
        if not isinstance(value, torch.Tensor)
    ]


@contextmanager
def plainly(optimizer: torch.optim.Optimizer) -> Generator[None]:
    """One tensor at a time, with numbers of Python's precision."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    kept = [{k: group[k] for k in ("foreach", "fused") if k in group} for group in groups]
    compiling = torch.compiler._is_compiling_flag
    families = [x for x in vars(torch.optim).values() if hasattr(x, "_dispatch_sqrt")]
    roots = [x._dispatch_sqrt for x in families]
    try:
        # Told that it is compiled, torch's Adam computes its corrections in float32.
        torch.compiler._is_compiling_flag = False
        for family in families:
            family._dispatch_sqrt = root
        for group, values in zip(groups, kept, strict=True):
            group.update(dict.fromkeys(values, False))
        with unbranched(optimizer):
            yield
    finally:
        torch.compiler._is_compiling_flag = compiling
        for family, before in zip(families, roots, strict=True):
            family._dispatch_sqrt = before
        for group, values in zip(groups, kept, strict=True):
            group.update(values)


@contextmanager
def lazily(optimizer: torch.optim.Optimizer, r: Recorder) -> Generator[None]:
    """What the optimizer remembers as lazy tensors: what `item()` gives of them is a number of the
    graph. A tensor that it puts in the place of one is written there: replays find no other."""
    states: list[dict[str, Any]] = list(optimizer.state.values())
    known = [
        (state, name, value, r.lazy(value))
        for state in states
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    ]
    given = [computed(optimizer, name, lazy) for _, name, _, lazy in known]
    for (state, name, _, _), x in zip(known, given, strict=True):
        state[name] = x
    try:
        yield
        for (state, name, _, lazy), x in zip(known, given, strict=True):
            new = state.get(name)
            if new is lazy:
                continue
            kind = x.shape, x.dtype
            if not isinstance(new, torch.Tensor) or (new.shape, new.dtype) != kind:
                raise UnsupportedError(
                    f"{type(optimizer).__name__} drops a tensor of its state, or changes its shape",
                    {"state": name, "before": lazy.typed},
                    hint="keep what changes from step to step in tensors of one shape",
                )
            lazy.copy_(new)
    finally:
        for state, name, value, _ in known:
            state[name] = value


def root(x: Any) -> Any:
    """The square root of a tensor or a number, one that varies included."""
    return x.sqrt() if isinstance(x, torch.Tensor) else torch.sym_sqrt(x)
