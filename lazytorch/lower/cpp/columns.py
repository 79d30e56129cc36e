"""Generates C++ for rows that begin beside each other in memory: columns of a matrix, channels.

A thread computes many of them at once, one in each lane: it walks along all of them together, so
that what lies side by side is read side by side. Short rows that lie one after the other are put
side by side in a buffer first. What there is of each row, sums and largest elements among it, is an
array with a place for each lane. Sums are of blocks in the row's precision, and of those in
float64. Every pass reads its operands again.
"""

from __future__ import annotations

from collections.abc import Iterable

from lazytorch.ir import Graph
from lazytorch.lower.cpp.blocks import simd_loop
from lazytorch.lower.cpp.printer import LOCAL, MEMORY
from lazytorch.lower.cpp.rows import (
    INFINITY,
    NAN,
    CppLines,
    exported,
    kind,
    pointer,
    write_group,
)
from lazytorch.lower.expression import Expression
from lazytorch.lower.kernel import NAME
from lazytorch.lower.rows import Line, Pass, Rows, passes
from lazytorch.lower.steps import Steps
from lazytorch.ops.base import Rowwise
from lazytorch.types import TensorType, dtype_named

LANES = 512
"""Rows that a thread walks along at the most: of float32 half a page of each place."""

UNIT = 16
"""Rows that threads share their work by: of float32 a cache line."""

PART = 64
"""Elements of a row that are summed before the sum is added to the others."""

TOGETHER = 4
"""Places of a row that are read before a sum goes back into its array; of a row that was turned
one, which takes less code."""

SHORT, SUMS = 64, 24
"""Elements of a row up to which rows are turned: put beside each other, so that a vector holds an
element of each; and up to which that is worth it for rows of 4 bytes an element and more that are
only summed."""

TURNED = "n < 16 ? 256 : 4096 / n / 16 * 16"
"""Rows that a thread turns at a time: of float32 some 16 KiB, and always whole vectors."""

EVEN = 80
"""Elements of a row that take as long in a lane as alone, where no lane is empty."""

ENOUGH = 128
"""Rows of the innermost loop from which on no other is better shared out to lanes."""


def lane_loop(rows: Rows) -> int:
    """The loop over rows whose steps are lanes: the innermost, or of short rows, where few follow
    each other before another operand begins again, the longest."""
    sizes, last = rows.outer.sizes, len(rows.outer.sizes) - 1
    lie = zip(rows.steps, rows.outer.strides, strict=True)
    across = any(step > 1 and strides[last] == 1 for step, strides in lie)
    if rows.size > SHORT or across or sizes[last] >= ENOUGH:
        return last
    return max(range(len(sizes)), key=lambda d: (sizes[d], d))


def in_lanes(rows: Rows, body: Graph) -> bool:
    """Whether many rows are better computed at a time, one in each lane, than one by one."""
    return beside(rows, len(body.inputs)) or short(rows, body)


def short(rows: Rows, body: Graph) -> bool:
    """Whether rows are better turned than walked one by one: short ones, many one after the
    other."""
    lane = lane_loop(rows)
    strides = [s[lane] for s in rows.outer.strides]
    simple = all(x in (0, 1) or s == 1 for x, s in zip(rows.steps, strides, strict=True))
    reads = len(body.inputs)
    types = [x.type for x in (*body.inputs, *body.outputs) if isinstance(x.type, TensorType)]
    summed = not any(rows.steps[reads:]) and min(x.dtype.itemsize for x in types) > 2
    summed &= not any(isinstance(x.op, Rowwise) and x.op.extreme for x in body.nodes)
    most, count = SUMS if summed else SHORT, rows.outer.sizes[lane]
    left = count % UNIT
    vectors = count // UNIT + (min(left, 1) if padded(rows) else left)
    worth = count * EVEN >= rows.size * vectors * UNIT
    return rows.size <= most and count >= UNIT and worth and simple


def turned(rows: Rows, k: int) -> bool:
    """Whether operand k of a kernel that computes rows in lanes is turned for it: its rows are
    short, and lie one after the other."""
    across = rows.outer.strides[k][lane_loop(rows)]
    return rows.size <= SHORT and rows.steps[k] == 1 and across > 1


def padded(rows: Rows) -> bool:
    """Whether all that differs between rows is turned: then lanes that are no rows may be computed
    too, to make up whole vectors, as they are but in the buffers."""
    lane, count = lane_loop(rows), len(rows.steps)
    return all(turned(rows, k) or not rows.outer.strides[k][lane] for k in range(count))


def beside(rows: Rows, reads: int) -> bool:
    """Whether rows begin beside each other in what is read, the first `reads` operands, and in all
    that is written of whole rows."""
    last = len(rows.outer.sizes) - 1
    across = [strides[last] == 1 for strides in rows.outer.strides]
    return (
        rows.outer.sizes[last] >= UNIT
        and any(across[k] and rows.steps[k] > 1 for k in range(reads))
        and all(across[k] or not rows.steps[k] for k in range(reads, len(across)))
    )


class CppColumnPrinter(CppLines):
    """Writes what rows in lanes need."""

    def row_near(self, x: Expression) -> Expression:
        """The first element of each row."""
        return self.reduce("first", x)[0]


def column_source(
    steps: Steps,
    body: Graph,
    operands: tuple[TensorType, ...],
    outputs: tuple[TensorType, ...],
    rows: Rows,
    rounding: bool,
) -> str:
    """A tile of rows as a C++ function, and the exported function that launches it.

    Strides count only as 0, 1 or anything else, a run-time argument: along the row, and from one
    row to the next.
    """
    printer = CppColumnPrinter(rounding)
    lane = lane_loop(rows)
    strides: list[str] = []
    pointers: list[str] = []
    places: list[str] = []
    behind: list[str] = []
    width = 0  # bytes of a place of each row in buffers before
    for k, x in enumerate((*operands, *outputs)):
        kind, write = MEMORY[x.dtype], k >= len(operands)
        pointers.append(pointer(k, x, write))
        if turned(rows, k):
            buffer = f"{kind}* __restrict t{k} = ({kind}*)(memory + lanes * n * {width});"
            pointers.append(buffer)
            places.append(f"t{k}[col * lanes + lane]")
            width += x.dtype.itemsize
            if write:
                size, step = f"lanes * sizeof({kind})", f"step[{k}] / int64_t(sizeof({kind}))"
                behind.append(f"lt::beside(t{k}, {size}, count, n, p{k}, {step});")
            else:
                pointers.append(f"lt::beside(p{k}, step[{k}], n, count, t{k}, lanes);")
            continue
        along, across = rows.steps[k], rows.outer.strides[k][lane]
        if along not in (0, 1):
            strides.append(f"const int64_t s{k} = rest[{k + 1}];")
        if across not in (0, 1):
            strides.append(f"const int64_t l{k} = step[{k}] / int64_t(sizeof({kind}));")
        place = " + ".join([*term("col", along, f"s{k}"), *term("lane", across, f"l{k}")]) or "0"
        places.append(f"p{k}[{place}]")
    write_group(printer, steps, body, operands, outputs, places)
    found, rest = passes(printer.written)
    lanes = Lanes(1 if width else TOGETHER)
    lines = [text for one in found for text in lanes.walked(one)]
    lines += lanes.once(rest)
    return TEMPLATE.format(
        name=NAME,
        lanes=TURNED if width else LANES,
        vectors=f"(count + {UNIT - 1}) / {UNIT} * {UNIT}" if padded(rows) else "count",
        memory=f"char* const memory = lt::scratch(lanes * n * {width});" if width else "",
        strides="\n    ".join(strides),
        arrays="\n    ".join(lanes.arrays),
        pointers="\n        ".join(pointers),
        body="\n        ".join([*lines, *behind]),
    ) + exported(len(places), UNIT)


def term(name: str, stride: int, variable: str) -> list[str]:
    """What a loop's variable adds to a place."""
    return [] if stride == 0 else [name] if stride == 1 else [f"{name} * {variable}"]


TEMPLATE = """
static void tile_{name}(char* const* p, const int64_t* step, const int64_t* row, int64_t rows,
                        int64_t size, const int64_t* rest) {{
    const int64_t n = rest[0];
    {strides}
    const int64_t lanes = {lanes};
    {memory}
    {arrays}
    for (int64_t r = 0; r < rows; ++r) for (int64_t q = 0; q < size; q += lanes) {{
        const int64_t count = size - q < lanes ? size - q : lanes;
        const int64_t m = {vectors};
        {pointers}
        {body}
    }}
}}
"""


class Lanes:
    """The arrays of what there is of each row, and the loops that fill and read them."""

    def __init__(self, together: int) -> None:
        self.together = together
        self.arrays: list[str] = []
        self.types: dict[str, str] = {}

    def array(self, name: str, local: str) -> str:
        """An array with a place for each lane; the place."""
        self.arrays.append(f"alignas(64) {local} {name}[{LANES}];")
        return f"{name}[lane]"

    def value(self, name: str, local: str) -> str:
        """The place of a row's own value, which the lines that read it find by its name."""
        self.types[name] = local
        return self.array(f"{name}_of", local)

    def read(self, lines: Iterable[Line]) -> list[str]:
        """The rows' own values that lines read, by name."""
        names = dict.fromkeys(x for line in lines for x in line.reads if x in self.types)
        return [f"const {self.types[x]} {x} = {x}_of[lane];" for x in names]

    def once(self, lines: list[Line]) -> list[str]:
        """What is computed once for each row."""
        before = self.read(lines)
        texts: list[str] = []
        for line in lines:
            texts.append(line.text)
            texts += [f"{self.value(x, kind(line))} = {x};" for x in line.names]
        return loop([*before, *texts])

    def walked(self, one: Pass) -> list[str]:
        """One pass along the rows, some places at a time."""
        lines = self.once(one.before)
        start: list[str] = []  # before the pass
        head: list[str] = []  # before each block
        load: list[str] = []  # before some places of a row
        body: list[str] = []  # at each of them
        save: list[str] = []  # behind them
        tail: list[str] = []  # behind each block
        firsts: list[str] = []  # before the pass, at the first place
        values = [line.text for line in one.each if line.reduction is None and line.names]
        for line in one.each:
            if line.reduction is None:
                body.append(line.text)
                continue
            how, x = line.reduction[:2]
            (name,) = line.names
            local = LOCAL[dtype_named(line.text)]
            if how == "first":
                firsts.append(f"{self.value(name, local)} = {x};")
                continue
            if how == "sum":
                part, whole = self.array(f"{name}_part", local), self.array(f"{name}_all", "double")
                start.append(f"{whole} = 0;")
                head.append(f"{part} = 0;")
                load.append(f"{local} {name}_sum = {part};")
                body.append(f"{name}_sum += {x};")
                save.append(f"{part} = {name}_sum;")
                tail.append(f"{whole} += {part};")
                continue
            sign, better = ("", "<") if how == "min" else ("-", ">")
            best = self.array(f"{name}_best", local)
            start.append(f"{best} = {sign}{INFINITY[local]};")
            load.append(f"{local} {name}_top = {best};")
            body.append(f"{name}_top = {x} {better} {name}_top ? {x} : {name}_top;")
            save.append(f"{best} = {name}_top;")
            if how != "top":
                seen = self.array(f"{name}_nan", local)
                start.append(f"{seen} = 0;")
                load.append(f"{local} {name}_odd = {seen};")
                body.append(f"{name}_odd = {x} != {x} ? {x} : {name}_odd;")
                save.append(f"{seen} = {name}_odd;")
        known = self.read(one.each)
        if firsts:
            lines += loop([*known, "const int64_t col = 0;", *values, *firsts])
        if not start and all(line.names for line in one.each):  # nothing is summed or stored
            return lines
        load = [*known, *load]
        blocks: list[str] = []
        for count in dict.fromkeys((self.together, 1)):
            blocks += [
                f"for (; first + {count} <= end; first += {count}) {{",
                *indented(loop([*load, *places(body, count), *save])),
                "}",
            ]
        return [
            *lines,
            *loop(start),
            f"for (int64_t begin = 0; begin < n; begin += {PART}) {{",
            f"    const int64_t end = begin + {PART} < n ? begin + {PART} : n;",
            *indented(loop(head)),
            "    int64_t first = begin;",
            *indented(blocks),
            *indented(loop(tail)),
            "}",
            *self.results(one),
        ]

    def results(self, one: Pass) -> list[str]:
        """What a pass found of each row."""
        texts: list[str] = []
        for line in one.each:
            if line.reduction is None or line.reduction[0] == "first":
                continue
            (name,) = line.names
            local = LOCAL[dtype_named(line.text)]
            found = f"{name}_best[lane]"
            if line.reduction[0] == "sum":
                found = f"{name}_all[lane]"
            elif line.reduction[0] != "top":
                found = f"{name}_nan[lane] != {name}_nan[lane] ? {NAN[local]} : {found}"
            texts.append(f"{self.value(name, local)} = {found};")
        return loop(texts)


def places(body: list[str], count: int) -> list[str]:
    """What is done at so many places of a row, from `first` on."""
    return [
        f"#pragma GCC unroll {count}",
        f"for (int64_t col = first; col < first + {count}; ++col) {{",
        *indented(body),
        "}",
    ]


def loop(texts: list[str]) -> list[str]:
    """A loop over the lanes; none where there is nothing to do."""
    return simd_loop("lane", "0", "m", texts) if texts else []


def indented(texts: list[str]) -> list[str]:
    """Lines one level further in."""
    return [f"    {text}" for text in texts]
