"""How Triton kernels visit whole rows: what a program holds, where it reads and writes.

A program computes one row, or several short ones. Rows up to `HELD` elements stay in registers as
one block: every operand is read once, every output written once, whatever lies between. Longer rows
that are written again stay there in pieces, as far as `KEPT` reaches. Others are walked in blocks,
once for each reduction that waits for another; rows that are only read, and walked once, from
`SUMMED` elements on.

Rows of an odd length begin anywhere in memory. Where such a row is long, it is read and written
from the last place before it that is a multiple of `ALIGNED` elements, `shift` elements earlier:
then all but the first and the last block of it are vectors.
"""

from __future__ import annotations

import math

from lazytorch.lower.expression import Expression
from lazytorch.lower.rows import rows_of
from lazytorch.lower.triton.access import Accesses
from lazytorch.lower.triton.printer import TritonPrinter
from lazytorch.lower.triton.scale import OWN, Scale

HELD = 16384
"""Elements of a row that the threads of one program hold in registers."""

SUMMED = 4096
"""The same where a row is only read, and one pass over it gives everything: a longer one is walked,
since memory would rest while a program computes with all that it holds."""

BLOCK = 4096
"""Elements of a longer row that are walked at a time, by as many threads as a program may have: few
rows are under way then, and the second pass finds them in the cache."""

WALKERS = 32
"""Warps of a program that walks a longer row."""

ONCE = (2048, 4)
"""Elements walked at a time, and warps, where no row is written again: one pass, mostly, and many
programs are under way."""

SHORTER = 1024
"""Elements walked at a time of such a row up to `HELD`, of which the last block, where each element
is asked whether it is there, is a larger part; and where more would not fit on their way."""

STAGES = 4
"""Blocks of such a row that are on their way from memory at a time, or computed with."""

SHARED = 48 << 10
"""Bytes of shared memory for those on their way: what every GPU has for a program."""

PIECE = 2048
"""Elements of a piece of a longer row."""

KEPT = 26
"""Pieces of a row that is written again, up to which all of them stay in registers."""

HOLDERS = (16, 32)
"""Warps of a program that holds pieces: of rows of 2 bytes an element, or where vectors that all
rows share are read too, which takes registers; and of more."""

PASSING, STAYING = ', cache_modifier=".cg"', ', eviction_policy="evict_last"'
"""How a held row is read, and what all rows share: the first leaves the nearest cache to that."""

STREAMING = ', cache_modifier=".cs"'
"""How a held row is written where all rows share something."""

ALIGNED = 16
"""Elements of any type that make a vector."""

LANE = (16, 64)
"""Bytes of a row that a thread holds: where rows are few, and where there are `PLENTY`."""

PLENTY = 1 << 14
"""Rows from which on threads need not be many for each to keep the memory busy."""

TILE = 1024
"""Elements of one program where rows are short and many."""

ACROSS = (64, 32)
"""Rows of one program, and elements of each walked at a time, where rows lie beside each other and
none is written again."""

BESIDE = (128, 8)
"""Bytes across the rows of one program, and elements of each walked at a time, where such rows are
written again."""

NARROW = (32, 256)
"""The same where rows are too few for that to keep processors busy: a program has few neighbours,
and many elements of each at once."""

FEW = 64
"""Programs of the wider kind that are too few."""

AHEAD = 4
"""Blocks of a walked row that are loaded before any of them is computed with."""

PROGRAMS = 512
"""Programs that keep all processors busy: fewer rows share a program only beyond these."""

ALONE = 8
"""Rows so few that each, if it is only read, is a processor's own: by all threads of a program,
each with so many elements at a time (`APIECE`) if it is held."""

APIECE = 4

REACH = 2**31 - 2**16
"""Elements that 32-bit indices reach."""


class TritonRows:
    """How programs walk rows: `block` elements of `together` rows at a time.

    `pieces` is how many blocks of a row are held, 0 where it is walked. `stages` is how many blocks
    of a walked row are copied to shared memory while others are computed with, 0 where registers
    take them. `shifted` is the access that says how far a row begins behind an aligned place, if
    rows begin anywhere. With `once`, one pass over a row gives all that is made of it.
    """

    def __init__(self, given: Accesses, scale: Scale = OWN, once: bool = False) -> None:
        self.given = given
        self.scale = scale
        strides = [read.strides for read in given.reads]
        self.rows = rows = rows_of(given.shape, strides, given.writes, given.apart)
        whole = 1 << max(rows.size - 1, 0).bit_length()
        self.across = self.beside()
        self.shifted: int | None = None
        self.stages = 0
        if self.across:
            few = rows.count * given.itemsize <= FEW * BESIDE[0]
            self.stages = 0 if few else self.staged(math.prod(ACROSS))
            width, self.block = NARROW if few else BESIDE
            self.together = width // given.itemsize
            if self.stages:
                self.together, self.block = ACROSS
            # What is written again is held; sums are added up while more is loaded.
            self.pieces = int(whole <= self.ahead * self.block)
            self.block = whole if self.pieces else scale.size_of(self.block)
        else:
            summed = once and not self.stores_rows()
            self.pieces = int(whole <= (min(SUMMED, HELD) if summed else HELD))
            self.block = whole if self.pieces else BLOCK
            few = max(rows.count // PROGRAMS, 1)
            self.together = min(max(TILE // self.block, 1), 1 << (few.bit_length() - 1))
        if self.pieces:
            self.together = scale.size_of(self.together, BLOCK // self.block)
            return
        if not self.across:
            self.together, self.shifted = 1, self.unaligned()
            piece = max(scale.size_of(PIECE), ALIGNED)
            count = -(-(rows.size + self.slack) // piece)
            if self.holds_pieces() and count <= KEPT:
                self.pieces, self.block = count, piece
                return
            if self.stores_rows():
                self.block = max(scale.size_of(BLOCK), ALIGNED)
                return
            self.block = max(scale.size_of(ONCE[0]), ALIGNED)
            if self.alone:
                return
            if rows.size <= HELD or not self.staged(self.block):
                self.block = max(scale.size_of(min(SHORTER, ONCE[0])), ALIGNED)
            self.stages = self.staged(self.block)

    def staged(self, elements: int) -> int:
        """How many blocks of so many elements are on their way at a time, or computed with; 0 where
        rows are written again, or no block of all that is read along rows fits besides."""
        along = sum(bool(self.rows.steps[r]) for r in self.given.loads)
        fits = SHARED // (max(along, 1) * elements * self.given.itemsize)
        return 0 if self.stores_rows() or not fits else min(STAGES, fits + 1)

    @property
    def alone(self) -> bool:
        """Whether each row has a processor of its own, and is only read."""
        return self.rows.count <= ALONE and not self.stores_rows()

    def stores_rows(self) -> bool:
        """Whether whole rows are written."""
        return any(self.rows.steps[len(self.given.reads) :])

    def holds_pieces(self) -> bool:
        """Whether a row is better held in pieces than walked, if they are few enough.

        Where whole rows are written and those of one operand are read.
        """
        rows = {self.given.reads[r].operand for r in self.given.loads if self.differs(r)}
        return self.stores_rows() and len(rows) == 1 and self.given.itemsize <= 4

    def differs(self, r: int) -> bool:
        """Whether access r is to elements along rows, to others in each row."""
        return bool(self.rows.steps[r]) and any(self.rows.outer.strides[r])

    @property
    def shares(self) -> bool:
        """Whether a vector is read that all rows share."""
        return any(self.rows.steps[r] and not self.differs(r) for r in self.given.loads)

    def unaligned(self) -> int | None:
        """An access to neighbours whose rows begin anywhere: a store, where there is one."""
        count = len(self.rows.steps)
        stores = range(len(self.given.reads), count)
        for r in (*stores, *self.given.loads):
            strides = self.rows.outer.strides[r]
            if self.rows.steps[r] == 1 and any(strides) and self.begins_at(r) % ALIGNED == 0:
                odd = any(s % ALIGNED for s in strides)
                return r if odd and min(strides) >= 0 else None
        return None

    def begins_at(self, r: int) -> int:
        """Elements before the first one of access r."""
        return self.given.reads[r].offset if r < len(self.given.reads) else 0

    def with_shift(self, r: int) -> bool:
        """Whether access r is to neighbours that begin as those of `shifted` do."""
        if self.shifted is None or self.rows.steps[r] != 1 or self.begins_at(r) % ALIGNED:
            return False
        return self.rows.outer.strides[r] == self.rows.outer.strides[self.shifted]

    @property
    def touching(self) -> bool:
        """Whether rows lie one behind the other where one is read from an aligned place: what lies
        before it there is another row's."""
        if self.shifted is None:
            return False
        step, outer = self.rows.size, self.rows.outer
        for size, stride in zip(
            reversed(outer.sizes), reversed(outer.strides[self.shifted]), strict=True
        ):
            if stride != step:
                return False
            step *= size
        return True

    @property
    def slack(self) -> int:
        """Elements by which the aligned place may lie before a row."""
        return 0 if self.shifted is None else ALIGNED - 1

    @property
    def ahead(self) -> int:
        """Blocks of a walked row that are loaded before any of them is computed with."""
        return 1 if self.stages else AHEAD

    @property
    def even(self) -> bool:
        """Whether a walked row is whole blocks, as many as are loaded at a time."""
        return self.shifted is None and self.rows.size % (self.ahead * self.block) == 0

    @property
    def held(self) -> bool:
        """Whether a row is read once, and held."""
        return self.pieces > 0

    def full(self, piece: int) -> bool:
        """Whether every element of a piece is one of the row."""
        begin = piece * self.block
        return begin >= self.slack and begin + self.block <= self.rows.size

    def beside(self) -> bool:
        """Whether neighbours in memory are elements of neighbouring rows, in all that is read."""
        outer = self.rows.outer
        wide = [r for r in self.given.loads if self.rows.steps[r] and any(outer.strides[r])]
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
            return self.scale.warps_of(4)
        if self.pieces > 1:
            return self.scale.warps_of(HOLDERS[self.given.itemsize > 2 and not self.shares])
        if not self.pieces:
            many = self.stores_rows() or self.alone
            return self.scale.warps_of(WALKERS if many else ONCE[1])
        if self.alone:
            own = self.together * self.block // (32 * APIECE)
            return self.scale.warps_of(min(max(own, 1), WALKERS))
        plenty = PLENTY // 2 if self.given.places else PLENTY  # draws are dear: less else for each
        lane = max(LANE[self.rows.count >= plenty] // self.given.itemsize, 8)
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
        """What holds for the elements that there are."""
        before = "(col >= 0) & " if self.shifted is not None else ""
        return f"{before}(col < n) & there" if self.together > 1 else f"{before}(col < n)"

    def arguments(self) -> dict[str, int]:
        """The integers given to the kernel by name: the row's length, sizes and strides."""
        outer = self.rows.outer
        numbers = {"n": self.rows.size}
        if self.together > 1:
            numbers["rows"] = self.rows.count
        numbers |= {f"n{d}": size for d, size in enumerate(outer.sizes) if d > 0}
        for k, strides in enumerate(outer.strides):
            numbers |= {
                self.given.stride(k, d): s for d, s in enumerate(strides) if s not in (0, 1)
            }
            if self.rows.steps[k] not in (0, 1):
                numbers[f"t{k}"] = self.rows.steps[k]
        return numbers | self.given.arguments()

    def divisibility(self) -> dict[str, int]:
        """What divides arguments, as far as that lets loads and stores be vectors."""
        found = {name: math.gcd(value, 16) for name, value in self.arguments().items()}
        return {name: value for name, value in found.items() if value > 1}

    def place(self, r: int) -> str:
        """Where access r has the elements, as an address."""
        terms = [self.given.pointer(r), *self.given.start(r)]
        if self.with_shift(r):
            return " + ".join([*terms, "down", "at"])
        terms += self.row(r)
        if step := self.rows.steps[r]:
            terms.append("col" if step == 1 else f"col * t{r}")
        elif not any(self.rows.outer.strides[r]) and self.mask(r):
            terms.append("i0 * 0")  # a mask of a block takes a block of addresses
        return " + ".join(terms)

    def row(self, r: int) -> list[str]:
        """The terms of an address that tell where a program's rows begin."""
        return [
            f"i{d}" if s == 1 else f"i{d} * {self.given.stride(r, d)}"
            for d, s in enumerate(self.rows.outer.strides[r])
            if s
        ]

    def element(self, printer: TritonPrinter, r: int) -> Expression:
        """Access r, which is to no tensor: the places of the elements."""
        step, strides = self.rows.steps[r], self.rows.outer.strides[r]
        along = ["col" if step == 1 else f"col * t{r}"] if step else []
        code = " + ".join([*self.given.start(r), *self.row(r), *along])
        run = self.given.run(r, (*strides, step), self.block) if self.shifted is None else 1
        return printer.place(code, self.wide, run)

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
        if self.pieces > 1 and self.shares and self.rows.steps[r]:
            mask += (PASSING if self.differs(r) else STAYING) if load else STREAMING
        return mask + "{again}" if wide and load and not self.held and not self.stages else mask

    def index(self, dim: int) -> str:
        """The index of a dimension that has a loop of its own, or is the row."""
        if dim == len(self.given.shape) - 1:
            return "col"
        return f"i{self.rows.outer.dims.index((dim,))}"
