"""What a folder of results says: for each model the ratio to the best peer, and the verdicts.

    python benchmarks/summary.py FOLDER [SIDE]

Reads what `lazytorch bench --out FOLDER`, `benchmarks/xla.py` and `benchmarks/cold.py` wrote, and
prints Markdown. SIDE is `lazytorch-freeze` where it was measured, else `lazytorch`, if not named.
A ratio is the peer's time by ours in one run; `>` is the lower end of its 95 % interval.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEVEL = 0.98
OURS = ("lazytorch-freeze", "lazytorch")


def lines(results: list[dict[str, Any]], side: str = "") -> Iterator[str]:
    """Markdown for results of all kinds."""
    comparisons = [one for result in results for one in result.get("comparisons", ())]
    if comparisons:
        yield from models(comparisons, side)
    speeds = [result for result in results if "kernel" in result]
    if speeds:
        yield from kernels(speeds)
    starts = [result for result in results if "claims" in result]
    if starts:
        yield from cold(starts)


def models(comparisons: list[dict[str, Any]], side: str) -> Iterator[str]:
    """A row for each model, then the geometric means and the verdicts."""
    headings = ["model, batch, type", "side", "ms", "best peer", "ms", "ratio", ">", "times eager"]
    yield from table([*headings, "right", "not measured"])
    rows = [(one, chosen(one, side)) for one in comparisons]
    ratios: list[float] = []
    eager: list[float] = []
    below: list[str] = []
    wrong: list[str] = []
    for one, ours in rows:
        name = f"{one['model']}, {one['batch']}, {one['dtype']}"
        failed = "; ".join(f"{x}: {why}" for x, why in one["failed"].items())
        if ours is None:
            wrong.append(name)
            yield row([name, *[""] * 7, "NO", failed])
            continue
        found, peer = one["sides"][ours], one["best_peer"]
        times = found["times_as_fast"][peer]
        ratios.append(times["median"])
        eager.append(found["times_as_fast"]["eager"]["median"])
        if times["low"] < LEVEL:
            below.append(f"{name} ({times['low']:.3f} of {peer})")
        if found["fault"]:
            wrong.append(name)
        cells = [name, ours, ms(found), peer, ms(one["sides"][peer])]
        cells += [f"{times['median']:.3f}", f"{times['low']:.3f}", f"{eager[-1]:.2f}"]
        yield row([*cells, "NO" if found["fault"] else "yes", failed])
    yield ""
    if ratios:
        yield f"- geometric mean to the best peer: {mean(ratios):.3f}"
        yield f"- geometric mean to eager: {mean(eager):.3f}"
    yield f"- lower 95 % bound below {LEVEL}: {', '.join(below) or 'on no model'}"
    yield f"- wrong or not measured: {', '.join(wrong) or 'none'}"
    yield ""


def chosen(one: dict[str, Any], side: str) -> str | None:
    """Which of our sides the row is about."""
    wanted = [side] if side else OURS
    return next((name for name in wanted if name in one["sides"]), None)


def kernels(results: list[dict[str, Any]]) -> Iterator[str]:
    """A row for each kernel, type and size."""
    headings = ["kernel", "type", "MiB", "GB/s", "of a copy", "times eager", "times inductor", ">"]
    yield from table([*headings, "right"])
    ratios: list[float] = []
    for result in results:
        for size in result["sizes"]:
            name = [result["kernel"], result["dtype"], f"{size['bytes'] / 2**20:.0f}"]
            ours = size["sides"].get("lazytorch")
            if ours is None:
                yield row([*name, *[""] * 5, size["failed"]["lazytorch"]])
                continue
            times = ours["times_as_fast"]
            cells = [f"{ours['gb_per_s']:.4g}", f"{ours['share_of_copy']:.0%}"]
            cells.append(f"{times['eager']['median']:.2f}")
            if "inductor" in times:
                ratios.append(times["inductor"]["median"])
                cells += [f"{ratios[-1]:.2f}", f"{times['inductor']['low']:.2f}"]
            else:
                cells += ["", ""]
            yield row([*name, *cells, ours["fault"] or "yes"])
    yield ""
    if ratios:
        yield f"- geometric mean to torch.compile: {mean(ratios):.3f}"
        yield ""


def cold(results: list[dict[str, Any]]) -> Iterator[str]:
    """A row for each model's starts; seconds are ours, then torch.compile's."""
    yield from table(["model", "first, s", "near full speed, s", "warm first, s", "holds"])
    for result in results:
        sides, claims = result["sides"], result["claims"]
        if not claims:
            why = "; ".join(
                f"{x}: {side['failed']}" for x, side in sides.items() if "failed" in side
            )
            yield row([result["case"], "", "", "", why.replace("\n", " ")])
            continue
        ours, theirs = sides["lazytorch"], sides["inductor"]

        def pair(when: str, what: str, ours: Any = ours, theirs: Any = theirs) -> str:
            return f"{ours[when][what]:.2f}, {theirs[when][what]:.2f}"

        failing = [name for name in ("first", "near", "warm") if not claims[f"{name} holds"]]
        failing += [] if claims["right"] else ["wrong"]
        verdict = "yes" if not failing else f"not {', '.join(failing)}"
        cells = [pair("cold_s", "first"), pair("cold_s", "near"), pair("warm_s", "first")]
        yield row([result["case"], *cells, verdict])
    yield ""


def table(headings: list[str]) -> Iterator[str]:
    yield row(headings)
    yield row(["---"] * len(headings))


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def ms(side: dict[str, Any]) -> str:
    return f"{side['median_ms']:.4g}"


def mean(ratios: list[float]) -> float:
    """The geometric mean."""
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def main(folder: Path, side: str = "") -> None:
    """Print the summary of every file in a folder."""
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    if not results:
        sys.exit(f"no results in {folder}")
    print("\n".join(lines(results, side)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
