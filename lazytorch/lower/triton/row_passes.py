"""Writes passes over long rows in Triton's language: blocks in loops, several at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from lazytorch.lower.rows import Line
from lazytorch.lower.triton.printer import LOCAL
from lazytorch.lower.triton.row_printer import MASK, WIDE, everywhere
from lazytorch.lower.triton.rows import TritonRows
from lazytorch.types import dtype_named

WALK: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "sum": (
        ("{0} = tl.zeros([{shape}], {type})",),
        ("{0} += tl.where(mask, {x}, 0.0)",),
        ("{0} = lt.row_sum({0})",),
    ),
    "max": (
        ('{0} = tl.full([{shape}], float("-inf"), {type})',),
        ('{0} = lt.larger({0}, tl.where(mask, {x}, float("-inf")))',),
        ("{0} = lt.row_max({0})",),
    ),
    "min": (
        ('{0} = tl.full([{shape}], float("inf"), {type})',),
        ('{0} = lt.smaller({0}, tl.where(mask, {x}, float("inf")))',),
        ("{0} = lt.row_min({0})",),
    ),
    "moments": (
        ("{0} = tl.zeros([{shape}], {type})", "{1} = tl.zeros([{shape}], {type})"),
        ("{0}, {1} = lt.add_moments({0}, {1}, {x} - {0}_base, mask)",),
        (
            "{0}, {1} = lt.join_moments("
            "{0}_base, {0}, {1}, ({end} - first - 1) // {block} + {begun}, n)",
        ),
    ),
    "exp_sum": (
        (
            '{0} = tl.full([{shape}], float("-inf"), {type})',
            "{1} = tl.zeros([{shape}], {type})",
        ),
        ("{0}, {1} = lt.add_exp({0}, {1}, {1}_base, {x}, mask)",),
        (
            "{0} = lt.row_max({0})",
            "{1} = lt.row_sum({1})",
            "{1}_far = lt.any_far({0}, {1}, {1}_base)",
            "{1} = {1} * lt.exp_near({1}_base - lt.finite({0}))",
        ),
    ),
}
"""How it is written where the row is walked: before the loop, in it, and behind it."""

AT_FIRST = {
    "exp_sum": "{1}_base = lt.first_base({x}, mask)",
    "moments": "{0}_base = tl.where(mask, {x}, 0.0)",
}
"""What the first block of a row is asked for before."""


def walked(before: Sequence[Line], each: Sequence[Line], walk: TritonRows) -> list[str]:
    """One pass over a long row: its first block, then several at a time, and what is left.

    Only in the first and the last blocks there may be elements that are none of the row's.
    """
    size, end = walk.block, end_of(walk)
    stride = walk.ahead * size
    lines = [line.text for line in before]
    lines += [text for line in each for text in reduced(line, walk, 0)]
    behind: list[str] = []
    if walk.even:
        lines += several(each, walk, "0", first=True)
        begin = left = str(stride)
    else:
        begin, left = str(size), "left"
        lines.append(f"left = {size} + ({end} - {size}) // {stride} * {stride}")
        if walk.stages:
            loads, behind = last(each, walk)
            lines += loads
        else:
            behind = blocks(each, walk, left, end)
        lines += [*placed(walk, "0"), f"mask = {walk.inside}"]
        for line in each:
            texts = [*at_first(line), *in_block(line, walk, "0")]
            lines += [in_memory(text, walk) for text in texts]
    bounds = f"{begin}, {'n' if walk.even else left}, {stride}"
    staged = f"tl.range({bounds}, num_stages={walk.stages})"
    lines.append(f"for start in {staged if walk.stages else f'range({bounds})'}:")
    lines += [f"    {text}" for text in several(each, walk, "start")]
    return [*lines, *behind, *[x for y in each for x in reduced(y, walk, 2)], *again(each, walk)]


def in_memory(text: str, walk: TritonRows) -> str:
    """A statement for the first block, all of which can be read: it is the row's, or, from an
    aligned place, that of the row before, too."""
    if "tl.load(" not in text or walk.rows.size < walk.block or walk.together > 1:
        return text
    before = walk.touching and "down + at" in text
    return MASK.sub("", text) if before or walk.shifted is None else text


def last(each: Sequence[Line], walk: TritonRows) -> tuple[list[str], list[str]]:
    """The last block of a row: its loads, which are on their way while the others are computed
    with, and the rest."""
    wide = {"col", "at", "mask"} | {
        x for line in each if line.reduction is None for x in line.names
    }
    own = partial(numbered, wide=wide, suffix="_end")
    lines = [*placed(walk, "left", "_end"), f"mask_end = {WIDE.sub(own, walk.inside)}"]
    loads = [line for line in each if "tl.load(" in line.text]
    lines += [WIDE.sub(own, line.text) for line in loads]
    others = [line for line in each if line not in loads]
    return lines, [WIDE.sub(own, text) for x in others for text in in_block(x, walk, "left")]


def at_first(line: Line) -> list[str]:
    """What the first block of a row is asked for."""
    kind, *codes = line.reduction or ("", "")
    return [AT_FIRST[kind].format(*line.names, x=codes[0])] if kind in AT_FIRST else []


def several(each: Sequence[Line], walk: TritonRows, begin: str, first: bool = False) -> list[str]:
    """The statements for the blocks of one step whose elements are all the row's."""
    starts = [f"({begin} + {u * walk.block})" for u in range(walk.ahead)]
    lines = [text for u, start in enumerate(starts) for text in placed(walk, start, f"_{u}")]
    wide = {"col", "at"} | {x for line in each if line.reduction is None for x in line.names}
    loads = [line for line in each if "tl.load(" in line.text]
    for part in (loads, [line for line in each if line not in loads]):
        for u, start in enumerate(starts):
            own = partial(numbered, wide=wide, suffix=f"_{u}")
            for line in part:
                texts = [*(at_first(line) if first and not u else ()), *in_block(line, walk, start)]
                lines += [WIDE.sub(own, everywhere(text, walk)) for text in texts]
    return lines


def blocks(each: Sequence[Line], walk: TritonRows, begin: str, end: str) -> list[str]:
    """A loop over blocks in which some elements may be none of the row's."""
    body = [*placed(walk, "start"), f"mask = {walk.inside}"]
    body += [text for line in each for text in in_block(line, walk, "start")]
    head = f"for start in range({begin}, {end}, {walk.block}):"
    return [head, *[f"    {text}" for text in body]]


def in_block(line: Line, walk: TritonRows, start: str) -> list[str]:
    """A line of a loop over blocks."""
    return [line.text] if line.reduction is None else reduced(line, walk, 1, start)


def reduced(line: Line, walk: TritonRows, part: int, start: str = "start") -> list[str]:
    """The statements of a reduction before the loops, in them, or behind."""
    if line.reduction is None:
        return []
    kind, x = line.reduction[:2]
    shifted = walk.shifted is not None
    return [
        text.format(
            *line.names,
            x=x,
            type=LOCAL[dtype_named(line.text)],
            shape=f"{walk.together}, {walk.block}",
            block=walk.block,
            start=start,
            end=end_of(walk),
            begun="(first >= shift).to(tl.int32)" if shifted else "1",
        )
        for text in WALK[kind][part]
    ]


def end_of(walk: TritonRows) -> str:
    """Where a row ends, counted from where it is read."""
    return "n" if walk.shifted is None else "n + shift"


def again(each: Sequence[Line], walk: TritonRows) -> list[str]:
    """What is read once more behind a pass: all blocks, where the first guess at a maximum of
    exponentials was far from it.

    The guess is the largest of the first block, which is nearly always near. What else the pass
    makes, sums and stores, is there already.
    """
    lines: list[str] = []
    values = [line for line in each if line.reduction is None and line.names]
    for line in each:
        kind, *codes = line.reduction or ("",)
        if kind == "exp_sum":
            largest, total = line.names
            lines += [
                f"if {total}_far:",
                f"    {total}_sum = tl.zeros([{walk.together}, {walk.block}], {total}.dtype)",
                *[f"    {text}" for text in blocks(values, walk, "0", end_of(walk))],
                f"        {total}_sum += lt.exp_from({largest}, {codes[0]}, mask)",
                f"    {total} = lt.row_sum({total}_sum)",
            ]
    return lines


def placed(walk: TritonRows, start: str, suffix: str = "") -> list[str]:
    """Statements that say where the elements of the block at `start` are."""
    if walk.shifted is None:
        return [f"col{suffix} = {start} + first"]
    return [f"at{suffix} = {start} + first", f"col{suffix} = at{suffix} - shift"]


def numbered(found: re.Match[str], wide: set[str], suffix: str) -> str:
    """A name, and its piece where each piece has its own."""
    return found[0] + suffix if found[0] in wide else found[0]
