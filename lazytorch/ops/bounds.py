"""Elementwise bounds: the larger and the smaller of two, values kept within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from lazytorch.ops.base import Pointwise, operands_as_tensors
from lazytorch.ops.emitter import Emitter, Value

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents

REAL = (0, 1, 2)
REAL_NUMBERS = (1, 2)


class Maximum(Pointwise):
    """The larger of two; NaN when either is."""

    takes_numbers: ClassVar[Literal["anywhere", "right", "nowhere"]] = "nowhere"
    kinds: ClassVar[tuple[int, ...]] = REAL

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.maximum(x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        return (won(s, g, x, y, s.lt(x, y)), won(s, g, x, y, s.gt(x, y)))


class Minimum(Pointwise):
    """The smaller of two; NaN when either is."""

    takes_numbers: ClassVar[Literal["anywhere", "right", "nowhere"]] = "nowhere"
    kinds: ClassVar[tuple[int, ...]] = REAL

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.minimum(x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        return (won(s, g, x, y, s.gt(x, y)), won(s, g, x, y, s.lt(x, y)))


class ClampMin(Pointwise):
    """x, or the bound where x is below it; NaN when either is."""

    overloads: ClassVar[tuple[str, ...]] = ("clamp_min", "clamp_min.Tensor")
    numbers: ClassVar[bool] = False
    kinds: ClassVar[tuple[int, ...]] = REAL

    def emit(self, s: Emitter, x: Value, bound: Value) -> Value:
        return s.clamp_min(x, bound)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, bound: Node) -> Cotangents:
        return (s.choose(s.ge(x, bound), g, 0.0), s.choose(s.lt(x, bound), g, 0.0))


class ClampMax(Pointwise):
    """x, or the bound where x is above it; NaN when either is."""

    overloads: ClassVar[tuple[str, ...]] = ("clamp_max", "clamp_max.Tensor")
    numbers: ClassVar[bool] = False
    kinds: ClassVar[tuple[int, ...]] = REAL

    def emit(self, s: Emitter, x: Value, bound: Value) -> Value:
        return s.clamp_max(x, bound)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, bound: Node) -> Cotangents:
        return (s.choose(s.le(x, bound), g, 0.0), s.choose(s.gt(x, bound), g, 0.0))


class Clamp(Pointwise):
    """x within two bounds; the upper bound where they cross; NaN when any is."""

    overloads: ClassVar[tuple[str, ...]] = ("clamp", "clamp.Tensor")
    numbers: ClassVar[bool] = False
    kinds: ClassVar[tuple[int, ...]] = REAL_NUMBERS

    def emit(self, s: Emitter, x: Value, low: Value, high: Value) -> Value:
        return s.clamp_max(s.clamp_min(x, low), high)

    def run(self, x: Any, low: Any, high: Any) -> Any:
        if isinstance(low, torch.Tensor) != isinstance(high, torch.Tensor):
            x, low, high = operands_as_tensors((x, low, high))
        return torch.clamp(x, low, high)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, low: Node, high: Node) -> Cotangents:
        inside = s.logical_and(s.ge(x, low), s.le(x, high))
        below = s.logical_and(s.lt(x, low), s.lt(low, high))
        above = s.logical_or(s.gt(x, high), s.lt(high, low))
        return [s.choose(condition, g, 0.0) for condition in (inside, below, above)]


def won(s: Calculus, g: Node, x: Node, y: Node, lost: Node) -> Node:
    """What flows to one of two that compete: nothing where it lost, half where they are equal."""
    return s.choose(lost, 0.0, s.choose(s.eq(x, y), s.mul(g, 0.5), g))
