"""What a user may choose for one compilation; frozen, and part of every cache key.

The only reader of the process environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from lazytorch.errors import LazyTorchError

Numerics = Literal["fast", "eager"]


@dataclass(frozen=True)
class Options:
    """Choices of one `lt.compile` call.

    fullgraph: raise where a recording would be cut by data-dependent Python.
    wait: compile the fused kernels before the first call returns; otherwise the first calls run
        on torch's kernels while the fused ones compile in the background.
    freeze: keep copies of weights that make calls faster (batch norm folded into convolutions,
        weights packed for oneDNN and MKL) even where memory then exceeds eager's.
    numerics: "fast" keeps 16-bit intermediates in float32 inside a kernel; "eager" rounds them
        where eager does and forbids contraction.
    max_plans: signatures kept per compiled function; the least recently used is dropped.
    check: compare checksums of the weights that were made into something else (folded, packed) at
        every call, so that writes torch does not count (`p.data`, a NumPy array on the same
        memory) are seen. It reads those weights at every call, and waits for the device.
    static_inputs: a promise that tensor arguments on a GPU stay at their addresses from call to
        call, with what is in them changed in place: CUDA graphs read them where they lie instead
        of copying them in. One that moved all the same is noticed, and leads to a new capture.
    tune: measure, at the first calls, where it is not sure what is fastest: each generated kernel
        against torch's kernels one by one and, on a GPU, against other launch shapes; attention by
        each of torch's backends; and convolutions by cuDNN's own search. What was measured is kept
        on disk for each device and read only under this option; then nothing is measured again,
        but cuDNN searches in each process. The first calls take longer and more memory.
    max_bytes: what may be alive at once, everything counted: parameters, an optimizer's state,
        arguments, a call's own values, workspaces. A training step computes values again instead of
        keeping them, as far as that is needed; what cannot be met is refused before it runs. With
        it a function is recorded whole (`fullgraph`) and its kernels are waited for (`wait`).
    offload: values that a training step's backward reads may wait in the host's memory (pinned), as
        far as the copies run beside what a GPU computes, by an estimate: before
        anything is computed again. Nothing is offloaded of a batch that goes in parts.
    """

    fullgraph: bool = False
    wait: bool = False
    freeze: bool = False
    numerics: Numerics = "fast"
    max_plans: int = 32
    check: bool = False
    static_inputs: bool = False
    tune: bool = False
    max_bytes: float | None = None
    offload: bool = False

    def __post_init__(self) -> None:
        refuse_unknown([self.numerics], get_args(Numerics), "numerics")
        if self.offload and self.max_bytes is None:
            raise LazyTorchError(
                "offload is a way to stay within max_bytes, which is not given",
                hint="lt.train_step(model, loss_fn, optimizer, max_bytes=20e9, offload=True)",
            )
        if self.max_bytes is not None:
            if self.tune:
                raise LazyTorchError(
                    "tune measures in memory beside the call's, which max_bytes bounds"
                )
            object.__setattr__(self, "fullgraph", True)
            object.__setattr__(self, "wait", True)

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Options by name, as a user gives them."""
        refuse_unknown(given, option_names(), "options")
        return cls(**given)


def option_names() -> list[str]:
    """What options are called."""
    return [field.name for field in fields(Options)]


def refuse_unknown(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """LazyTorchError for a name that is not among those that are known."""
    there = list(known)
    for name in names:
        if name not in there:
            raise LazyTorchError(f"nothing is called {name!r} there", {where: ", ".join(there)})


@dataclass(frozen=True)
class Environment:
    """What the process environment says: where kernels are kept, which compiler."""

    cache: Path
    cxx: str | None


def environment() -> Environment:
    """Read LAZYTORCH_CACHE and CXX."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Environment(
        cache=Path(os.environ.get("LAZYTORCH_CACHE") or Path(base) / "lazytorch"),
        cxx=os.environ.get("CXX") or None,
    )
