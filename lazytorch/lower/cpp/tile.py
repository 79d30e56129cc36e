"""The inner loop of an elementwise C++ kernel: it loads, computes and stores some elements."""

from __future__ import annotations

from lazytorch.ir import Graph
from lazytorch.lower.cpp.printer import LOCAL, MEMORY, CppPrinter, loaded, stored
from lazytorch.lower.expression import Expression, print_steps
from lazytorch.lower.kernel import NAME
from lazytorch.lower.steps import Steps
from lazytorch.types import Strides, TensorType


def tile_source(
    found: Steps,
    body: Graph,
    operands: tuple[TensorType, ...],
    outputs: tuple[TensorType, ...],
    steps: Strides,
    rounding: bool,
) -> str:
    """A tile of the group as a C++ function.

    `steps` counts only as 0 (one element, loaded before the loop), 1 (neighbours) or anything
    else, a run-time argument.
    """
    printer = CppPrinter(rounding)
    pointers: list[str] = []
    inputs: list[Expression] = []
    for k, (x, step) in enumerate(zip((*operands, *outputs), steps, strict=True)):
        write = k >= len(operands)
        kind, at = MEMORY[x.dtype], "0" if step == 0 else "i" if step == 1 else f"i * s{k}"
        const = "" if write else "const "
        # Not restricted: an output may be written over an operand, element by element.
        pointers.append(f"{const}{kind}* p{k} = ({const}{kind}*)(p[{k}] + r * row[{k}]);")
        if step not in (0, 1):
            pointers.append(f"const int64_t s{k} = step[{k}] / int64_t(sizeof({kind}));")
        if not write and step == 0:
            pointers.append(f"const {LOCAL[x.dtype]} x{k} = {loaded(f'p{k}[0]', x.dtype)};")
            inputs.append(Expression(printer, f"x{k}", x.dtype))
        elif not write:
            inputs.append(printer.bind(loaded(f"p{k}[{at}]", x.dtype), x.dtype))
    given = dict(zip(body.inputs, inputs, strict=True))
    values = print_steps(printer, found, [given[x] for x in found.inputs()])
    for k, (x, step, value) in enumerate(
        zip(outputs, steps[len(operands) :], values, strict=True),
        len(operands),
    ):
        at = "i" if step == 1 else f"i * s{k}"
        printer.lines.append(f"p{k}[{at}] = {stored(value.code, x.dtype)};")
    return TEMPLATE.format(
        name=NAME,
        pointers="\n        ".join(pointers),
        body="\n            ".join(printer.lines),
    )


TEMPLATE = """
static void tile_{name}(char* const* p, const int64_t* step, const int64_t* row, int64_t rows,
                        int64_t size, const int64_t*) {{
    for (int64_t r = 0; r < rows; ++r) {{
        {pointers}
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) {{
            {body}
        }}
    }}
}}
"""
