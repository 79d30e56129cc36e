"""Where a Triton kernel reads and writes: its integer arguments, addresses and masks.

Accesses are numbered: the loads first, then the stores. Access r has strides `s{r}_{d}` in loop d,
starts `o{r}` elements behind its operand's first one, and is there where its bounds hold: bound q
says that an index is at least `l{q}` and less than `h{q}`. The last loads are none: they are the
places themselves, which arithmetic asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from lazytorch.lower.index import Loops, collapse
from lazytorch.lower.steps import Bound, Read
from lazytorch.ops.base import broadcast_strides
from lazytorch.types import Shape, Strides, TensorType


@dataclass(frozen=True)
class Accesses:
    """The loads and stores of one kernel over `shape`; the widest element has `itemsize` bytes."""

    shape: Shape
    reads: tuple[Read, ...]
    writes: tuple[Strides, ...]
    operands: int
    itemsize: int

    @cached_property
    def bounds(self) -> tuple[Bound, ...]:
        """Every bound once."""
        return tuple(dict.fromkeys(b for read in self.reads for b in read.bounds))

    @cached_property
    def apart(self) -> frozenset[int]:
        """The dimensions whose index bounds ask for."""
        return frozenset(b.dim for b in self.bounds)

    def loops(self) -> Loops:
        """The loops over all dimensions."""
        return collapse(self.shape, [r.strides for r in self.reads], self.writes, self.apart)

    @cached_property
    def loads(self) -> range:
        """The accesses that load."""
        return range(sum(read.operand is not None for read in self.reads))

    @property
    def places(self) -> range:
        """The accesses that are places themselves."""
        return range(len(self.loads), len(self.reads))

    def run(self, r: int, strides: Strides, block: int) -> int:
        """How many elements of an access lie one after the other, from a multiple of that on, where
        it has `strides`, the innermost last, and the innermost loop goes in blocks: 8, 4 or 1."""
        if strides[-1] != 1:
            return 1
        common = math.gcd(8, block, self.reads[r].offset, *strides[:-1])
        return common if common >= 4 else 1

    def pointer(self, r: int) -> str:
        """The argument that an access starts from."""
        if r < len(self.reads):
            return f"p{self.reads[r].operand}"
        return f"p{self.operands + r - len(self.reads)}"

    def other(self, r: int) -> list[str]:
        """What a load gives where there is no element, as an argument; a bfloat16 by its value."""
        fill = self.reads[r].fill
        if fill is None or not self.reads[r].bounds:
            return []
        text = repr(fill) if math.isfinite(fill.real) else f'float("{fill}")'
        return [f"other={text}"]

    def stride(self, r: int, d: int) -> str:
        """The argument that is access r's stride in loop d: one for all loads of an operand that
        walk it alike."""
        if r < len(self.reads):
            own = self.reads[r]
            r = next(
                i
                for i, x in enumerate(self.reads)
                if (x.operand, x.strides) == (own.operand, own.strides)
            )
        return f"s{r}_{d}"

    def start(self, r: int) -> list[str]:
        """The term of an address that tells where an access starts."""
        return [f"o{r}"] if r < len(self.reads) and self.reads[r].offset else []

    def arguments(self) -> dict[str, int]:
        """Offsets and bounds by name."""
        numbers = {f"o{r}": x.offset for r, x in enumerate(self.reads) if x.offset}
        for q, bound in enumerate(self.bounds):
            if bound.low is not None:
                numbers[f"l{q}"] = bound.low
            if bound.high is not None:
                numbers[f"h{q}"] = bound.high
        return numbers

    def condition(self, bounds: Sequence[Bound], index: Callable[[int], str]) -> list[str]:
        """What holds where bounds do; `index` names the index of a dimension."""
        found: list[str] = []
        for bound in bounds:
            q = self.bounds.index(bound)
            if bound.low is not None:
                found.append(f"({index(bound.dim)} >= l{q})")
            if bound.high is not None:
                found.append(f"({index(bound.dim)} < h{q})")
        return found


def accesses(
    shape: Shape,
    reads: Sequence[Read],
    operands: Sequence[TensorType],
    outputs: Sequence[TensorType],
) -> Accesses:
    """The accesses of a kernel that writes `outputs`, each of which broadcasts to `shape`."""
    writes = tuple([broadcast_strides(x, shape) for x in outputs])
    wide = [x for x in operands if x.numel > 1]  # one element is read once, whatever it takes
    itemsize = max(x.dtype.itemsize for x in (*wide, *outputs))
    return Accesses(shape, tuple(reads), writes, len(operands), itemsize)
