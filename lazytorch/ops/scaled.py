"""Sums with a scaled term, which optimizers are made of, rounded as torch's kernels round them.

A kernel that has one of them contracts no other product and sum: an update by the same gradients is
then eager's own, bit by bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lazytorch.errors import DTypeError
from lazytorch.ops.base import Pointwise
from lazytorch.ops.emitter import Emitter, Value, fma
from lazytorch.types import TensorType, Type, promote

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents

NUMBERS = (1, 2, 3)
INEXACT = (2, 3)


class AddScaled(Pointwise):
    """x + alpha * y of floating tensors of one dtype; alpha is a number."""

    kinds: ClassVar[tuple[int, ...]] = INEXACT
    numbers: ClassVar[bool] = False
    eagers: ClassVar[bool] = True

    def compute_dtype(self, *xs: Type) -> torch.dtype:
        return promote(xs[:2])

    def emit(self, s: Emitter, x: Value, y: Value, alpha: Value) -> Value:
        return fma(s, alpha, y, x)

    def run(self, x: Any, y: Any, alpha: Any) -> Any:
        return torch.add(x, y, alpha=alpha)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node, alpha: Node) -> Cotangents:
        return (g, s.mul(g, alpha), None)


class Lerp(Pointwise):
    """x + weight * (y - x), formed from the nearer end; all of one dtype, save a 0-d weight."""

    overloads: ClassVar[tuple[str, ...]] = ("lerp.Scalar", "lerp.Tensor")
    numbers: ClassVar[bool] = False
    kinds: ClassVar[tuple[int, ...]] = INEXACT
    eagers: ClassVar[bool] = True

    def compute_dtype(self, *xs: Type) -> torch.dtype:
        return promote(x for x in xs if isinstance(x, TensorType))

    def result_dtype(self, *xs: Type) -> torch.dtype:
        x, y, weight = xs
        matched = [t.dtype for t in (x, y) if isinstance(t, TensorType)]
        if isinstance(weight, TensorType) and weight.shape:
            matched.append(weight.dtype)
        if any(dtype is not matched[0] for dtype in matched):
            raise DTypeError("lerp: the operands must be of one dtype")
        return super().result_dtype(*xs)

    def emit(self, s: Emitter, x: Value, y: Value, weight: Value) -> Value:
        near, far = fma(s, weight, y - x, x), fma(s, weight - 1, y - x, y)
        return s.where(s.lt(s.abs(weight), 0.5), near, far)

    def run(self, x: Any, y: Any, weight: Any) -> Any:
        return torch.lerp(x, y, weight)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node, w: Node) -> Cotangents:
        return (s.mul(g, s.sub(1.0, w)), s.mul(g, w), s.mul(g, s.sub(y, x)))


class Addcmul(Pointwise):
    """x + value * y * z."""

    kinds: ClassVar[tuple[int, ...]] = NUMBERS
    numbers: ClassVar[bool] = False
    eagers: ClassVar[bool] = True

    def compute_dtype(self, *xs: Type) -> torch.dtype:
        return promote(xs[:3])

    def emit(self, s: Emitter, x: Value, y: Value, z: Value, value: Value) -> Value:
        return fma(s, value * y, z, x)

    def run(self, x: Any, y: Any, z: Any, value: Any) -> Any:
        return torch.addcmul(x, y, z, value=value)

    def vjp(
        self, s: Calculus, g: Node, out: Node, x: Node, y: Node, z: Node, value: Node
    ) -> Cotangents:
        return (g, s.mul(g, s.mul(z, value)), s.mul(g, s.mul(y, value)), None)


class Addcdiv(Pointwise):
    """x + value * y / z."""

    numbers: ClassVar[bool] = False
    kinds: ClassVar[tuple[int, ...]] = INEXACT
    eagers: ClassVar[bool] = True

    def compute_dtype(self, *xs: Type) -> torch.dtype:
        return promote(xs[:3])

    def emit(self, s: Emitter, x: Value, y: Value, z: Value, value: Value) -> Value:
        return x + value * y / z

    def run(self, x: Any, y: Any, z: Any, value: Any) -> Any:
        return torch.addcdiv(x, y, z, value=value)

    def vjp(
        self, s: Calculus, g: Node, out: Node, x: Node, y: Node, z: Node, value: Node
    ) -> Cotangents:
        by_divisor = s.div(s.mul(y, value), s.mul(z, z))
        return (g, s.mul(g, s.div(value, z)), s.mul(s.neg(g), by_divisor), None)
