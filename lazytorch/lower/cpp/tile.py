"""The inner loop of an elementwise C++ kernel: it loads, computes and stores some elements."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent

import torch

from lazytorch.ir import Graph
from lazytorch.lower.cpp.blocks import in_blocks, simd_loop
from lazytorch.lower.cpp.printer import LOCAL, MEMORY, CppPrinter, loaded
from lazytorch.lower.expression import Expression, print_steps
from lazytorch.lower.kernel import NAME
from lazytorch.lower.steps import Steps
from lazytorch.types import Strides, TensorType

PARTS = {1: (512, 16), 2: (1024, 8), 4: (64, 64), 8: (64, 64)}
"""Elements of a row, and rows, that a buffer holds, by the bytes of an element, as measured from
256 x 256 elements on. Squares use four lines of a page and leave it; of less a line is a longer
part, and stays in the cache until the next rows want the rest of it."""

MOST = 4
"""Buffers of one kernel."""


def part(operands: Sequence[TensorType]) -> tuple[int, int]:
    """Elements of a row, and rows, that the buffers of some operands hold."""
    return PARTS[max([x.dtype.itemsize for x in operands], default=1)]


def tile_source(
    found: Steps,
    body: Graph,
    operands: tuple[TensorType, ...],
    outputs: tuple[TensorType, ...],
    steps: Strides,
    swapped: tuple[int, ...],
    rounding: bool,
) -> str:
    """A tile of the group as a C++ function.

    `steps` counts only as 0 (one element, loaded before the loop), 1 (neighbours) or anything
    else, a run-time argument. What is read of operands that are `swapped`, whose rows are
    neighbours in memory, comes from a buffer where it is in the order of the loop.
    """
    printer = CppPrinter(rounding)
    width, rows = part([operands[k] for k in swapped])
    pointers: list[str] = []
    buffers: list[str] = []
    filled: list[str] = []
    inputs: list[Expression] = []
    for k, (x, step) in enumerate(zip((*operands, *outputs), steps, strict=True)):
        kind = MEMORY[x.dtype]
        if k in swapped:
            first = f"(const {kind}*)(p[{k}] + first * row[{k}])"
            buffers.append(f"alignas(64) {kind} t{k}[{rows * width}];")
            filled.append(f"lt::beside({first}, step[{k}], last - first, size, t{k}, {width});")
            pointers.append(f"const {kind}* p{k} = t{k} + (r - first) * {width};")
            inputs.append(printer.bind(loaded(f"p{k}[i]", x.dtype), x.dtype))
            continue
        write, at = k >= len(operands), "i" if step == 1 else f"i * s{k}"
        const = "" if write else "const "
        # Not restricted: an output may be written over an operand, element by element.
        pointers.append(f"{const}{kind}* p{k} = ({const}{kind}*)(p[{k}] + r * row[{k}]);")
        if step not in (0, 1):
            pointers.append(f"const int64_t s{k} = step[{k}] / int64_t(sizeof({kind}));")
        if not write and step == 0:
            pointers.append(f"const {LOCAL[x.dtype]} x{k} = {loaded(f'p{k}[0]', x.dtype)};")
            inputs.append(Expression(printer, f"x{k}", x.dtype))
            if x.dtype is torch.bfloat16:
                printer.exact.add(f"x{k}")
        elif not write:
            inputs.append(printer.bind(loaded(f"p{k}[{at}]", x.dtype), x.dtype))
    given = dict(zip(body.inputs, inputs, strict=True))
    values = print_steps(printer, found, [given[x] for x in found.inputs()])
    for k, (x, step, value) in enumerate(
        zip(outputs, steps[len(operands) :], values, strict=True),
        len(operands),
    ):
        at = "i" if step == 1 else f"i * s{k}"
        printer.lines.append(f"p{k}[{at}] = {printer.stored(value, x.dtype)};")
    loop = (
        in_blocks("i", "size", printer.lines)
        if any(x.dtype is torch.float16 for x in (*operands, *outputs))
        else simd_loop("i", "0", "size", printer.lines)
    )
    text = "\n".join([*pointers, *loop])
    if not swapped:
        return TEMPLATE.format(name=NAME, walk=PLAIN.format(row=indent(text, " " * 8)))
    walk = SWAPPED.format(
        rows=rows,
        buffers="\n    ".join(buffers),
        filled="\n        ".join(filled),
        row=indent(text, " " * 12),
    )
    return TEMPLATE.format(name=NAME, walk=walk)


TEMPLATE = """
static void tile_{name}(char* const* p, const int64_t* step, const int64_t* row, int64_t rows,
                        int64_t size, const int64_t*) {{
{walk}
}}
"""

PLAIN = """\
    for (int64_t r = 0; r < rows; ++r) {{
{row}
    }}"""

SWAPPED = """\
    {buffers}
    for (int64_t first = 0; first < rows; first += {rows}) {{
        const int64_t last = rows - first < {rows} ? rows : first + {rows};
        {filled}
        for (int64_t r = first; r < last; ++r) {{
{row}
        }}
    }}"""
