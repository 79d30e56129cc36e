"""Operations that only choose where to read: joins, padding, reversal, windows.

In a generated kernel they cost no memory traffic of their own: what reads them reads their operands
at other places.
"""

from __future__ import annotations

from dataclasses import dataclass

from lazytorch.ir import Op
from lazytorch.ops.emitter import Emitter, Value
from lazytorch.types import Number, TensorType


@dataclass(frozen=True, slots=True)
class Place:
    """Where operand number `operand` is read: at `scales[d] * i + shifts[d]` in dimension d, for
    index i of the result. There are `scales` for every dimension of the result."""

    operand: int
    scales: tuple[int, ...]
    shifts: tuple[int, ...]


def shifted(operand: int, rank: int, dim: int, shift: int) -> Place:
    """The place that is `shift` further along one dimension."""
    shifts = tuple([shift if d == dim else 0 for d in range(rank)])
    return Place(operand, (1,) * rank, shifts)


class Affine(Op, abstract=True):
    """An element of the result is made of elements of the operands at places affine in its own."""

    @property
    def fill(self) -> Number | None:
        """What stands for elements outside the operands, where one number does."""
        return None

    def places(self, *xs: TensorType) -> list[Place]:
        """Where the operands are read for an element of the result."""
        raise NotImplementedError(f"{self.name()} does not say where it reads")

    def readable(self, *xs: TensorType) -> bool:
        """Whether `places` and `emit` hold for such operands."""
        return True

    def emit(self, s: Emitter, *found: tuple[Value, Value]) -> Value:
        """The element, from each place's value and whether that lies inside the operand: True, or
        a condition. Where it does not hold the value is `fill`, or means nothing if there is none.
        """
        raise NotImplementedError(f"{self.name()} has no arithmetic")
