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
from lazytorch.lower.cpp.blocks import in_blocks, simd_loop
from lazytorch.lower.cpp.printer import LOCAL, MEMORY, CppPrinter, loaded
from lazytorch.lower.expression import Expression, print_steps
from lazytorch.lower.kernel import NAME
from lazytorch.lower.rows import Line, Pass, Rows, RowWriter, passes
from lazytorch.lower.steps import Steps
from lazytorch.types import TensorType, dtype_named

DEAR = ("lt::exp", "lt::log", "lt::pow", "lt::tanh", "lt::erf", "lt::sin", "lt::cos", "lt::sigmoid")
"""Functions whose results are kept rather than computed again."""


class CppLines(RowWriter, CppPrinter):
    """Writes what any loop over rows needs in C++."""

    def integer(self, name: str) -> str:
        """A loop's variable as a 32-bit integer."""
        return f"int32_t({name})"

    def primitive(
        self, name: str, operands: list[Expression], dtype: torch.dtype, result: torch.dtype
    ) -> str:
        """As for elements; an exponential of what is at most 0 is cheaper."""
        if name == "exp" and operands[0].code in self.nonpositive:
            name = "exp_nonpositive"
        return super().primitive(name, operands, dtype, result)


class CppRowPrinter(CppLines):
    """Writes what one row after the other needs."""

    def row_near(self, x: Expression) -> Expression:
        """The mean of the first elements of each row."""
        return self.reduce("near", x)[0]

    def row_moments(self, x: Expression) -> tuple[Expression, Expression]:
        """Mean and variance, both in one pass, or in one more where the mean is far from 0."""
        mean, variance = self.reduce("moments", x, 2)
        return mean, variance

    def row_pick(self, x: Expression, place: Expression) -> Expression:
        """The element at a place, which alone is read for it."""
        return self.reduce("pick", x, more=(place,))[0]


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
    printer: CppLines,
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
        printer.store(f"{at} = {printer.stored(value, x.dtype)};")


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

FEW = 16
"""Elements whose mean is near enough to the whole row's."""

FAR = 1
"""Up to how many variances the square of a mean may be, for squares of elements to tell the
variance as well as squares of what they are off the mean."""

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
        name = line.names[0]
        local = LOCAL[dtype_named(line.text)]
        if how == "pick":
            after += picked(name, local, x, line.reduction[2], [*recalled, *values])
        elif how == "near":
            after += near(name, local, x, [*recalled, *values])
        elif how == "moments":
            variance = line.names[1]
            sums = {name: x, variance: f"{x} * {x}"}
            lines += [f"double {y}_all = 0;" for y in sums]
            head += [f"{local} {y}_part = 0;" for y in sums]
            clauses.append(f"reduction(+ : {name}_part, {variance}_part)")
            loop += [f"{y}_part += {code};" for y, code in sums.items()]
            tail += [f"{y}_all += {y}_part;" for y in sums]
            after += moments(name, variance, local, x, [*recalled, *values])
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
    return [*lines, *in_blocks("col", "n", loop, head, tail, clauses), *after]


def moments(mean: str, variance: str, local: str, x: str, values: Sequence[str]) -> list[str]:
    """Mean and variance from the sums of x and of its squares. What is left of the squares loses
    digits where the mean is far from 0; then both are summed again, of x less the mean."""
    sums, apart = {mean: f"{mean}_apart", variance: f"{mean}_apart * {mean}_apart"}, f"{mean}_near"
    found = [
        f"{mean}_found = {mean}_all / n;",
        f"{variance}_found = {variance}_all / n - {mean}_found * {mean}_found;",
    ]
    return [
        f"double {mean}_found, {variance}_found, {apart}_by = 0;",
        *found,
        f"if (!({mean}_found * {mean}_found <= {FAR} * {variance}_found"
        f" && {variance}_found < __builtin_inf())) {{",
        f"    const {local} {apart} = {mean}_found;",
        f"    {apart}_by = {apart};",
        *[f"    {y}_all = 0;" for y in sums],
        *in_blocks(
            "col",
            "n",
            [
                *values,
                f"const {local} {mean}_apart = {x} - {apart};",
                *[f"{y}_part += {code};" for y, code in sums.items()],
            ],
            [f"{local} {y}_part = 0;" for y in sums],
            [f"{y}_all += {y}_part;" for y in sums],
            [f"reduction(+ : {mean}_part, {variance}_part)"],
        ),
        *found,
        "}",
        f"const {local} {mean} = {apart}_by + {mean}_found;",
        f"const {local} {variance} = {variance}_found;",
    ]


def near(name: str, local: str, x: str, values: Sequence[str]) -> list[str]:
    """The mean of a row's first elements: of equal ones it is exact, since their number is a power
    of 2."""
    return [
        f"{local} {name} = 0;",
        f"const int64_t few_{name} = n < {FEW} ? 1 : {FEW};",
        *simd_loop(
            "col",
            "0",
            f"few_{name}",
            [*values, f"{name} += {x} * ({local}(1) / few_{name});"],
            [f"reduction(+ : {name})"],
        ),
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
