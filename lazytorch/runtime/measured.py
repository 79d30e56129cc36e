"""What libraries take while they compute, measured where no table that ships has it.

A call is run once on zeros laid out as its operands are, which takes no more than they take in the
program itself; what was measured holds for the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import torch

from lazytorch.devices import Device
from lazytorch.ir import Item, Node
from lazytorch.lower.allocation import allocation, extent
from lazytorch.lower.call import LibraryCall
from lazytorch.lower.line import Line
from lazytorch.lower.workspaces import Workspaces, call_key
from lazytorch.runtime.allocations import MARK, events, profiled
from lazytorch.types import ScalarType, TensorType, TupleType, Type

found: dict[tuple[str, int], dict[str, int | None]] = {}
"""Bytes by call, None where it does not run on zeros, for each device and number of threads."""


def measured_too(known: Workspaces, device: Device, lines: Iterable[Line]) -> Workspaces:
    """What is known, and what the calls of a program take of which nothing is known."""
    here = device.torch_device
    if here.type == "cuda" and not same_gpu(device):
        return known
    calls = found.setdefault((device.name, torch.get_num_threads()), {})
    missing: dict[str, Line] = {}
    for line in lines:
        node = line.node
        if node is None or line.does != "call" or isinstance(node.op, Item) or node.op.effect:
            continue
        if known.find(node) is None and (key := call_key(node)) not in calls:
            does = allocation(node, line.site)
            if not does.generated and any(does.sizes):
                missing[key] = line
    if missing:
        with torch.no_grad(), torch.random.fork_rng([here] if here.type == "cuda" else []):
            calls |= {**dict.fromkeys(missing), **taken(missing, here)}
    told = {key: nbytes for key, nbytes in calls.items() if nbytes is not None}
    return Workspaces({**known.calls, **told}, known.stays)


def same_gpu(device: Device) -> bool:
    """Whether the GPU that a plan is for is the one that is here."""
    if not torch.cuda.is_available():
        return False
    return device.name.lower() in torch.cuda.get_device_name().lower()


def taken(lines: dict[str, Line], device: torch.device) -> dict[str, int]:
    """The bytes that each call takes beside its results; those that do not run on zeros are left
    out."""
    calls: dict[str, int] = {}
    if device.type == "cuda":
        for key, line in lines.items():
            with suppress(RuntimeError, TypeError, IndexError):
                operands, results = [zeros(x.type) for x in read(line)], list[Any]()
                most, left = events(partial(call, line, operands, results), device)
                calls[key] = most - left
        return calls
    with profiled() as seen:
        for key, line in lines.items():
            with suppress(RuntimeError, TypeError, IndexError):
                operands, results = [zeros(x.type) for x in read(line)], list[Any]()
                with torch.profiler.record_function(MARK + key):
                    call(line, operands, results)
    for key in lines:
        if MARK + key in seen.spans:
            most, left = seen.during(MARK + key)
            calls[key] = most - left
    return calls


def read(line: Line) -> tuple[Node, ...]:
    """What a line's call reads."""
    assert line.node is not None
    return line.node.inputs


def call(line: Line, operands: list[Any], results: list[Any]) -> None:
    """Run a line's call, and keep its results."""
    assert line.node is not None
    op = line.site.chosen if isinstance(line.site, LibraryCall) else line.node.op
    results.append(op.run(*operands))


def zeros(typed: Type) -> Any:
    """A value of a type, all zeros; TypeError for a library's own format."""
    if isinstance(typed, TensorType):
        count = extent(typed) // typed.dtype.itemsize
        memory = torch.zeros(count, dtype=typed.dtype, device=typed.device)
        return memory.as_strided(typed.shape, typed.strides)
    if isinstance(typed, ScalarType):
        return typed.kind(1)
    if isinstance(typed, TupleType):
        return tuple([zeros(x) for x in typed.items])
    raise TypeError(f"{typed} has no stand-in")
