"""Runs a program line by line and says what each line allocates: the truth beside a prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lazytorch.bench.memory import events
from lazytorch.lower.call import KernelCall
from lazytorch.lower.line import Line
from lazytorch.lower.program import Program


@dataclass(frozen=True)
class Seen:
    """What one line allocated that is left behind it, and what it took besides at its highest."""

    line: Line
    left: int
    scratch: int


def walk(program: Program, inputs: Sequence[Any], device: torch.device) -> Iterator[Seen]:
    """Each line's memory before it deletes anything, of lines alike the first one's; writes to
    inputs are left out."""
    known: set[tuple[object, ...]] = set()
    run: Any = getattr(program.run, "args", (program.run,))[0]  # under a search of cuDNN's
    space = {**run.__globals__, **dict(zip(program.inputs, inputs, strict=True))}
    for line in program.lines:
        if line.does == "end":
            continue
        text = compile(line.text.split("; del ")[0], "<line>", "exec")
        if alike(line) in known:
            exec(text, space)
        else:
            known.add(alike(line))
            highest, left = events(partial(exec, text, space), device)
            yield Seen(line, left, highest - left)
        for name in line.dead:
            del space[name]


def alike(line: Line) -> tuple[object, ...]:
    """Equal for lines that do the same to operands that lie alike."""
    node, site = line.node, line.site
    types = tuple([x.type for x in node.inputs]) if node is not None else ()
    kernel = site.kernel.name if isinstance(site, KernelCall) else node.op if node else line.text
    return line.does, kernel, types, line.into
