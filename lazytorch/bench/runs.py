"""Runs of many cases, one after another, each printed and kept as soon as it is measured."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from lazytorch.bench.case import Case
from lazytorch.bench.compare import Comparison, compare, reason
from lazytorch.bench.kernel_speed import CPU_SIZES, DTYPES, GPU_SIZES, Speed, speed
from lazytorch.bench.kernel_table import speeds_json, speeds_table
from lazytorch.bench.kernels import Kernel
from lazytorch.bench.machine import machine
from lazytorch.bench.progress import progress
from lazytorch.bench.shards import Shards, case_name, holds
from lazytorch.bench.sides import missing
from lazytorch.bench.start import Start, starts
from lazytorch.bench.table import as_json, table
from lazytorch.compile import reset
from lazytorch.errors import LazyTorchError
from lazytorch.types import dtype_name


def bench_models(
    cases: Sequence[Case], names: Sequence[str], repeats: int, start: bool, shards: Shards
) -> list[Comparison]:
    """Compare the sides on each case that is left.

    Of several cases, one that cannot run at all (no memory, say) does not end the others.
    """
    console, found = wide_console(), list[Comparison]()
    device = cases[0].device
    named = {case_name(case): case for case in cases}
    for name in left(list(named), shards, device, holds(names, start), console):
        case = named[name]
        with progress() as tell:
            try:
                one = measured(case, names, repeats, start, tell)
            except Exception as error:
                if len(cases) == 1:
                    raise
                one = Comparison(case, {}, {"eager": reason(error)})
        console.print(table(one))
        shards.write(name, as_json([one], machine(device)))
        found.append(one)
        clear(device)
    describe(device, console)
    return found


def measured(
    case: Case, names: Sequence[str], repeats: int, start: bool, tell: Callable[[str], None]
) -> Comparison:
    """One model's comparison, with fresh processes where they are asked for."""

    def about(text: str) -> None:
        tell(f"{case.model}: {text}")

    # Fresh processes first: they have the machine's memory for themselves.
    started: dict[str, tuple[Start, Start]] = {}
    failed: dict[str, str] = {}
    for name in dict.fromkeys(("eager", *names)) if start else ():
        if not missing(name):
            try:
                started[name] = starts(case, name, about)
            except LazyTorchError as error:
                failed[name] = reason(error)
    found = compare(case, names, repeats, about)
    sides = {name: replace(side, start=started.get(name)) for name, side in found.sides.items()}
    return replace(found, sides=sides, failed={**failed, **found.failed})


def bench_kernels(
    kernels: Sequence[Kernel], device: torch.device, repeats: int, shards: Shards
) -> list[Speed]:
    """Measure each kernel that is left, in each type and size."""
    console, found = wide_console(), list[Speed]()
    sizes = GPU_SIZES if device.type == "cuda" else CPU_SIZES
    named = {
        f"{device.type}_kernel_{kernel.name}_{dtype_name(dtype)}": (kernel, dtype)
        for kernel in kernels
        for dtype in DTYPES
    }
    for name in left(list(named), shards, device, lambda _: True, console):
        kernel, dtype = named[name]
        speeds: list[Speed] = []
        with progress() as tell:
            for size in sizes:
                tell(f"{name}: {size / 2**20:.0f} MiB")
                speeds.append(speed(kernel, dtype, size, device, repeats))
                clear(device)
        console.print(speeds_table(kernel, dtype, speeds))
        about = {"machine": machine(device)}
        shards.write(name, about | speeds_json(kernel, dtype, device, speeds))
        found += speeds
    describe(device, console)
    return found


def left(
    names: Sequence[str],
    shards: Shards,
    device: torch.device,
    whole: Callable[[dict[str, Any]], bool],
    console: Console,
) -> Iterator[str]:
    """The cases that are not there yet, while there is time; says what is skipped."""
    waiting = [name for name in names if not shards.there(name, device, whole)]
    if there := len(names) - len(waiting):
        console.print(f"{there} of {len(names)} cases are there already", style="dim")
    for i, name in enumerate(waiting):
        if shards.over():
            rest = ", ".join(waiting[i:])
            console.print(f"the time is over; not measured: {rest}", style="dim")
            return
        yield name


def wide_console() -> Console:
    """Where tables go: a file has room for every column."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    return console


def describe(device: torch.device, console: Console) -> None:
    """Print what the numbers were measured on."""
    about = machine(device)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), style="dim")


def clear(device: torch.device) -> None:
    """Leave the memory of one case to the next."""
    reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
