"""How a kernel walks its operands: the fewest loops that visit every element in memory order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lazytorch.ops.base import broadcast_strides
from lazytorch.types import Shape, Strides, TensorType


@dataclass(frozen=True, slots=True)
class Loops:
    """Nested loops from the outermost to the innermost; at least one, none of size 1 but the only.

    `strides[k][i]` is how many elements operand k advances by when loop i does: 0 where the
    operand is repeated. Without elements the sizes are `(0,)`. `dims[i]` are the dimensions that
    loop i visits.
    """

    sizes: Shape
    strides: tuple[Strides, ...]
    dims: tuple[tuple[int, ...], ...] = field(default=(), compare=False)

    @property
    def numel(self) -> int:
        """How many elements the loops visit."""
        count = 1
        for size in self.sizes:
            count *= size
        return count


def kernel_loops(operands: Sequence[TensorType], outputs: Sequence[TensorType]) -> Loops:
    """Loops of an elementwise kernel over `outputs` (one shape) that reads broadcast `operands`.

    The strides are those of the operands, then those of the outputs.
    """
    shape = outputs[0].shape
    return collapse(
        shape, [broadcast_strides(x, shape) for x in operands], [x.strides for x in outputs]
    )


def collapse(
    shape: Shape,
    reads: Sequence[Strides],
    writes: Sequence[Strides],
    apart: frozenset[int] = frozenset(),
) -> Loops:
    """Drop loops of size 1, order the rest as the writes lie in memory, merge what is jointly flat.

    Every operand has one stride per dimension of `shape`. Writes do not overlap themselves. The
    dimensions `apart` keep loops of their own.
    """
    operands = (*reads, *writes)
    if 0 in shape:
        return Loops((0,), ((1,),) * len(operands))
    dims = [d for d, size in enumerate(shape) if size != 1 or d in apart]
    # Writes first: a scattered write costs more than a scattered read. Reads break no ties here,
    # because a dense write leaves none.
    dims.sort(key=lambda d: tuple(-strides[d] for strides in writes))
    merged: list[list[int]] = []
    for dim in dims:
        alone = dim in apart or (merged and merged[-1][-1] in apart)
        flat = merged and all(s[merged[-1][-1]] == s[dim] * shape[dim] for s in operands)
        if flat and not alone:
            merged[-1].append(dim)
        else:
            merged.append([dim])
    if not merged:
        return Loops((1,), ((1,),) * len(operands))
    sizes = [1] * len(merged)
    for loop, group in enumerate(merged):
        for dim in group:
            sizes[loop] *= shape[dim]
    strides = tuple([tuple([s[group[-1]] for group in merged]) for s in operands])
    return Loops(tuple(sizes), strides, tuple([tuple(group) for group in merged]))
