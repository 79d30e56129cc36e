"""Speeds of kernels as tables for people and as JSON for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lazytorch.bench.kernel_speed import MIB, Speed
from lazytorch.bench.kernels import Kernel
from lazytorch.bench.paired import ratio
from lazytorch.types import dtype_name


def speeds_json(
    kernel: Kernel, dtype: torch.dtype, device: torch.device, found: list[Speed]
) -> dict[str, Any]:
    """One kernel in one type at all sizes."""
    return {
        "kernel": kernel.name,
        "dtype": dtype_name(dtype),
        "device": str(device),
        "sizes": [one_json(one) for one in found],
    }


def one_json(one: Speed) -> dict[str, Any]:
    """Milliseconds, gigabytes for each second, the share of a copy's speed, errors."""
    sides: dict[str, Any] = {}
    for name, timing in one.timings.items():
        low, high = timing.quartiles
        sides[name] = {
            "median_ms": 1e3 * timing.median,
            "quartiles_ms": [1e3 * low, 1e3 * high],
            "gb_per_s": one.rate(name),
            "share_of_copy": one.share(name),
        }
        if name in one.judged:
            judged = one.judged[name]
            sides[name] |= {"error": judged.error, "fault": judged.fault}
        if name == "lazytorch":
            others = [other for other in one.timings if other != name]
            times = {other: asdict(ratio(timing, one.timings[other])) for other in others}
            sides[name]["times_as_fast"] = times
    return {"bytes": one.nbytes, "sides": sides, "failed": one.failed}


def speeds_table(kernel: Kernel, dtype: torch.dtype, found: list[Speed]) -> Table:
    """A row for each size and side."""
    faults = [f"{name}: {x.fault}" for one in found for name, x in one.judged.items() if x.fault]
    faults += [
        f"{name} was not measured: {why}" for one in found for name, why in one.failed.items()
    ]
    made = Table(
        title=f"{kernel.name}, {dtype_name(dtype)}",
        caption="\n".join(dict.fromkeys(faults)) or None,
        caption_style="bold red",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("MiB", "", "ms", "GB/s", "of a copy", "error"):
        made.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for one in found:
        for name, timing in one.timings.items():
            judged = one.judged.get(name)
            made.add_row(
                f"{one.nbytes / MIB:.0f}",
                name,
                f"{1e3 * timing.median:.3g}",
                f"{one.rate(name):.4g}",
                f"{one.share(name):.0%}",
                "" if judged is None else f"{judged.error:.1e}",
                style="bold" if name == "lazytorch" else None,
            )
    return made
