"""Time against bytes, a curve a model, as an SVG of what `budgets.py` measured.

python benchmarks/budget_curves.py OUT.svg FILE.json ...
"""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 380, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 46
STYLE = (
    "text{font:12px sans-serif;fill:#3c4043}.title{font-size:14px}.grid{stroke:#dadce0}"
    ".curve{fill:none;stroke:#1a73e8;stroke-width:2}.bound{fill:#1a73e8}.free{fill:#d93025}"
)


def drawn(results: Sequence[dict[str, Any]]) -> str:
    """The picture: each model's steps by the bytes that were measured, and without a budget."""
    results = sorted([x for x in results if x.get("rows")], key=lambda x: x["model"])
    size = f'width="{WIDTH * len(results)}" height="{HEIGHT}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', f"<style>{STYLE}</style>"]
    for i, found in enumerate(results):
        parts += [f'<g transform="translate({WIDTH * i} 0)">', *curve(found), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def curve(found: dict[str, Any]) -> Iterable[str]:
    """One model's part of the picture."""
    rows = sorted(found["rows"], key=lambda row: row["measured"])
    xs = [row["measured"] / 2**20 for row in rows]
    ys = [row["ms"] for row in rows]
    across, up = ticks(min(xs), max(xs)), ticks(0, max(ys))
    machine = found["machine"]
    title = f"{found['model']}, {machine.get('gpu', machine['cpu'])}"
    yield text(WIDTH / 2, 20, title, "middle", "title")
    yield text(WIDTH / 2, HEIGHT - 8, "MiB at a step's highest, measured", "middle")
    yield text(6, 28, "ms a step")

    def x(value: float) -> float:
        room = WIDTH - LEFT - RIGHT
        return LEFT + room * (value - across[0]) / (across[-1] - across[0])

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - up[0]) / (up[-1] - up[0])

    for value in up:
        at = y(value)
        yield f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        yield text(LEFT - 6, at + 4, f"{value:g}", "end")
    for value in across:
        yield text(x(value), HEIGHT - BOTTOM + 16, f"{value:g}", "middle")
    points = [(x(a), y(b)) for a, b in zip(xs, ys, strict=True)]
    yield f'<path class="curve" d="M{"L".join(f"{a:.1f} {b:.1f}" for a, b in points)}"/>'
    for row, (a, b) in zip(rows, points, strict=True):
        name = "free" if row["budget"] is None else "bound"
        said = "no budget" if row["budget"] is None else f"within {row['budget'] / 2**20:.0f} MiB"
        words = f"{said}: {row['measured'] / 2**20:.0f} MiB, {row['ms']:.2f} ms"
        mark = f'<circle class="{name}" cx="{a:.1f}" cy="{b:.1f}" r="4">'
        yield f"{mark}<title>{words}</title></circle>"


def text(x: float, y: float, words: str, anchor: str = "start", name: str = "") -> str:
    """Words at a place."""
    kind = f' class="{name}"' if name else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def ticks(low: float, high: float) -> list[float]:
    """Round numbers around a span, some five steps apart."""
    span = max(high - low, 1e-9)
    unit = 10 ** math.floor(math.log10(span / 4))
    step = next(unit * k for k in (1, 2, 5, 10) if span / (unit * k) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * k for k in range(first, max(last, first + 1) + 1)]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    files = [Path(x).read_text(encoding="utf-8") for x in sys.argv[2:]]
    Path(sys.argv[1]).write_text(drawn([json.loads(x) for x in files]), encoding="utf-8")
