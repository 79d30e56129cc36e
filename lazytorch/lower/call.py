"""Call sites of a program that can run in several ways: generated kernels, or the library's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from lazytorch.interpret import laid_out, storage
from lazytorch.ir import Op
from lazytorch.lower.kernel import Generated, Kernel, Launch, Target
from lazytorch.lower.steps import Operand
from lazytorch.types import TensorType, dtype_name

Way = Callable[..., Any]
"""Computes a call site's result from its operands."""

TORCH = "torch"
"""The way of torch's own kernels, as torch chooses them."""


@dataclass(frozen=True)
class Measured:
    """Seconds that each way of a call site took, and the one that stays."""

    seconds: Mapping[str, float]
    chosen: str
    remembered: bool = False
    """Whether another process, or an earlier one, measured it."""


class Site(Protocol):
    """A call site whose ways can be measured against each other."""

    call: Way
    settled: bool
    measured: Measured | None

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    def key(self, xs: Sequence[Any]) -> str:
        """Operation and operands as text; equal ones are measured once."""
        ...

    def spare(self, xs: Sequence[Any]) -> Sequence[Any]:
        """Operands like these on which it may be tried: nothing that is kept is written."""
        ...

    def ways(self, xs: Sequence[Any]) -> dict[str, Way]:
        """Its ways by name for operands that lie as these do, what runs unmeasured first."""
        ...

    def take(self, measured: Measured, way: Way) -> None:
        """Run like that from now on."""
        ...


class KernelCall:
    """One call site of a group, or of an attention: torch's kernels at first, the generated one
    once built.

    The results numbered `into` are written into tensors that follow the operands. `others` are
    built kernels in other launch shapes, to be measured beside `kernel`.
    """

    __slots__ = (
        "by_torch", "call", "into", "kernel", "measured", "op", "operands", "others", "settled",
        "target",
    )  # fmt: skip

    def __init__(
        self,
        op: Generated,
        operands: tuple[Operand, ...],
        kernel: Kernel,
        target: Target,
        into: tuple[int, ...] = (),
    ) -> None:
        self.op = op
        self.operands = operands
        self.kernel = kernel
        self.target = target
        self.into = into
        self.by_torch: Way = partial(copied_into, op, into) if into else op.run
        self.call = self.by_torch
        self.settled = False  # whether it stays as it is: built and chosen, or without a compiler
        self.others: Sequence[Kernel] = ()
        self.measured: Measured | None = None

    @property
    def device(self) -> torch.device:
        """Where the kernel runs."""
        return next(x.device for x in self.operands if isinstance(x, TensorType))

    @property
    def generated(self) -> bool:
        """Whether it runs as a kernel of ours, or will as soon as that is built."""
        if self.measured is not None:
            return self.measured.chosen in {x.way for x in (self.kernel, *self.others)}
        return not self.settled or self.call is not self.by_torch

    def swap(self) -> None:
        """Go over to the generated kernel, which must be built."""
        launch = self.target.launcher(self.kernel, self.op, self.operands, self.into)

        def first(*xs: Any) -> Any:
            self.call = self.fitted(launch, xs)
            return self.call(*xs)

        self.call = first

    def fitted(self, launch: Launch, xs: Sequence[Any]) -> Way:
        """`launch` for operands that lie as these do.

        A library kernel may lay its result out otherwise than its type says; that shows at the
        first call and stays so, since a plan always runs on the same types.
        """
        pairs = zip(xs, self.operands, strict=not self.into)  # inputs lie as their types say
        if all(tuple(x.stride()) == t.strides for x, t in pairs if isinstance(t, TensorType)):
            return launch
        return partial(restrided, launch, self.operands)

    def spare(self, xs: Sequence[Any]) -> Sequence[Any]:
        """What a call site that is called with `xs` may be tried on without a trace."""
        count = len(self.operands)
        return [*xs[:count], *map(torch.empty_like, xs[count:])]

    def key(self, xs: Sequence[Any] = ()) -> str:
        """The kernel and the types that it is given."""
        return f"{self.kernel.name}({', '.join(map(operand_text, self.operands))})"

    def ways(self, xs: Sequence[Any]) -> dict[str, Way]:
        """The generated kernels, and torch's: one by one, or each that can do it whole."""
        found: dict[str, Way] = {}
        for kernel in (self.kernel, *self.others):
            launch = self.target.launcher(kernel, self.op, self.operands, self.into)
            found[kernel.way] = self.fitted(launch, xs)
        types = [x for x in self.operands if isinstance(x, TensorType)]
        others = {name: op.run for name, op in self.op.alternatives(*types).items()}
        return {**found, TORCH: self.by_torch, **others}

    def take(self, measured: Measured, way: Way) -> None:
        """Run like that from now on."""
        kernels = {x.way: x for x in (self.kernel, *self.others)}
        self.kernel = kernels.get(measured.chosen, self.kernel)
        self.others = ()
        self.measured = measured
        self.call = way
        self.settled = True


class LibraryCall:
    """One call site of an operation that several library kernels compute: torch's choice, unless
    another is measured to be faster."""

    __slots__ = ("call", "device", "measured", "op", "others", "settled")

    def __init__(self, op: Op, others: Mapping[str, Op], device: torch.device) -> None:
        self.op = op
        self.others = others
        self.device = device
        self.call: Way = op.run
        self.settled = True
        self.measured: Measured | None = None

    @property
    def chosen(self) -> Op:
        """The operation whose kernel runs."""
        return self.op if self.measured is None else self.others.get(self.measured.chosen, self.op)

    def key(self, xs: Sequence[Any]) -> str:
        """The operation and how its operands lie."""
        return f"{self.op!r}({', '.join(map(tensor_text, xs))})"

    def spare(self, xs: Sequence[Any]) -> Sequence[Any]:
        """The operands themselves, which nothing writes to."""
        return xs

    def ways(self, xs: Sequence[Any]) -> dict[str, Way]:
        """Torch's choice, and the others."""
        return {TORCH: self.op.run, **{name: op.run for name, op in self.others.items()}}

    def take(self, measured: Measured, way: Way) -> None:
        """Run like that from now on."""
        self.measured = measured
        self.call = way
        self.settled = True


def restrided(launch: Launch, operands: Sequence[Operand], *xs: Any) -> Any:
    """`launch` on operands copied to the strides of their types, where they have others.

    What it writes into follows the operands and stays itself, unless that is an operand which was
    copied.
    """
    count = len(operands)
    typed = [as_typed(x, t) for x, t in zip(xs[:count], operands, strict=True)]
    now = {id(x): y for x, y in zip(xs, typed, strict=False)}
    return launch(*typed, *[now.get(id(x), x) for x in xs[count:]])


def copied_into(op: Op, into: tuple[int, ...], *xs: Any) -> Any:
    """What `op` makes of its operands, by torch's kernels; the results `into` are copied into the
    tensors that follow the operands."""
    count = len(xs) - len(into)
    found = op.run(*xs[:count])
    results = list(found) if isinstance(found, tuple) else [found]
    targets = dict(zip(into, xs[count:], strict=True))
    taken = {storage(x) for x in targets.values()}
    for k, x in enumerate(results):
        if storage(x) in taken:  # an operand handed through, which a copy could change
            results[k] = x.clone()
    for k, target in targets.items():
        results[k] = target.copy_(results[k])
    return tuple(results) if isinstance(found, tuple) else results[0]


def as_typed(x: Any, typed: Operand) -> Any:
    """`x` with the strides of its type, copied if it has others; a number as it is."""
    return own(x, typed, shared=False) if isinstance(typed, TensorType) else x


def own(value: torch.Tensor, typed: TensorType, shared: bool) -> torch.Tensor:
    """A result in memory of its own, with the strides that eager gives."""
    if not shared and tuple(value.stride()) == typed.strides:
        return value
    return laid_out(value, typed)


def operand_text(x: Operand) -> str:
    """A type as text, strides included and the device left out."""
    if not isinstance(x, TensorType):
        return str(x)
    return f"{dtype_name(x.dtype)}{list(x.shape)}@{list(x.strides)}"


def tensor_text(x: Any) -> str:
    """The same of a tensor; of a number its type."""
    if not isinstance(x, torch.Tensor):
        return type(x).__name__
    return f"{dtype_name(x.dtype)}{list(x.shape)}@{list(x.stride())}"
