"""Triton kernels whose operands lie in memory in different orders: a transposed read, say.

A program computes a tile of two loops, the one in which the results are neighbours and the one in
which an operand is. Each load then finds neighbours along one of the tile's sides; Triton turns
what was loaded across through shared memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from lazytorch.lower.expression import Expression, print_steps
from lazytorch.lower.index import Loops
from lazytorch.lower.steps import Bound, Steps
from lazytorch.lower.triton.access import Accesses
from lazytorch.lower.triton.printer import TritonPrinter, stored
from lazytorch.lower.triton.scale import OWN, Scale
from lazytorch.types import TensorType

SIDE = 64
"""Elements of a tile's side, unless it is scaled."""

SHORT = 16
"""A loop shorter than this fills no side."""

REACH = 2**31 - 2**16
"""Elements that 32-bit indices reach."""


@dataclass(frozen=True)
class Tiles:
    """How programs walk the loops: tiles of loop `across` and the innermost one."""

    given: Accesses
    loops: Loops
    across: int
    scale: Scale = OWN

    @property
    def side(self) -> int:
        """Elements of a tile's side."""
        return self.scale.size_of(SIDE)

    @property
    def inner(self) -> int:
        """The innermost loop, in which the results are neighbours."""
        return len(self.loops.sizes) - 1

    @property
    def grid(self) -> int:
        """How many tiles there are."""
        return math.prod(
            -(-size // self.side) if d in (self.across, self.inner) else size
            for d, size in enumerate(self.loops.sizes)
        )

    @property
    def warps(self) -> int:
        """Warps of one program: 16 elements a thread."""
        return self.scale.warps_of(8)

    @cached_property
    def wide(self) -> bool:
        """Whether 32-bit indices do not reach."""
        return any(
            sum(size * abs(s) for size, s in zip(self.loops.sizes, strides, strict=True)) >= REACH
            for strides in self.loops.strides
        )

    def arguments(self) -> dict[str, int]:
        """The integers given to the kernel by name: sizes and strides."""
        numbers = {f"n{d}": size for d, size in enumerate(self.loops.sizes)}
        for r, strides in enumerate(self.loops.strides):
            pairs = enumerate(strides)
            numbers |= {self.given.stride(r, d): s for d, s in pairs if s not in (0, 1)}
        return numbers | self.given.arguments()

    def divisibility(self) -> dict[str, int]:
        """What divides arguments, as far as that lets loads and stores be vectors."""
        return {name: 16 for name, value in self.arguments().items() if value % 16 == 0}

    def index(self, dim: int) -> str:
        """The index of a dimension that has a loop of its own."""
        return f"i{self.loops.dims.index((dim,))}"

    def address(self, r: int) -> str:
        """Where access r has the elements."""
        return " + ".join([self.given.pointer(r), *self.given.start(r), *self.terms(r)])

    def terms(self, r: int) -> list[str]:
        """The terms of an address that tell the element."""
        return [
            f"i{d}" if stride == 1 else f"i{d} * {self.given.stride(r, d)}"
            for d, stride in enumerate(self.loops.strides[r])
            if stride
        ]

    def place(self, printer: TritonPrinter, r: int) -> Expression:
        """Access r, which is to no tensor."""
        code, strides = " + ".join([*self.given.start(r), *self.terms(r)]), self.loops.strides[r]
        whole = all(strides[d] for d in (self.across, self.inner))
        run = self.given.run(r, strides, self.side) if whole else 1
        return printer.place(code, self.wide, run)

    def load(self, r: int) -> str:
        """Load r, once for the tile where all share it."""
        where = self.given.condition(self.given.reads[r].bounds, self.index)
        address = self.address(r)
        many = any(self.loops.strides[r][d] for d in (self.across, self.inner))
        if where and not many:
            address += f" + i{self.inner} * 0"  # a mask of a block takes a block of addresses
        if where or many:
            where.append("mask")
        mask = [" & ".join(where)] if where else []
        return f"tl.load({', '.join([address, *mask, *self.given.other(r)])})"


def tiles_of(given: Accesses, loops: Loops, scale: Scale = OWN) -> Tiles | None:
    """Tiles, where a load has its neighbours in another loop than the results; else None."""
    inner = len(loops.sizes) - 1
    reads = loops.strides[: len(given.loads)]
    writes = loops.strides[len(given.reads) :]
    if loops.sizes[inner] < SHORT or any(s[inner] != 1 for s in writes):
        return None
    for strides in reads:
        across = [d for d in range(inner) if strides[d] == 1 and loops.sizes[d] >= SHORT]
        if across and strides[inner] > 1:
            return Tiles(given, loops, across[0], scale)
    return None


def tile_statements(
    found: Steps, outputs: tuple[TensorType, ...], walk: Tiles, rounding: bool
) -> list[str]:
    """Statements that find a program's tile, load, compute and store it."""
    printer, size = TritonPrinter(rounding), walk.side
    lines = [f"rest = tl.program_id(0){'.to(tl.int64)' if walk.wide else ''}"]
    for d in sorted(range(walk.inner + 1), key=lambda d: (d not in (walk.across, walk.inner), -d)):
        side = d in (walk.across, walk.inner)
        count = f"((n{d} + {size - 1}) // {size})" if side else f"n{d}"
        lines += [f"i{d} = rest % {count}", f"rest = rest // {count}"]
    for d, place in ((walk.across, "[:, None]"), (walk.inner, "[None, :]")):
        lines.append(f"i{d} = i{d} * {size} + tl.arange(0, {size}){place}")
    a, b = walk.across, walk.inner
    lines.append(f"mask = (i{a} < n{a}) & (i{b} < n{b})")
    printer.lines += lines
    inputs = printer.operands(found.inputs(), walk.load)

    def inside(bounds: tuple[Bound, ...]) -> Expression:
        return printer.bind(" & ".join(walk.given.condition(bounds, walk.index)), torch.bool)

    places = [walk.place(printer, r) for r in walk.given.places]
    values = print_steps(printer, found, inputs, inside, places)
    for r, (x, value) in enumerate(zip(outputs, values, strict=True), len(walk.given.reads)):
        printer.lines.append(f"tl.store({walk.address(r)}, {stored(value.code, x.dtype)}, mask)")
    return printer.lines
