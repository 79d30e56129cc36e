"""Generates Triton kernels for groups that need whole rows: norms and softmax, and what is around.

One program computes one row of the last dimension, which it holds in registers: every operand is
read once, every output written once, whatever lies between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lazytorch.lower.expression import Expression, print_body
from lazytorch.lower.index import Loops, collapse
from lazytorch.lower.kernel import Operand
from lazytorch.lower.triton.printer import TritonPrinter, stored
from lazytorch.ops.base import broadcast_strides
from lazytorch.ops.fused import Fused
from lazytorch.types import TensorType

REACH = 2**31 - 2**16
"""Elements that 32-bit indices reach."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How programs walk rows of `size` elements.

    `outer` visits the rows, `steps` is each operand's stride within one.
    """

    outer: Loops
    size: int
    steps: tuple[int, ...]

    @property
    def grid(self) -> int:
        """One program a row."""
        return self.outer.numel

    @property
    def block(self) -> int:
        """The row's length rounded up to a power of two."""
        return 1 << max(self.size - 1, 0).bit_length()

    @property
    def warps(self) -> int:
        """Some 8 elements a thread, as far as a block may have threads."""
        return min(max(self.block // 256, 1), 16)

    @property
    def wide(self) -> bool:
        """Whether 32-bit indices do not reach."""
        return any(
            step * self.size + sum(n * s for n, s in zip(self.outer.sizes, strides, strict=True))
            >= REACH
            for step, strides in zip(self.steps, self.outer.strides, strict=True)
        )

    def arguments(self) -> dict[str, int]:
        """The integers given to the kernel by name: the row's length, sizes and strides."""
        numbers = {"n": self.size}
        numbers |= {f"n{d}": size for d, size in enumerate(self.outer.sizes) if d > 0}
        for k, strides in enumerate(self.outer.strides):
            numbers |= {f"s{k}_{d}": s for d, s in enumerate(strides) if s}
            if self.steps[k] > 1:
                numbers[f"t{k}"] = self.steps[k]
        return numbers

    def divisibility(self) -> dict[str, int]:
        """What divides arguments, as far as that lets loads and stores be vectors."""
        return {name: 16 for name, value in self.arguments().items() if value % 16 == 0}


def rows_of(operands: Sequence[TensorType], outputs: Sequence[TensorType]) -> Rows:
    """The rows of a kernel that writes `outputs` (one shape) and reads broadcast `operands`."""
    shape = outputs[0].shape
    reads = [broadcast_strides(x, shape) for x in operands]
    writes = [x.strides for x in outputs]
    outer = collapse(shape[:-1], [s[:-1] for s in reads], [s[:-1] for s in writes])
    return Rows(outer, shape[-1], tuple(s[-1] for s in (*reads, *writes)))


class RowPrinter(TritonPrinter):
    """Writes what needs the whole row, too: the lanes beyond its end never count."""

    def row_sum(self, x: Expression) -> Expression:
        """The sum of a row, a scalar."""
        return self.bind(f"tl.sum(tl.where(mask, {x.code}, 0.0), 0)", x.dtype)

    def row_mean(self, x: Expression) -> Expression:
        """The mean of a row, a scalar."""
        return self.bind(f"tl.sum(tl.where(mask, {x.code}, 0.0), 0) / n", x.dtype)

    def row_max(self, x: Expression) -> Expression:
        """The largest of a row, a scalar."""
        return self.bind(f'tl.max(tl.where(mask, {x.code}, float("-inf")), 0)', x.dtype)


def row_statements(
    op: Fused,
    operands: Sequence[Operand],
    outputs: Sequence[TensorType],
    rows: Rows,
    rounding: bool,
) -> list[str]:
    """Statements that find a program's row, load, compute and store it."""
    printer = RowPrinter(rounding)
    pid = "tl.program_id(0).to(tl.int64)" if rows.wide else "tl.program_id(0)"
    lines = [f"rest = {pid}"]
    for d in range(len(rows.outer.sizes) - 1, 0, -1):
        lines += [f"i{d} = rest % n{d}", f"rest = rest // n{d}"]
    lines += ["i0 = rest", f"col = tl.arange(0, {rows.block})", "mask = col < n"]
    printer.lines += lines
    inputs = printer.operands(operands, lambda k: load(rows, k))
    values = print_body(printer, op.body, inputs)
    for k, (x, value) in enumerate(
        zip(outputs, values, strict=True), len(rows.steps) - len(outputs)
    ):
        printer.lines.append(
            f"tl.store(p{k} + {place(rows, k)}, {stored(value.code, x.dtype)}, mask)"
        )
    return printer.lines


def load(rows: Rows, k: int) -> str:
    """Operand k's part of the row from memory: once where all elements share it."""
    at = place(rows, k)
    return f"tl.load(p{k} + {at}, mask)" if rows.steps[k] else f"tl.load(p{k} + {at})"


def place(rows: Rows, k: int) -> str:
    """Where operand k has the row, counted from its first element."""
    terms = [f"i{d} * s{k}_{d}" for d, stride in enumerate(rows.outer.strides[k]) if stride]
    step = rows.steps[k]
    if step:
        terms.append("col" if step == 1 else f"col * t{k}")
    return " + ".join(terms) or "0"
