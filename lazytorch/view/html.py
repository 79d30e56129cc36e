"""A page of its own about graphs and their programs: one file, no network, no other program."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from lazytorch.ir import Graph
from lazytorch.view.layout import Block, layout
from lazytorch.view.scene import scene


@dataclass(frozen=True)
class Tab:
    """One view of the page: a graph, or a text."""

    name: str
    text: str = ""
    graph: Graph | None = None


def page(title: str, tabs: list[Tab]) -> str:
    """The whole HTML text. The data is JSON in it; nothing in it is run or parsed as HTML."""
    data = json.dumps([tab_data(tab) for tab in tabs], separators=(",", ":"))
    template = files("lazytorch.view").joinpath("page.html").read_text(encoding="utf-8")
    before, after = template.split("{data}")
    # Inside a script element only `</` and `<!` could end or change it.
    return before.replace("{title}", html.escape(title)) + data.replace("<", "\\u003c") + after


def tab_data(tab: Tab) -> dict[str, Any]:
    """A tab for the page's script; texts that repeat are stored once."""
    if tab.graph is None:
        return {"name": tab.name, "text": tab.text}
    shown = scene(tab.graph)
    types: dict[str, int] = {}
    edges = [(a, b, types.setdefault(typed, len(types))) for a, b, typed in shown.edges]
    boxes = [
        {key: value for key, value in (vars(box) | {"color": box.color}).items() if value}
        for box in shown.boxes
    ]
    tree = block_data(layout(shown))
    return {"name": tab.name, "boxes": boxes, "edges": edges, "types": list(types), "tree": tree}


def block_data(block: Block) -> dict[str, Any]:
    """A block and what is in it; a box is its number."""
    rows = [[c if isinstance(c, int) else block_data(c) for c in row] for row in block.rows]
    return {"name": block.name, "path": block.path, "rows": rows}
