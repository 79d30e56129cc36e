"""Writes the statements of kernels over whole rows in Triton's language.

`col` is the place in the row, `at` the place counted from where a shifted row is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

import torch

from lazytorch.lower.expression import HALVES, Expression, print_steps
from lazytorch.lower.rows import Line, RowWriter, passes, words
from lazytorch.lower.steps import Bound, Steps
from lazytorch.lower.triton.printer import LOCAL, TritonPrinter, stored
from lazytorch.lower.triton.rows import ALIGNED, TritonRows
from lazytorch.types import TensorType, dtype_named

MASK = re.compile(r"(,| &) mask\b")
"""What asks in a load or store for the row's own elements."""

WIDE = re.compile(r"\b(?:v\d+|x\d+|col|at|mask)\b")
"""Names that each piece of a row may have of its own."""


class TritonRowPrinter(RowWriter, TritonPrinter):
    """Writes what needs whole rows in Triton's language."""

    def __init__(self, walk: TritonRows, outputs: Sequence[TensorType], rounding: bool) -> None:
        super().__init__(rounding)
        self.short = all(x.dtype in HALVES for x in outputs)
        self.walk = walk

    def integer(self, name: str) -> str:
        """A loop's variable as a 32-bit integer."""
        return f"({name}).to(tl.int32)"

    def primitive(
        self, name: str, operands: list[Expression], dtype: torch.dtype, result: torch.dtype
    ) -> str:
        """As for elements; of an exponential that is at most 1, 16 bits keep what one
        instruction gives."""
        x = operands[0].code
        if name == "exp" and x in self.nonpositive and self.short and not self.rounding:
            return f"lt.exp_near({x})"
        return super().primitive(name, operands, dtype, result)

    def row_first(self, x: Expression) -> Expression:
        """The first element, by lines of their own that compute it at the row's `origin`: they wait
        for no pass. Where numbers are drawn, which is done for blocks of them, 0 instead."""
        wide, needed = {"col", "at"}, set(words(x.code))
        for line in self.written:
            if line.reduction is None and not wide.isdisjoint(line.reads):
                wide.update(line.names)
        lines: list[Line] = []
        for line in reversed(self.written):
            if not needed.isdisjoint(line.names) and not wide.isdisjoint(line.names):
                lines.insert(0, line)
                needed.update(line.reads)
        if any("lt.drawn_below(" in line.text for line in lines):
            return Expression(self, "0.0", x.dtype, 0.0)
        own = {"col": "origin", "at": "shift"}
        own |= {y: f"v{self.count + i}" for i, line in enumerate(lines) for y in line.names}
        self.count += len(lines)
        for line in lines:
            text = WIDE.sub(lambda y: own.get(y[0], y[0]), everywhere(line.text, self.walk))
            reads = [own.get(y, y) for y in line.reads if y not in ("col", "at")]
            self.written.append(Line((own[line.names[0]],), text, tuple(reads)))
        return Expression(self, WIDE.sub(lambda y: own.get(y[0], y[0]), x.code), x.dtype)

    def row_moments(self, x: Expression) -> tuple[Expression, Expression]:
        """Mean and variance; of a long row both in one pass."""
        if self.walk.held:
            return super().row_moments(x)
        mean, variance = self.reduce("moments", x, 2)
        return mean, variance

    def row_exp_sum(self, x: Expression) -> tuple[Expression, Expression]:
        """The maximum m and the sum of exp(x - m); of a long row both in one pass."""
        if self.walk.held:
            return super().row_exp_sum(x)
        largest, total = self.reduce("exp_sum", x, 2)
        return largest, total

    def row_pick(self, x: Expression, place: Expression) -> Expression:
        """The element at a place; of a long row only the block that has it is read for it."""
        if self.walk.held or self.walk.together > 1:
            return super().row_pick(x, place)
        return self.reduce("pick", x, more=(place,))[0]


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
    "pick": ((), (), ()),
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
    lines = [*found_rows(walk), "everywhere = tl.full([1, 1], 1, tl.int1)"]
    lines.append("origin = tl.zeros([1, 1], tl.int32)")
    if walk.pieces == 1:
        lines.append(f"col = tl.arange(0, {walk.block})[None, :]")
        texts = [held(line) for line in printer.written]
        if walk.full(0):
            return lines + [everywhere(text, walk) for text in texts]
        return [*lines, f"mask = {walk.inside}", *texts]
    lines.append(f"first = tl.arange(0, {walk.block})[None, :]")
    if walk.pieces:
        return lines + in_pieces(printer.written, walk)
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


def numbered(found: re.Match[str], wide: set[str], suffix: str) -> str:
    """A name, and its piece where each piece has its own."""
    return found[0] + suffix if found[0] in wide else found[0]


def everywhere(text: str, walk: TritonRows) -> str:
    """A statement for a block whose elements are all the row's."""
    if "tl.load(" in text or "tl.store(" in text:
        text = MASK.sub(r"\1 there" if walk.together > 1 else "", text)
    return re.sub(r"\bmask\b", "everywhere", text)


def placed(walk: TritonRows, start: str, suffix: str = "") -> list[str]:
    """Statements that say where the elements of the block at `start` are."""
    if walk.shifted is None:
        return [f"col{suffix} = {start} + first"]
    return [f"at{suffix} = {start} + first", f"col{suffix} = at{suffix} - shift"]


def walked(before: Sequence[Line], each: Sequence[Line], walk: TritonRows) -> list[str]:
    """One pass over a long row: its first block, then several at a time, and what is left.

    Only in the first and the last blocks there may be elements that are none of the row's.
    """
    size, end = walk.block, end_of(walk)
    stride = walk.ahead * size
    lines = [line.text for line in before]
    lines += [text for line in each for text in reduced(line, walk, 0)]
    if walk.even:
        lines += several(each, walk, "0", first=True)
        begin = left = str(stride)
    else:
        lines += [*placed(walk, "0"), f"mask = {walk.inside}"]
        for line in each:
            lines += [*at_first(line), *in_block(line, walk, "0")]
        begin, left = str(size), "left"
        lines.append(f"left = {size} + ({end} - {size}) // {stride} * {stride}")
    bounds = f"{begin}, {'n' if walk.even else left}, {stride}"
    staged = f"tl.range({bounds}, num_stages={walk.stages})"
    lines.append(f"for start in {staged if walk.stages else f'range({bounds})'}:")
    lines += [f"    {text}" for text in several(each, walk, "start")]
    if not walk.even:
        lines += blocks(each, walk, left, end)
    return [*lines, *[x for y in each for x in reduced(y, walk, 2)], *again(each, walk)]


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
    """What is read once more behind a pass: the block with an element that was asked for, and all
    blocks where the first guess at a maximum of exponentials was far from it.

    The guess is the largest of the first block, which is nearly always near. What else the pass
    makes, sums and stores, is there already.
    """
    lines: list[str] = []
    values = [line for line in each if line.reduction is None and line.names]
    for line in each:
        kind, *codes = line.reduction or ("",)
        if kind == "pick":
            (name,), (x, place) = line.names, codes
            shift = " + shift" if walk.shifted is not None else ""
            lines += [
                f"{name}_from = (lt.alone({place}){shift}) // {walk.block} * {walk.block}",
                *placed(walk, f"{name}_from"),
                f"mask = {walk.inside}",
                *[value.text for value in values],
                f"{name} = lt.row_sum(tl.where(mask & (col == {place}), {x}, 0.0))",
            ]
        elif kind == "exp_sum":
            largest, total = line.names
            lines += [
                f"if {total}_far:",
                f"    {total}_sum = tl.zeros([{walk.together}, {walk.block}], {total}.dtype)",
                *[f"    {text}" for text in blocks(values, walk, "0", end_of(walk))],
                f"        {total}_sum += lt.exp_from({largest}, {codes[0]}, mask)",
                f"    {total} = lt.row_sum({total}_sum)",
            ]
    return lines
