"""Generates C++ for groups that need whole rows: reductions, norms, softmax and what is around.

A thread computes one row after the other, each in as many passes as reductions wait for each other;
the row stays in the cache between them. Sums are of blocks in the row's precision, and of those in
float64: that is as accurate as torch's sums by pairs. What is dear to compute is kept for the next
pass in memory of the thread's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lazytorch.ir import Graph
from lazytorch.lower.cpp.printer import LOCAL, MEMORY, CppPrinter, loaded, stored
from lazytorch.lower.expression import Expression, print_steps
from lazytorch.lower.kernel import NAME
from lazytorch.lower.rows import Line, Pass, Rows, RowWriter, passes
from lazytorch.lower.steps import Steps
from lazytorch.types import TensorType, dtype_named

DEAR = ("lt::exp", "lt::log", "lt::pow", "lt::tanh", "lt::erf", "lt::sin", "lt::cos", "lt::sigmoid")
"""Functions whose results are kept rather than computed again."""


class CppRowPrinter(RowWriter, CppPrinter):
    """Writes what needs whole rows in C++."""

    def integer(self, name: str) -> str:
        """A loop's variable as a 32-bit integer."""
        return f"int32_t({name})"

    def row_first(self, x: Expression) -> Expression:
        """The first element of each row."""
        return self.reduce("first", x)[0]

    def row_pick(self, x: Expression, place: Expression) -> Expression:
        """The element at a place, which alone is read for it."""
        return self.reduce("pick", x, more=(place,))[0]

    def primitive(
        self, name: str, operands: list[Expression], dtype: torch.dtype, result: torch.dtype
    ) -> str:
        """As for elements; an exponential of what is at most 0 is cheaper."""
        if name == "exp" and operands[0].code in self.nonpositive:
            name = "exp_nonpositive"
        return super().primitive(name, operands, dtype, result)


def row_source(
    steps: Steps,
    body: Graph,
    operands: tuple[TensorType, ...],
    outputs: tuple[TensorType, ...],
    rows: Rows,
    rounding: bool,
) -> str:
    """A tile of rows as a C++ function, and the exported function that launches it.

    The strides along the row count only as 0 (one number for the row), 1 (neighbours) or
    anything else, a run-time argument.
    """
    printer = CppRowPrinter(rounding)
    strides: list[str] = []
    pointers: list[str] = []
    types, along = (*operands, *outputs), rows.steps
    at = ["0" if s == 0 else "col" if s == 1 else f"col * s{k}" for k, s in enumerate(along)]
    for k, (x, step) in enumerate(zip(types, along, strict=True)):
        pointers.append(pointer(k, x, k >= len(operands)))
        if step not in (0, 1):
            strides.append(f"const int64_t s{k} = rest[{k + 1}];")
    write_group(printer, steps, body, operands, outputs, [f"p{k}[{x}]" for k, x in enumerate(at)])
    found, rest = passes(printer.written, lambda line: any(f in line.text for f in DEAR))
    kept = {x: i for i, x in enumerate(x for one in found for x in one.kept)}
    lines = [text for one in found for text in walked(one, kept)]
    memory = f"char* const memory = lt::scratch({len(kept)} * 8 * n);" if kept else ""
    return TEMPLATE.format(
        name=NAME,
        strides="\n    ".join(strides),
        memory=memory,
        pointers="\n        ".join(pointers),
        body="\n        ".join([*lines, *[line.text for line in rest]]),
    ) + exported(len(along), 1)


def pointer(k: int, x: TensorType, write: bool) -> str:
    """The declaration of where operand `k` begins in the rows at hand."""
    kind = MEMORY[x.dtype]
    const, restrict = ("", " *__restrict") if write else ("const ", "*")
    place = f"p[{k}] + r * row[{k}] + q * step[{k}]"
    return f"{const}{kind}{restrict} p{k} = ({const}{kind}*)({place});"


def write_group(
    printer: CppRowPrinter,
    steps: Steps,
    body: Graph,
    operands: tuple[TensorType, ...],
    outputs: tuple[TensorType, ...],
    places: Sequence[str],
) -> None:
    """Write a group's arithmetic, which loads and stores at `places`: operands, then outputs."""
    inputs = [
        printer.bind(loaded(at, x.dtype), x.dtype) for at, x in zip(places, operands, strict=False)
    ]
    given = dict(zip(body.inputs, inputs, strict=True))
    values = print_steps(printer, steps, [given[x] for x in steps.inputs()])
    for at, x, value in zip(places[len(operands) :], outputs, values, strict=True):
        printer.store(f"{at} = {stored(value.code, x.dtype)};")


def exported(count: int, together: int) -> str:
    """The function that launches a tile on `count` pointers, so many rows a thread at the least."""
    return EXPORTED.format(
        name=NAME,
        parameters=", ".join(f"void* p{k}" for k in range(count)),
        arguments=", ".join(f"p{k}" for k in range(count)),
        count=count,
        together=together,
    )


TEMPLATE = """
static void tile_{name}(char* const* p, const int64_t* step, const int64_t* row, int64_t rows,
                        int64_t size, const int64_t* rest) {{
    const int64_t n = rest[0];
    {strides}
    {memory}
    for (int64_t r = 0; r < rows; ++r) for (int64_t q = 0; q < size; ++q) {{
        {pointers}
        {body}
    }}
}}
"""

EXPORTED = """\
extern "C" void {name}(const int64_t* n, {parameters}) {{
    void* const p[] = {{{arguments}}};
    const int64_t* rest = n + 4 + n[3] + (2 + n[3]) * {count};
    lt::launch(tile_{name}, n, {count}, p, rest[0], {together});
}}
"""

INFINITY = {"float": "__builtin_inff()", "double": "__builtin_inf()"}
NAN = {"float": '__builtin_nanf("")', "double": '__builtin_nan("")'}


def walked(one: Pass, kept: dict[str, int]) -> list[str]:
    """One pass over a row, a block at a time."""
    lines = [line.text for line in one.before]
    head: list[str] = []  # before each block
    recalled = [f"const {kind(y)} {x} = {slot(x, y, kept)}[col];" for x, y in one.recalled.items()]
    values = [line.text for line in one.each if line.reduction is None and line.names]
    stores = [line for line in one.each if not line.names or one.kept.keys() & {*line.names}]
    loop = [*recalled]
    tail: list[str] = []  # behind each block
    after: list[str] = []  # behind the row
    clauses: list[str] = []
    for line in one.each:
        if line.reduction is None:
            loop.append(line.text)
            loop += [f"{slot(x, line, kept)}[col] = {x};" for x in line.names if x in one.kept]
            continue
        how, x = line.reduction[:2]
        (name,) = line.names
        local = LOCAL[dtype_named(line.text)]
        if how in ("pick", "first"):
            place = "0" if how == "first" else line.reduction[2]
            after += picked(name, local, x, place, [*recalled, *values])
        elif how == "sum":
            lines.append(f"double {name}_all = 0;")
            head.append(f"{local} {name}_part = 0;")
            clauses.append(f"reduction(+ : {name}_part)")
            loop.append(f"{name}_part += {x};")
            tail.append(f"{name}_all += {name}_part;")
            after.append(f"const {local} {name} = {name}_all;")
        elif how == "top":
            lines.append(f"{local} {name}_best = -{INFINITY[local]};")
            clauses.append(f"reduction(max : {name}_best)")
            loop.append(f"{name}_best = {x} > {name}_best ? {x} : {name}_best;")
            after.append(f"const {local} {name} = {name}_best;")
        else:
            sign, better = ("-", ">") if how == "max" else ("", "<")
            lines += [f"{local} {name}_best = {sign}{INFINITY[local]};", f"int {name}_nan = 0;"]
            clauses.append(f"reduction({how} : {name}_best) reduction(| : {name}_nan)")
            loop.append(f"{name}_best = {x} {better} {name}_best ? {x} : {name}_best;")
            loop.append(f"{name}_nan |= {x} != {x};")
            after.append(f"const {local} {name} = {name}_nan ? {NAN[local]} : {name}_best;")
    if not stores and not clauses:
        return [*lines, *after]
    return [
        *lines,
        "for (int64_t begin = 0; begin < n; begin += 1024) {",
        "    const int64_t end = begin + 1024 < n ? begin + 1024 : n;",
        *[f"    {text}" for text in head],
        " ".join(["#pragma omp simd", *clauses]),
        "    for (int64_t col = begin; col < end; ++col) {",
        *[f"        {text}" for text in loop],
        "    }",
        *[f"    {text}" for text in tail],
        "}",
        *after,
    ]


def picked(name: str, local: str, x: str, place: str, values: Sequence[str]) -> list[str]:
    """The element x at a place of the row; 0 where it is none of the row's."""
    return [
        f"{local} {name} = 0;",
        f"if ({place} >= 0 && {place} < n) {{",
        f"    const int64_t col = {place};",
        *[f"    {text}" for text in values],
        f"    {name} = {x};",
        "}",
    ]


def kind(line: Line) -> str:
    """The C++ type of the value that a line computes."""
    return line.text.split()[1]


def slot(name: str, line: Line, kept: dict[str, int]) -> str:
    """Where a value is kept for a later pass."""
    return f"(({kind(line)}*)(memory + {kept[name]} * 8 * n))"
