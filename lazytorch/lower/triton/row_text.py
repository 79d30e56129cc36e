"""Writes the statements of kernels over whole rows in Triton's language.

A program finds its rows, loads them, computes and stores: a whole row in registers as one block or
in pieces here, a longer one in passes (`row_passes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from lazytorch.lower.expression import Expression, print_steps
from lazytorch.lower.rows import Line, passes
from lazytorch.lower.steps import Bound, Steps
from lazytorch.lower.triton.printer import stored
from lazytorch.lower.triton.row_passes import numbered, placed, walked
from lazytorch.lower.triton.row_printer import WIDE, TritonRowPrinter, everywhere
from lazytorch.lower.triton.rows import ALIGNED, TritonRows
from lazytorch.types import TensorType

HOLD = {
    "sum": ("tl.where(mask, {x}, 0.0)", "{0} + {1}", "lt.row_sum({0})"),
    "max": ('tl.where(mask, {x}, float("-inf"))', "lt.larger({0}, {1})", "lt.row_max({0})"),
    "top": (
        'tl.where(mask, {x}, float("-inf"))',
        "tl.maximum({0}, {1})",
        "tl.max({0}, 1, keep_dims=True)",
    ),
    "min": ('tl.where(mask, {x}, float("inf"))', "lt.smaller({0}, {1})", "lt.row_min({0})"),
}
"""How a reduction is written where the row is in registers: of a piece what counts, two pieces in
one, and then the row."""


def row_statements(
    found: Steps,
    outputs: Sequence[TensorType],
    walk: TritonRows,
    rounding: bool,
) -> list[str]:
    """Statements that find a program's rows, load, compute and store them."""
    printer = TritonRowPrinter(walk, outputs, rounding)
    inputs = printer.operands(found.inputs(), lambda r: f"tl.load({walk.place(r)}{walk.mask(r)})")

    def inside(bounds: tuple[Bound, ...]) -> Expression:
        return printer.bind(" & ".join(walk.given.condition(bounds, walk.index)), torch.bool)

    places = [walk.element(printer, r) for r in walk.given.places]
    values = print_steps(printer, found, inputs, inside, places)
    for r, (x, value) in enumerate(zip(outputs, values, strict=True), len(walk.given.reads)):
        code = stored(value.code, x.dtype)
        printer.store(f"tl.store({walk.place(r)}, {code}{walk.mask(r)})")
    lines = [
        *found_rows(walk),
        "everywhere = tl.full([1, 1], 1, tl.int1)",
        "origin = tl.zeros([1, 1], tl.int32)",
    ]
    if walk.pieces == 1:
        lines.append(f"col = tl.arange(0, {walk.block})[None, :]")
        texts = [held(line) for line in printer.written]
        if walk.full(0):
            return lines + [everywhere(text, walk) for text in texts]
        return [*lines, f"mask = {walk.inside}", *texts]
    lines.append(f"first = tl.arange(0, {walk.block})[None, :]")
    if walk.pieces:
        return lines + in_pieces(printer.written, walk)
    if walk.wide:  # as the loop's variable is, which is added to it
        lines.append("first = first.to(tl.int64)")
    each, rest = passes(printer.written)
    for i, one in enumerate(each):
        policy = "first" if i == len(each) - 1 else "last"
        again = f', eviction_policy="evict_{policy}"'
        lines += [text.replace("{again}", again) for text in walked(one.before, one.each, walk)]
    return lines + [line.text for line in rest]


def found_rows(walk: TritonRows) -> list[str]:
    """Statements that find the index in every outer loop of a program's rows."""
    pid = "tl.program_id(0)"
    pid = f"(tl.zeros([1, 1], tl.int64) + {pid})" if walk.wide else pid
    lines = [f"rest = {pid} * {walk.together} + tl.arange(0, {walk.together})[:, None]"]
    if walk.together > 1:
        lines.append("there = rest < rows")
    for d in range(len(walk.rows.outer.sizes) - 1, 0, -1):
        lines += [f"i{d} = rest % n{d}", f"rest = rest // n{d}"]
    lines.append("i0 = rest")
    if walk.shifted is not None:
        lines += [
            f"begin = {' + '.join(walk.row(walk.shifted))}",
            f"down = begin // {ALIGNED} * {ALIGNED}",
            "shift = lt.alone(begin - down)",
        ]
    return lines


def held(line: Line) -> str:
    """A line where the whole row is one block in registers."""
    if line.reduction is None:
        return line.text
    kind, x = line.reduction[:2]
    piece, _, row = HOLD[kind]
    return f"{line.names[0]} = {row.format(piece.format(x=x))}"


def in_pieces(written: Sequence[Line], walk: TritonRows) -> list[str]:
    """Lines where the row is in registers in pieces: each value is made when it is first needed.

    All of what the first reductions need is loaded before anything is computed with it.
    """
    lines: list[str] = []
    for p in range(walk.pieces):
        lines += placed(walk, str(p * walk.block), f"_{p}")
        if not walk.full(p):
            lines.append(f"mask_{p} = {walk.inside.replace('col', f'col_{p}')}")
    wide = {"col", "at", "mask"}
    each, rest = passes(written, lambda line: line.reduction is None)
    for i, one in enumerate(each):
        wide |= {x for line in one.each if line.reduction is None for x in line.names}
        loads = [line for line in one.each if i == 0 and "tl.load(" in line.text]
        others = [line for line in one.each if line not in loads]
        first, then = parted(one.before, loads)
        for before, part in ((first, loads), (then, others)):
            lines += [line.text for line in before]
            lines += [
                text for p in range(walk.pieces) for x in part for text in piece(x, p, walk, wide)
            ]
        for line in one.each:
            if line.reduction is not None:
                row = HOLD[line.reduction[0]][2]
                lines.append(f"{line.names[0]} = {row.format(line.names[0])}")
    return lines + [line.text for line in rest]


def parted(before: Sequence[Line], loads: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """What loads wait for, and the rest."""
    needed = {x for line in loads for x in line.reads}
    first: list[Line] = []
    for line in reversed(before):
        if not needed.isdisjoint(line.names):
            first.insert(0, line)
            needed.update(line.reads)
    return first, [line for line in before if line not in first]


def piece(line: Line, p: int, walk: TritonRows, wide: set[str]) -> list[str]:
    """A line for one piece of the row."""

    own = partial(numbered, wide=wide, suffix=f"_{p}")
    if line.reduction is None:
        return [WIDE.sub(own, everywhere(line.text, walk) if walk.full(p) else line.text)]
    (name,), (kind, x) = line.names, line.reduction[:2]
    counts, joined, _ = HOLD[kind]
    counted = counts.format(x=x)
    text = WIDE.sub(own, everywhere(counted, walk) if walk.full(p) else counted)
    return [f"{name} = {joined.format(name, text) if p else text}"]
