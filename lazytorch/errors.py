"""What a user reads when something is refused: what happened, which values, where, what to try."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Where:
    """A line of the user's code, and the module path (`layer1.0.conv2`) that was running there."""

    file: str
    line: int
    function: str
    module: str = ""

    def __str__(self) -> str:
        inside = f" ({self.module})" if self.module else ""
        return f"{self.file}:{self.line} in {self.function}{inside}"

    @property
    def source(self) -> str:
        """The text of the line, empty when the file cannot be read."""
        return linecache.getline(self.file, self.line).strip()


class LazyTorchError(RuntimeError):
    """Base of every error raised here; the first line is complete on its own.

    Derives from RuntimeError because that is what eager raises for most of these mistakes.
    """

    def __init__(
        self,
        message: str,
        values: Mapping[str, object] | None = None,
        where: Where | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.values: dict[str, Any] = dict(values or {})
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"  {name}: {value}" for name, value in self.values.items()]
        if self.where is not None:
            source = self.where.source
            lines.append(f"  at {self.where}" + (f": {source}" if source else ""))
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class ShapeError(LazyTorchError):
    """Operands whose shapes do not fit the operation."""


class DTypeError(LazyTorchError):
    """Operands whose dtypes do not fit the operation."""


class DeviceError(LazyTorchError):
    """Operands on devices that cannot meet in one operation."""


class BoundsError(LazyTorchError, IndexError):
    """A dimension or an index outside its range."""


class UnsupportedError(LazyTorchError):
    """Something lazytorch refuses by name rather than get wrong."""


class BudgetError(LazyTorchError):
    """What was given is less memory than a call takes; nothing has run. `smallest` is enough."""

    def __init__(self, message: str, smallest: int, values: Mapping[str, object]) -> None:
        super().__init__(
            message,
            {**values, "the smallest max_bytes that can be met": smallest},
            hint="try a smaller batch, accumulate=2 (half of the batch at a time), amp=, a shorter "
            "sequence or smaller image, or an optimizer that keeps less",
        )
        self.smallest = smallest


class CutError(LazyTorchError):
    """`fullgraph=True` met a place where the recording would be cut."""


class OutOfMemoryError(LazyTorchError, torch.OutOfMemoryError):
    """A call for which there was not enough memory, with its plan; state is as it was before."""


class VerifyError(LazyTorchError):
    """A graph that breaks a rule of the IR: a fault of a pass, never of the user."""


class ParseError(LazyTorchError):
    """Text that is not a graph."""


class CompilerError(LazyTorchError):
    """The C++ or Triton compiler is missing or refused a generated kernel."""
