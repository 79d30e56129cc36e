"""A memory plan as a page of its own: the level line by line, and each block with its name."""

from __future__ import annotations

import html
import json
from importlib.resources import files
from typing import Any

from lazytorch.lower.memory_plan import MemoryPlan
from lazytorch.lower.timeline import Block


def page(plan: MemoryPlan) -> str:
    """The whole HTML text. The data is JSON in it; nothing in it is run or parsed as HTML."""
    data = json.dumps(content(plan), separators=(",", ":")).replace("<", "\\u003c")
    template = files("lazytorch.view").joinpath("timeline.html").read_text(encoding="utf-8")
    before, after = template.split("{data}")
    return before.replace("{title}", html.escape(plan.name)) + data + after


def content(plan: MemoryPlan) -> dict[str, Any]:
    """What the page draws: blocks with where they lie in the picture, lines, levels, the report."""
    return {
        "text": str(plan),
        "held": plan.held + plan.stays,
        "memory": plan.device.memory,
        "prologue": plan.prologue_lines,
        "levels": list(plan.levels),
        "lines": [x.split("; del ")[0] for x in plan.timeline.lines],
        "blocks": [
            {"born": x.born, "died": x.died, "at": at, "size": x.taken, "kind": x.kind,
             "name": x.operation, "where": "" if x.where is None else str(x.where),
             "source": "" if x.where is None else x.where.source}
            for x, at in zip(plan.timeline.blocks, stacked(plan.timeline.blocks), strict=True)
        ],
    }  # fmt: skip


def stacked(blocks: tuple[Block, ...]) -> list[int]:
    """A height for each block at which it overlaps none that is alive with it: the lowest gap."""
    alive: list[tuple[int, Block]] = []  # by height
    found: list[int] = []
    for x in blocks:
        alive = [entry for entry in alive if entry[1].died >= x.born]
        at = 0
        for i, (height, other) in enumerate(alive):
            if height - at >= x.taken:
                alive.insert(i, (at, x))
                break
            at = max(at, height + other.taken)
        else:
            alive.append((at, x))
        found.append(at)
    return found
