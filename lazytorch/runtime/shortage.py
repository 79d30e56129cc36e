"""Running out of memory: torch's error becomes one that says what took the memory, and where.

Programs ask for what they still need before they first write to inputs (`lower.reserve`), so that
whoever catches the error finds parameters, buffers and an optimizer's state as they were.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

import torch

from lazytorch.errors import LazyTorchError, OutOfMemoryError, Where
from lazytorch.lower.memory_plan import MemoryPlan, size
from lazytorch.lower.program import Program

SAYS = ("not enough memory", "DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
"""What torch says on the CPU, on a GPU, and when a library could not allocate."""


def exhausted(error: RuntimeError) -> bool:
    """Whether torch had no memory left."""
    if isinstance(error, LazyTorchError):
        return False
    return isinstance(error, torch.OutOfMemoryError) or any(x in str(error) for x in SAYS)


def out_of_memory(
    error: RuntimeError, plan: Callable[[], MemoryPlan], *programs: Program
) -> OutOfMemoryError:
    """The error of a call whose `programs` met this one, at the user's line.

    The frames of the programs are let go, or what they computed would live as long as the error.
    """
    where = next(failed(error, programs), None)
    error.__traceback__ = None
    found = plan()
    largest = next((x.where for x in found.at_peak if x.where is not None), None)
    table = "\n".join(f"    {line}" for line in found.text())
    return OutOfMemoryError(
        f"{found.name} ran out of memory: it takes {size(found.peak_bytes)} at its highest",
        {"torch says": str(error).splitlines()[0], "its plan": "\n" + table},
        where or largest,
        "call it with a smaller batch; lt.plan(model, example, batch=...) says what a batch takes "
        "before anything runs. Parameters, buffers and an optimizer's state are as before the call",
    )


def failed(error: RuntimeError, programs: tuple[Program, ...]) -> Iterator[Where]:
    """The user's line behind the line of a program that failed."""
    for frame, number in traceback.walk_tb(error.__traceback__):
        for program in programs:
            code = frame.f_code
            if code.co_filename == program.file and 0 <= number - 2 < len(program.lines):
                node = program.lines[number - 2].node
                if node is not None and node.where is not None:
                    yield node.where
