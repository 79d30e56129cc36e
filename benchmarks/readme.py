"""Fills the README's tables from benchmarks/results, which `lazytorch bench` wrote.

python benchmarks/readme.py

Files of one machine, day and set of sides are one table.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- numbers:begin -->", "<!-- numbers:end -->"
LEFT_OUT = ("eager", "lazytorch")  # they have columns of their own


def filled(readme: str, results: list[dict[str, Any]]) -> str:
    """The README's text with the tables of all results between its marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    tables = "\n\n".join("\n".join(table(result)) for result in joined(results))
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def joined(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results with one heading and the same sides as one; without models that did not run."""
    found: dict[Any, dict[str, Any]] = {}
    for result in results:
        measured = [one for one in result["comparisons"] if "lazytorch" in one["sides"]]
        sides = {name for one in measured for name in one["sides"]}
        key = (heading(result["machine"]), *sorted(sides))
        into = found.setdefault(key, {"machine": result["machine"], "comparisons": []})
        into["comparisons"] += measured
    return [one for one in found.values() if one["comparisons"]]


def heading(machine: dict[str, Any]) -> str:
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
    return f"**{where}**, torch {machine['torch']}, {machine['date'][:10]}"


def table(result: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown: the machine, then a row for each comparison."""
    comparisons = result["comparisons"]
    others = list(
        dict.fromkeys(n for one in comparisons for n in one["sides"] if n not in LEFT_OUT)
    )
    peers = [name for name in others if any(starts(one, name) for one in comparisons)]
    yield heading(result["machine"])
    yield ""
    headings = [
        "model, batch, type", "eager ms", *(f"{name} ms" for name in others), "lazytorch ms",
        "times eager", "lazytorch start s", *(f"{name} start s" for name in peers),
        "MiB, eager's", "error, eager's",
    ]  # fmt: skip
    yield row(headings)
    yield row(["---", *["---:"] * (len(headings) - 1)])
    for one in comparisons:
        sides = one["sides"]
        eager, ours = sides["eager"], sides["lazytorch"]
        cells = [f"{one['model']}, {one['batch']}, {one['dtype']}", ms(eager)]
        cells += [ms(sides.get(name)) for name in others]
        cells += [f"**{ms(ours)}**" + (f" ({ours['fault']})" if ours["fault"] else "")]
        cells += [f"{ours['speedup']:.2f}", starts(one, "lazytorch")]
        cells += [starts(one, name) for name in peers]
        cells += [f"{mib(ours)}, {mib(eager)}", f"{ours['error']:.1e}, {eager['error']:.1e}"]
        yield row(cells)


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def ms(side: dict[str, Any] | None) -> str:
    if side is None:
        return ""
    value = side["median_ms"]
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def mib(side: dict[str, Any]) -> str:
    return "?" if side["memory_bytes"] is None else f"{side['memory_bytes'] / 2**20:.1f}"


def starts(one: dict[str, Any], name: str) -> str:
    """Cold start: seconds to the first result and to full speed; empty if not measured."""
    cold = one["sides"].get(name, {}).get("cold_start_s")
    return f"{cold['first']:.2f} / {cold['full']:.2f}" if cold else ""


def main() -> None:
    files = sorted((ROOT / "benchmarks" / "results").rglob("*.json"))
    if not files:
        sys.exit(
            "nothing in benchmarks/results: lazytorch bench MODEL ... --json writes such a file"
        )
    readme = ROOT / "README.md"
    results = [json.loads(file.read_text()) for file in files]
    compared = [result for result in results if "comparisons" in result]
    readme.write_text(filled(readme.read_text(), compared))


if __name__ == "__main__":
    main()
