"""Runs a program line by line and says what each line allocates: the truth beside a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lazytorch.lower.line import Line
from lazytorch.lower.program import Program
from lazytorch.runtime.allocations import MARK, events, profiled


@dataclass(frozen=True)
class Seen:
    """What one line allocated that is left behind it, and what it took besides at its highest."""

    line: Line
    left: int
    scratch: int


def walk(program: Program, inputs: Sequence[Any], device: torch.device) -> list[Seen]:
    """Each line's memory before it deletes anything; writes to inputs, and what only asks for
    memory, are left out."""
    run: Any = getattr(program.run, "args", (program.run,))[0]  # under a search of cuDNN's
    space = {**run.__globals__, **dict(zip(program.inputs, inputs, strict=True))}
    lines = [line for line in program.lines if line.does not in ("end", "reserve")]
    if device.type == "cuda":
        found: list[Seen] = []
        for line in lines:
            highest, left = events(partial(step, line, space), device)
            found.append(Seen(line, left, highest - left))
            drop(line, space)
        return found
    with profiled() as seen:
        for i, line in enumerate(lines):
            with torch.profiler.record_function(f"{MARK}{i}"):
                step(line, space)
            drop(line, space)
        space.clear()
    spans = [seen.during(f"{MARK}{i}") for i in range(len(lines))]
    return [Seen(line, left, most - left) for line, (most, left) in zip(lines, spans, strict=True)]


def step(line: Line, space: dict[str, Any]) -> None:
    """Run a line, but for what it deletes."""
    exec(compile(line.text.split("; del ")[0], "<line>", "exec"), space)


def drop(line: Line, space: dict[str, Any]) -> None:
    """Delete what a line deletes."""
    for name in line.dead:
        del space[name]
