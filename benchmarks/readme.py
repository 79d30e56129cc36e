"""Fills the README's tables from the folders of benchmarks/results.

python benchmarks/readme.py

A folder holds what one machine measured: JSON of `lazytorch bench --out FOLDER`, `xla.py` and
`cold.py`. What README says of it is what `summary.py` says; other scripts' folders it does not
know.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import summary

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- numbers:begin -->", "<!-- numbers:end -->"


def filled(readme: str, folders: list[list[dict[str, Any]]]) -> str:
    """The README's text with the tables of every folder that has some between its marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    said = [(found, text(found)) for found in folders]
    tables = "\n".join(f"{heading(found)}\n\n{lines}" for found, lines in said if lines)
    return f"{before}{BEGIN}\n{tables.rstrip()}\n{END}{after}"


def heading(results: list[dict[str, Any]]) -> str:
    """Machine, torch, days and peers of a folder."""
    machine = results[0]["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
    days = sorted({result["machine"]["date"][:10] for result in results})
    text = f"**{where}**, torch {machine['torch']}, {' and '.join(days)}"
    measured = {
        name for x in results for one in x.get("comparisons", ()) for name in one["sides"]
    } - {"eager", *summary.OURS}
    return f"{text}, beside {', '.join(sorted(measured))}" if measured else text


def text(results: list[dict[str, Any]]) -> str:
    """The summary, without the line ends that Markdown does not want."""
    return "\n".join(summary.lines(results))


def results() -> list[list[dict[str, Any]]]:
    """What every folder that has results holds."""
    folders = sorted(x for x in (ROOT / "benchmarks" / "results").iterdir() if x.is_dir())
    found = [[json.loads(x.read_text()) for x in sorted(one.glob("*.json"))] for one in folders]
    return [one for one in found if one]


def main() -> None:
    found = results()
    if not found:
        sys.exit(
            "no folder in benchmarks/results: lazytorch bench --suite ... --out FOLDER makes one"
        )
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(), found))


if __name__ == "__main__":
    main()
