"""Comparisons as tables for people and as JSON for scripts.

What the columns mean: `ms` is the median with half the distance between the quartiles, `speed`
eager's time by the side's, `best` the best peer's time by the side's, round by round, and the lower
end of that number's 95 % interval, `first` and `full` the seconds from a built model to its first
result and to its first call at full speed (cold/warm), `MiB` the peak of memory beside weights and
inputs, `error` the distance from a float64 run, relative to the size of the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lazytorch.bench.compare import Comparison, Measured
from lazytorch.bench.sides import OURS
from lazytorch.bench.start import Start
from lazytorch.types import dtype_name


def table(one: Comparison) -> Table:
    """One row for each side; what is wrong with a result stands below."""
    case = one.case
    started = any(side.start for side in one.sides.values())
    compared = peers(one)
    faults = [f"{name}: {fault(side)}" for name, side in one.sides.items() if not side.right]
    faults += [f"{name} was not measured: {why}" for name, why in one.failed.items()]
    made = Table(
        title=f"{case.model}, batch {case.batch}, {dtype_name(case.dtype)}, {case.device}"
        + (f", the best peer is {one.best_peer()}" if compared else ""),
        caption="\n".join(faults) or None,
        caption_style="bold red",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    made.add_column("", overflow="fold")
    columns = ("ms", "speed", *(("best",) if compared else ()), *(STARTED if started else ()))
    for heading in (*columns, "MiB", "error", "right"):
        made.add_column(heading, justify="right", no_wrap=True)
    for name, side in one.sides.items():
        style = "bold" if name == "lazytorch" else None
        made.add_row(name, *cells(one, name, side, started), style=style)
    return made


STARTED = ("first, s", "full, s")


def cells(one: Comparison, name: str, side: Measured, started: bool) -> list[str]:
    """The texts of a row after the side's name."""
    low, high = side.timing.quartiles
    median, half = 1e3 * side.timing.median, 1e3 * (high - low) / 2
    around = f"{half:.0f}" if half >= 10 else f"{half:.2g}"
    found = [f"{significant(median)} ±{around}", f"{one.speedup(name):.2f}x"]
    if peers(one):
        found.append("")
        if name in OURS:
            by = one.ratio(name, one.best_peer())
            found[-1] = f"{by.median:.2f}x >{by.low:.2f}"
    if started:
        found += start_cells(side.start)
    found.append("" if side.memory is None else f"{side.memory / 2**20:.1f}")
    found.append(f"{side.accuracy.error:.1e}")
    found.append("yes" if side.right else "NO")
    return found


def peers(one: Comparison) -> list[str]:
    """What was measured beside eager and lazytorch."""
    return [name for name in one.sides if name not in ("eager", *OURS)]


def fault(side: Measured) -> str:
    """What is wrong with the results, empty if nothing is."""
    faults = (side.accuracy.fault, *(start.fault for start in side.start or ()))
    return next(filter(None, faults), "")


def start_cells(start: tuple[Start, Start] | None) -> list[str]:
    """Seconds to the first result and to full speed."""
    if start is None:
        return ["", ""]
    cold, warm = start
    return [f"{cold.first:.2f}/{warm.first:.2f}", f"{cold.full:.2f}/{warm.full:.2f}"]


def significant(x: float) -> str:
    """Three digits, without an exponent."""
    return f"{x:.3f}" if x < 1 else f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"


def as_json(comparisons: Iterable[Comparison], machine: dict[str, str | int]) -> dict[str, Any]:
    """Everything that was measured, with the machine that it was measured on."""
    return {"machine": machine, "comparisons": [comparison_json(one) for one in comparisons]}


def comparison_json(one: Comparison) -> dict[str, Any]:
    """One model: milliseconds, seconds, bytes, and errors relative to the result's size.

    `times_as_fast` is the other side's time by ours: the median over rounds, its 95 % interval.
    """
    case = one.case
    sides: dict[str, Any] = {}
    for name, side in one.sides.items():
        low, high = side.timing.quartiles
        found: dict[str, Any] = {
            "median_ms": 1e3 * side.timing.median,
            "quartiles_ms": [1e3 * low, 1e3 * high],
            "speedup": one.speedup(name),
            "memory_bytes": side.memory,
            "error": side.accuracy.error,
            "eager_error": side.accuracy.eager,
            "fault": fault(side),
        }
        for when, start in zip(("cold", "warm"), side.start or (), strict=False):
            found[f"{when}_start_s"] = start_json(start)
        if name in OURS:
            others = [other for other in one.sides if other not in OURS]
            found["times_as_fast"] = {other: asdict(one.ratio(name, other)) for other in others}
        sides[name] = found
    return {
        "model": case.model,
        "batch": case.batch,
        "dtype": dtype_name(case.dtype),
        "device": str(case.device),
        "best_peer": one.best_peer(),
        "sides": sides,
        "failed": one.failed,
    }


def start_json(start: Start) -> dict[str, float]:
    """The seconds of one start."""
    return {"first": start.first, "full": start.full, "near": start.near}
