"""Generates Triton kernels for groups that need whole rows: reductions, norms, softmax and around.

A program computes one row, or several short ones. Rows up to `HELD` elements stay in registers:
every operand is read once, every output written once, whatever lies between. Longer rows are walked
in blocks, once for each reduction that waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lazytorch.lower.expression import Expression, print_steps
from lazytorch.lower.rows import Line, RowWriter, passes, rows_of
from lazytorch.lower.steps import Bound, Steps
from lazytorch.lower.triton.access import Accesses
from lazytorch.lower.triton.printer import LOCAL, TritonPrinter, stored
from lazytorch.lower.triton.scale import OWN, Scale
from lazytorch.types import TensorType, dtype_named

HELD = 16384
"""Elements of a row that the threads of one program hold in registers."""

BLOCK = 4096
"""Elements of a longer row that are walked at a time, by as many threads as a program may have: few
rows are under way then, and the second pass finds them in the cache."""

WALKERS = 32
"""Warps of a program that walks a longer row."""

LANE = (16, 128)
"""Bytes of a row that a thread holds: where rows are few, and where there are `PLENTY`."""

PLENTY = 1 << 14
"""Rows from which on threads need not be many for each to keep the memory busy."""

TILE = 1024
"""Elements of one program where rows are short and many."""

BESIDE = (256, 64)
"""Bytes across the rows of one program, and elements of each walked at a time, where rows lie
beside each other."""

PROGRAMS = 512
"""Programs that keep all processors busy: fewer rows share a program only beyond these."""

REACH = 2**31 - 2**16
"""Elements that 32-bit indices reach."""


class TritonRows:
    """How programs walk rows: `block` elements of `together` rows at a time."""

    def __init__(self, given: Accesses, scale: Scale = OWN) -> None:
        self.given = given
        self.scale = scale
        strides = [read.strides for read in given.reads]
        self.rows = rows = rows_of(given.shape, strides, given.writes, given.apart)
        whole = 1 << max(rows.size - 1, 0).bit_length()
        self.across = self.beside()
        few = max(rows.count // PROGRAMS, 1)
        if self.across:
            self.held = whole <= BESIDE[1]
            self.together, self.block = BESIDE[0] // given.itemsize, min(whole, BESIDE[1])
        else:
            self.held = whole <= HELD
            self.block = whole if self.held else BLOCK
            self.together = min(max(TILE // self.block, 1), 1 << (few.bit_length() - 1))
        if self.held:
            self.together = scale.size_of(self.together, BLOCK // self.block)
        else:
            self.block = scale.size_of(self.block)

    def beside(self) -> bool:
        """Whether neighbours in memory are elements of neighbouring rows, in all that is read."""
        outer, reads = self.rows.outer, range(len(self.given.reads))
        wide = [r for r in reads if self.rows.steps[r] and any(outer.strides[r])]
        return bool(wide) and all(
            abs(self.rows.steps[r]) > 1 and outer.strides[r][-1] == 1 for r in wide
        )

    @property
    def grid(self) -> int:
        """How many programs visit every row."""
        return -(-self.rows.count // self.together)

    @property
    def warps(self) -> int:
        """As many as hold the rows; of short rows one warp does not wait for another."""
        if self.across:
            return self.scale.warps_of(8)
        if not self.held:
            return self.scale.warps_of(WALKERS)
        lane = max(LANE[self.rows.count >= PLENTY] // self.given.itemsize, 8)
        return self.scale.warps_of(min(max(self.together * self.block // (32 * lane), 1), 16))

    @property
    def wide(self) -> bool:
        """Whether 32-bit indices do not reach."""
        outer = self.rows.outer
        return any(
            abs(step) * self.rows.size
            + sum(n * abs(s) for n, s in zip(outer.sizes, strides, strict=True))
            >= REACH
            for step, strides in zip(self.rows.steps, outer.strides, strict=True)
        )

    @property
    def inside(self) -> str:
        """The statement that says which elements there are."""
        return "mask = (col < n) & there" if self.together > 1 else "mask = col < n"

    def arguments(self) -> dict[str, int]:
        """The integers given to the kernel by name: the row's length, sizes and strides."""
        outer = self.rows.outer
        numbers = {"n": self.rows.size}
        if self.together > 1:
            numbers["rows"] = self.rows.count
        numbers |= {f"n{d}": size for d, size in enumerate(outer.sizes) if d > 0}
        for k, strides in enumerate(outer.strides):
            numbers |= {self.given.stride(k, d): s for d, s in enumerate(strides) if s}
            if self.rows.steps[k] not in (0, 1):
                numbers[f"t{k}"] = self.rows.steps[k]
        return numbers | self.given.arguments()

    def divisibility(self) -> dict[str, int]:
        """What divides arguments, as far as that lets loads and stores be vectors."""
        return {name: 16 for name, value in self.arguments().items() if value % 16 == 0}

    def place(self, r: int) -> str:
        """Where access r has the elements, as an address."""
        terms = [self.given.pointer(r), *self.given.start(r)]
        outer = enumerate(self.rows.outer.strides[r])
        terms += [f"i{d} * {self.given.stride(r, d)}" for d, s in outer if s]
        if step := self.rows.steps[r]:
            terms.append("col" if step == 1 else f"col * t{r}")
        elif not any(self.rows.outer.strides[r]) and self.mask(r):
            terms.append("i0 * 0")  # a mask of a block takes a block of addresses
        return " + ".join(terms)

    def mask(self, r: int) -> str:
        """Which of the elements there are; nothing where every program has them."""
        bounds = self.given.reads[r].bounds if r < len(self.given.reads) else ()
        where = self.given.condition(bounds, self.index)
        wide = self.rows.steps[r] or "col" in " ".join(where)
        if wide:
            where.append("mask")
        elif self.together > 1 and (where or any(self.rows.outer.strides[r])):
            where.append("there")
        load = r < len(self.given.reads)
        mask = f", {' & '.join(where)}" if where else ""
        mask = ", ".join([mask, *self.given.other(r)]) if load else mask
        return mask + "{again}" if wide and load and not self.held else mask

    def index(self, dim: int) -> str:
        """The index of a dimension that has a loop of its own, or is the row."""
        if dim == len(self.given.shape) - 1:
            return "col"
        return f"i{self.rows.outer.dims.index((dim,))}"


class TritonRowPrinter(RowWriter, TritonPrinter):
    """Writes what needs whole rows in Triton's language."""

    def __init__(self, held: bool, rounding: bool) -> None:
        super().__init__(rounding)
        self.held = held

    def integer(self, name: str) -> str:
        """A loop's variable as a 32-bit integer."""
        return f"({name}).to(tl.int32)"

    def row_moments(self, x: Expression) -> tuple[Expression, Expression]:
        """Mean and variance; of a long row both in one pass."""
        if self.held:
            return super().row_moments(x)
        mean, variance = self.reduce("moments", x, 2)
        return mean, variance

    def row_exp_sum(self, x: Expression) -> tuple[Expression, Expression]:
        """The maximum m and the sum of exp(x - m); of a long row both in one pass."""
        if self.held:
            return super().row_exp_sum(x)
        largest, total = self.reduce("exp_sum", x, 2)
        return largest, total


HOLD = {
    "sum": ("{0} = lt.row_sum(tl.where(mask, {x}, 0.0))",),
    "max": ('{0} = lt.row_max(tl.where(mask, {x}, float("-inf")))',),
    "top": ('{0} = tl.max(tl.where(mask, {x}, float("-inf")), 1, keep_dims=True)',),
    "min": ('{0} = lt.row_min(tl.where(mask, {x}, float("inf")))',),
}
"""How a reduction is written where the row is in registers."""

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
    "moments": (
        ("{0} = tl.zeros([{shape}], {type})", "{1} = tl.zeros([{shape}], {type})"),
        ("{0}, {1} = lt.add_moments({0}, {1}, {x}, mask, start // {block} + 1)",),
        ("{0}, {1} = lt.join_moments({0}, {1}, (n - first + {last}) // {block}, n)",),
    ),
    "exp_sum": (
        (
            '{0} = tl.full([{shape}], float("-inf"), {type})',
            "{1} = tl.zeros([{shape}], {type})",
            "{1}_base = tl.zeros([{shape}], {type})",
        ),
        ("{0}, {1}, {1}_base = lt.add_exp({0}, {1}, {1}_base, {x}, mask, start)",),
        (
            "{0} = lt.row_max({0})",
            "{1}_far = lt.any_far({0}, {1}, {1}_base)",
            "{1} = lt.join_exp({0}, {1}, {1}_base)",
        ),
    ),
}
"""How it is written where the row is walked: before the loop, in it, and behind it."""


def row_statements(
    found: Steps,
    outputs: Sequence[TensorType],
    walk: TritonRows,
    rounding: bool,
) -> list[str]:
    """Statements that find a program's rows, load, compute and store them."""
    printer = TritonRowPrinter(walk.held, rounding)
    inputs = printer.operands(found.inputs(), lambda r: f"tl.load({walk.place(r)}{walk.mask(r)})")

    def inside(bounds: tuple[Bound, ...]) -> Expression:
        return printer.bind(" & ".join(walk.given.condition(bounds, walk.index)), torch.bool)

    values = print_steps(printer, found, inputs, inside)
    for r, (x, value) in enumerate(zip(outputs, values, strict=True), len(walk.given.reads)):
        code = stored(value.code, x.dtype)
        printer.store(f"tl.store({walk.place(r)}, {code}{walk.mask(r)})")
    lines = found_rows(walk)
    if walk.held:
        lines += [f"col = tl.arange(0, {walk.block})[None, :]", walk.inside]
        lines += [text for line in printer.written for text in held(line)]
        return lines
    lines.append(f"first = tl.arange(0, {walk.block})[None, :]")
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
    return [*lines, "i0 = rest"]


def held(line: Line) -> list[str]:
    """A line where the whole row is in registers."""
    if line.reduction is None:
        return [line.text]
    kind, x = line.reduction
    return [text.format(*line.names, x=x) for text in HOLD[kind]]


def walked(before: Sequence[Line], each: Sequence[Line], walk: TritonRows) -> list[str]:
    """One pass over a long row."""
    lines = [line.text for line in before]
    loop: list[str] = []
    after: list[str] = []
    for line in each:
        if line.reduction is None:
            loop.append(line.text)
            continue
        kind, x = line.reduction
        texts = [
            [
                text.format(
                    *line.names,
                    x=x,
                    type=LOCAL[dtype_named(line.text)],
                    shape=f"{walk.together}, {walk.block}",
                    block=walk.block,
                    last=walk.block - 1,
                )
                for text in part
            ]
            for part in WALK[kind]
        ]
        lines += texts[0]
        loop += texts[1]
        after += texts[2]
    head = [
        f"for start in range(0, n, {walk.block}):",
        "    col = start + first",
        f"    {walk.inside}",
    ]
    return [*lines, *head, *[f"    {text}" for text in loop], *after, *again(each, head, walk)]


def again(each: Sequence[Line], head: Sequence[str], walk: TritonRows) -> list[str]:
    """Sums of exponentials once more, where their first guess at the maximum was far from it.

    The first pass takes each thread's first element for the base, which is nearly always near.
    What else the pass makes, sums and stores, is there already.
    """
    lines: list[str] = []
    values = [line.text for line in each if line.reduction is None and line.names]
    for line in each:
        if line.reduction is None or line.reduction[0] != "exp_sum":
            continue
        largest, total = line.names
        lines += [
            f"if {total}_far:",
            f"    {total}_sum = tl.zeros([{walk.together}, {walk.block}], {total}.dtype)",
            *[f"    {text}" for text in (*head, *[f"    {text}" for text in values])],
            f"        {total}_sum += lt.exp_from({largest}, {line.reduction[1]}, mask)",
            f"    {total} = lt.row_sum({total}_sum)",
        ]
    return lines
