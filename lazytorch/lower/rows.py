"""Kernels over whole rows: which row, and what is computed in which pass over it.

A row is the last dimension of a group's full shape. Values are wide (one for each element) or
narrow (one for the row). A reduction makes a narrow value of a wide one and needs the whole row, so
what depends on it waits for the next pass. A row that a target can hold in registers takes one
pass, its lines in the order they were written; a longer row is read again in every pass, which
computes again what it needs: `passes` says what that is.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from lazytorch.lower.expression import Expression, Printer
from lazytorch.lower.index import Loops, collapse
from lazytorch.types import Shape, Strides, dtype_name

WORD = re.compile(r"\b(?:[vx]\d+|col|at)\b")
"""Names in generated text: values, operands loaded before the loop, and the place in the row, also
counted from another one."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How a kernel walks rows of `size` elements.

    `outer` visits the rows, `steps` is each operand's stride within one.
    """

    outer: Loops
    size: int
    steps: Strides

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self.outer.numel


def rows_of(
    shape: Shape,
    reads: Sequence[Strides],
    writes: Sequence[Strides],
    apart: frozenset[int] = frozenset(),
) -> Rows:
    """The rows of a kernel over `shape`; strides and `apart` as `collapse` takes them."""
    outer = collapse(
        shape[:-1], [s[:-1] for s in reads], [s[:-1] for s in writes], apart - {len(shape) - 1}
    )
    return Rows(outer, shape[-1], tuple([s[-1] for s in (*reads, *writes)]))


@dataclass(slots=True)
class Line:
    """Text that computes `names` from what it reads; a store computes none.

    `reduction` is the kind of a reduction and the texts of its operands.
    """

    names: tuple[str, ...]
    text: str
    reads: tuple[str, ...]
    reduction: tuple[str, ...] | None = None


@dataclass(slots=True)
class Pass:
    """One pass over a row: `before` it what is computed once, then the lines for each element.

    `kept` are the values that a later pass has in its `recalled`, by name.
    """

    before: list[Line] = field(default_factory=list[Line])
    each: list[Line] = field(default_factory=list[Line])
    kept: dict[str, Line] = field(default_factory=dict[str, Line])
    recalled: dict[str, Line] = field(default_factory=dict[str, Line])


class RowWriter(Printer, ABC):
    """A printer of values along a row, in lines that `passes` can put in order.

    The place in the row is called `col`, the row's length `n`. The `nonpositive` are names of an
    element less the row's largest: at most 0, if numbers at all.
    """

    def __init__(self, rounding: bool = False) -> None:
        super().__init__(rounding)
        self.written: list[Line] = []
        self.known: dict[tuple[str, torch.dtype], Expression] = {}
        self.differences: set[str] = set()
        self.nonpositive: set[str] = set()

    def bind(self, code: str, dtype: torch.dtype) -> Expression:
        """A local variable; of equal text there is one."""
        found = self.known.get((code, dtype))
        if found is None:
            found = self.known[code, dtype] = Expression(self, f"v{self.count}", dtype)
            self.count += 1
            line = self.assign(found.code, code, dtype)
            self.written.append(Line((found.code,), line, words(code)))
            if code in self.differences:
                self.nonpositive.add(found.code)
        return found

    def reduce(
        self, kind: str, x: Expression, results: int = 1, more: tuple[Expression, ...] = ()
    ) -> list[Expression]:
        """The narrow values that a reduction makes of `x`; its line's text is the dtype's name."""
        names = tuple([f"v{self.count + i}" for i in range(results)])
        self.count += results
        codes = [y.code for y in (x, *more)]
        read = dict.fromkeys(word for code in codes for word in words(code))
        line = Line(names, dtype_name(x.dtype), (*read, "col"), (kind, *codes))
        self.written.append(line)
        if kind in ("max", "top", "exp_sum"):
            self.differences.add(f"{x.code} - {names[0]}")
        return [Expression(self, name, x.dtype) for name in names]

    def store(self, text: str) -> None:
        """Write an output."""
        self.written.append(Line((), text, words(text)))

    def row_sum(self, x: Expression) -> Expression:
        """The sum of a row."""
        return self.reduce("sum", x)[0]

    def row_mean(self, x: Expression) -> Expression:
        """The mean of a row."""
        return self.bind(f"{self.row_sum(x).code} / n", x.dtype)

    def row_max(self, x: Expression) -> Expression:
        """The largest of a row."""
        return self.reduce("max", x)[0]

    def row_min(self, x: Expression) -> Expression:
        """The smallest of a row."""
        return self.reduce("min", x)[0]

    def row_centered(self, x: Expression) -> tuple[Expression, Expression]:
        """Each element less the mean of its row, and the variance, the one first, then the other.

        Both are found of how far elements are from a number near them: what they have in common is
        lost to no rounding.
        """
        apart = x - self.row_near(x)
        mean, variance = self.row_moments(apart)
        return apart - mean, variance

    def row_moments(self, x: Expression) -> tuple[Expression, Expression]:
        """Mean and variance of a row, the one first, then the other."""
        mean = self.row_mean(x)
        centered = x - mean
        return mean, self.row_mean(centered * centered)

    def row_exp_sum(self, x: Expression) -> tuple[Expression, Expression]:
        """The maximum m of a row and its sum of exp(x - m), the one first, then the other.

        A NaN makes the sum one, whatever the maximum.
        """
        largest = self.reduce("top", x)[0]
        return largest, self.row_sum(self.exp(x - largest))

    def row_exponentials(self, x: Expression) -> tuple[Expression, Expression]:
        """The maximum m of a row, where NaN wins, and its sum of exp(x - m), one after the
        other."""
        largest = self.row_max(x)
        return largest, self.row_sum(self.exp(x - largest))

    def row_pick(self, x: Expression, place: Expression) -> Expression:
        """The element at a place of each row, a 32-bit integer; 0 where it is none of the row's."""
        return self.row_sum(self.where(self.eq(self.row_position(), place), x, 0.0))

    def row_position(self) -> Expression:
        """The number of each element in its row."""
        return Expression(self, self.integer("col"), torch.int32)

    def row_size(self) -> Expression:
        """How many elements a row has."""
        return Expression(self, self.integer("n"), torch.int32)

    @abstractmethod
    def row_near(self, x: Expression) -> Expression:
        """A number near the elements of each row; the one that they are if they are equal."""

    @abstractmethod
    def integer(self, name: str) -> str:
        """A loop's variable as a 32-bit integer."""


def words(text: str) -> tuple[str, ...]:
    """The names that generated text reads."""
    return tuple(dict.fromkeys(WORD.findall(text)))


def passes(
    lines: Sequence[Line], costly: Callable[[Line], bool] = lambda line: False
) -> tuple[list[Pass], list[Line]]:
    """The passes over a row that compute `lines`, and what is left to do once behind the last.

    What is `costly` is kept for later passes instead of computed again.
    """
    wide: dict[str, int] = {"col": 0, "at": 0}  # the first pass that can compute it
    narrow: dict[str, int] = {}  # how many passes are over by then
    maker: dict[str, Line] = {}
    once: dict[int, list[Line]] = {}
    goals: dict[int, list[Line]] = {}
    for line in lines:
        at = max([wide.get(x, narrow.get(x, 0)) for x in line.reads], default=0)
        if line.reduction is not None:
            goals.setdefault(at, []).append(line)
            narrow |= dict.fromkeys(line.names, at + 1)
        elif not any(x in wide for x in line.reads):
            once.setdefault(at, []).append(line)
            narrow |= dict.fromkeys(line.names, at)
        elif not line.names:
            goals.setdefault(at, []).append(line)
        else:
            wide |= dict.fromkeys(line.names, at)
            maker |= dict.fromkeys(line.names, line)
    found: list[Pass] = []
    done: dict[str, Pass] = {}  # costly names, and where they were computed
    for i in range(max(goals, default=-1) + 1):
        one = Pass(once.pop(i, []))
        stack = list(goals.get(i, ()))
        needed = {id(line) for line in stack}
        while stack:
            for x in stack.pop().reads:
                if x in done:
                    one.recalled[x] = done[x].kept[x] = maker[x]
                elif (line := maker.get(x)) is not None and id(line) not in needed:
                    needed.add(id(line))
                    stack.append(line)
        one.each = [line for line in lines if id(line) in needed]
        done |= {x: one for line in one.each if costly(line) for x in line.names}
        found.append(one)
    return found, [line for i in sorted(once) for line in once[i]]
