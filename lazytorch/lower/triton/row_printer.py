"""What Triton kernels over whole rows are made of, in lines that `row_text` puts in order.

`col` is the place in the row, `at` the place counted from where a shifted row is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from lazytorch.lower.expression import HALVES, Expression
from lazytorch.lower.rows import Line, RowWriter, words
from lazytorch.lower.triton.printer import TritonPrinter
from lazytorch.lower.triton.rows import TritonRows
from lazytorch.types import TensorType

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

    def row_near(self, x: Expression) -> Expression:
        """The first element; where numbers are drawn, which is done for blocks of them, 0."""
        found = self.alone(x, "origin", "shift")
        return Expression(self, "0.0", x.dtype, 0.0) if found is None else found

    def row_pick(self, x: Expression, place: Expression) -> Expression:
        """The element at a place: it alone is read for it, unless numbers are drawn, and where
        there is none the first or the last one in its stead."""
        col = self.bind(f"tl.minimum(tl.maximum({place.code}, 0), n - 1)", torch.int32)
        at = f"({col.code} + shift)" if self.walk.shifted is not None else col.code
        found = self.alone(x, col.code, at)
        if found is None:
            return super().row_pick(x, place)
        return self.where(self.eq(place, col), found, 0.0)

    def alone(self, x: Expression, col: str, at: str) -> Expression | None:
        """One element of each row, by lines of their own that compute it where `col` and `at` are
        this: they wait for no pass. None where numbers are drawn."""
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
            return None
        own = {"col": col, "at": at}
        own |= {y: f"v{self.count + i}" for i, line in enumerate(lines) for y in line.names}
        self.count += len(lines)
        for line in lines:
            text = WIDE.sub(lambda y: own.get(y[0], y[0]), everywhere(line.text, self.walk))
            reads = [own.get(y, y) for y in line.reads if y not in ("col", "at")]
            reads += words(f"{col} {at}")
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

    def row_exponentials(self, x: Expression) -> tuple[Expression, Expression]:
        """The maximum m and the sum of exp(x - m); of a long row both in one pass, as above."""
        return super().row_exponentials(x) if self.walk.held else self.row_exp_sum(x)


def everywhere(text: str, walk: TritonRows) -> str:
    """A statement for a block whose elements are all the row's."""
    if "tl.load(" in text or "tl.store(" in text:
        text = MASK.sub(r"\1 there" if walk.together > 1 else "", text)
    return re.sub(r"\bmask\b", "everywhere", text)
