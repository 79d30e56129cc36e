"""Elementwise arithmetic: what numbers of one dtype give a number of that dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from lazytorch.errors import DTypeError
from lazytorch.ir import Const
from lazytorch.ops.base import Pointwise
from lazytorch.ops.bounds import Clamp as Clamp
from lazytorch.ops.bounds import ClampMax as ClampMax
from lazytorch.ops.bounds import ClampMin as ClampMin
from lazytorch.ops.bounds import Maximum as Maximum
from lazytorch.ops.bounds import Minimum as Minimum
from lazytorch.ops.emitter import Emitter, Value, cast
from lazytorch.ops.scaled import Addcdiv as Addcdiv
from lazytorch.ops.scaled import Addcmul as Addcmul
from lazytorch.ops.scaled import AddScaled as AddScaled
from lazytorch.ops.scaled import Lerp as Lerp
from lazytorch.types import ScalarType, TensorType, Type, contiguous_strides, kind_of, promote

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents

REAL = (0, 1, 2)
NUMBERS = (1, 2, 3)
REAL_NUMBERS = (1, 2)
FLOATING = (2,)
INEXACT = (2, 3)


class Add(Pointwise):
    """x + y."""

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.add(x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        return (g, g)


class Sub(Pointwise):
    """x - y; refused, as torch does, when an operand is boolean."""

    overloads: ClassVar[tuple[str, ...]] = ("sub.Tensor",)

    def result_dtype(self, *xs: Type) -> torch.dtype:
        if any(is_bool(x) for x in xs):
            raise DTypeError(
                "sub: subtraction with a bool operand is not supported", hint="use ^ or logical_xor"
            )
        return super().result_dtype(*xs)

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.sub(x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        return (g, s.neg(g))


class Mul(Pointwise):
    """x * y."""

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.mul(x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        return (s.mul(g, y), s.mul(g, x))


class Div(Pointwise):
    """x / y, true division: integers become the default floating dtype."""

    result: ClassVar[Literal["same", "float", "bool"]] = "float"

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.true_divide(x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        return (s.div(g, y), s.mul(s.neg(g), s.div(out, y)))


class FloorDivide(Pointwise):
    """x / y rounded towards minus infinity."""

    kinds: ClassVar[tuple[int, ...]] = REAL_NUMBERS

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.floor_divide(x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        return s.zeros(x, y)


class TruncDivide(Pointwise):
    """x / y rounded towards zero, of floating operands."""

    kinds: ClassVar[tuple[int, ...]] = FLOATING

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.trunc(s.true_divide(x, y))

    def run(self, x: Any, y: Any) -> Any:
        return torch.div(x, y, rounding_mode="trunc")

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        return s.zeros(x, y)


class Remainder(Pointwise):
    """x modulo y with the sign of y."""

    overloads: ClassVar[tuple[str, ...]] = tuple(
        f"remainder.{variant}" for variant in ("Tensor", "Scalar", "Scalar_Tensor")
    )
    kinds: ClassVar[tuple[int, ...]] = REAL_NUMBERS

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.remainder(x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        return (g, s.mul(s.neg(g), s.floor_divide(x, y)))


class Fmod(Pointwise):
    """x modulo y with the sign of x."""

    takes_numbers: ClassVar[Literal["anywhere", "right", "nowhere"]] = "right"
    kinds: ClassVar[tuple[int, ...]] = REAL_NUMBERS

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.fmod(x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        return (g, s.mul(s.neg(g), s.trunc_divide(x, y)))


class Pow(Pointwise):
    """x to the power y."""

    overloads: ClassVar[tuple[str, ...]] = tuple(
        f"pow.{variant}" for variant in ("Tensor_Tensor", "Tensor_Scalar", "Scalar")
    )
    numbers: ClassVar[bool] = False
    kinds: ClassVar[tuple[int, ...]] = NUMBERS

    def infer(self, *xs: Any, **_: Any) -> Type:
        typed = super().infer(*xs)
        if isinstance(xs[0], ScalarType) and isinstance(typed, TensorType):
            return typed.with_strides(contiguous_strides(typed.shape))  # torch makes it row-major
        return typed

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.pow(x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        if isinstance(y.op, Const):
            if y.op.value == 0:
                return s.zeros(x, y)
            return (s.mul(g, s.mul(s.pow(x, y.op.value - 1), y)), None)
        x, y = s.as_tensor(x, out), s.as_tensor(y, out)
        base = s.choose(s.eq(y, 0.0), 0.0, s.mul(g, s.mul(y, s.pow(x, s.sub(y, 1.0)))))
        x = s.match(x, out)
        still = s.logical_and(s.eq(x, 0.0), s.ge(y, 0.0))
        return (base, s.mul(g, s.choose(still, 0.0, s.mul(out, s.log(x)))))


class Square(Pointwise):
    """x * x."""

    def compute_dtype(self, *xs: Type) -> torch.dtype:
        dtype = promote(xs)
        return torch.int64 if dtype is torch.bool else dtype

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.mul(x, x)

    def run(self, x: Any) -> Any:
        return torch.square(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(g, s.mul(x, 2.0)),)


class Atan2(Pointwise):
    """The angle of the point (y, x), in radians: atan2(x, y) is the angle of x over y."""

    result: ClassVar[Literal["same", "float", "bool"]] = "float"
    takes_numbers: ClassVar[Literal["anywhere", "right", "nowhere"]] = "nowhere"
    kinds: ClassVar[tuple[int, ...]] = FLOATING

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.atan2(x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, y: Node) -> Cotangents:
        square = s.add(s.mul(x, x), s.mul(y, y))
        recip = s.choose(s.eq(square, 0.0), 0.0, s.reciprocal(square))
        return (s.mul(s.mul(g, y), recip), s.mul(s.mul(g, s.neg(x)), recip))


class Neg(Pointwise):
    """-x; unsigned integers wrap."""

    kinds: ClassVar[tuple[int, ...]] = NUMBERS

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.neg(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.neg(g),)


class Abs(Pointwise):
    """The magnitude: a real number, also of a complex one."""

    kinds: ClassVar[tuple[int, ...]] = NUMBERS

    def result_dtype(self, *xs: Type) -> torch.dtype:
        dtype = super().result_dtype(*xs)
        return dtype.to_real() if dtype.is_complex else dtype

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.abs(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(g, s.sign(x)),)


class Sign(Pointwise):
    """-1, 0 or 1; NaN gives 0."""

    kinds: ClassVar[tuple[int, ...]] = REAL

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.sign(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return s.zeros(x)


class Floor(Pointwise):
    """The largest integer not above x."""

    kinds: ClassVar[tuple[int, ...]] = REAL_NUMBERS

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.floor(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return s.zeros(x)


class Ceil(Pointwise):
    """The smallest integer not below x."""

    kinds: ClassVar[tuple[int, ...]] = REAL_NUMBERS

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.ceil(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return s.zeros(x)


class Trunc(Pointwise):
    """x rounded towards zero."""

    kinds: ClassVar[tuple[int, ...]] = REAL_NUMBERS

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.trunc(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return s.zeros(x)


class Round(Pointwise):
    """x rounded to the nearest integer, halves to the even one."""

    kinds: ClassVar[tuple[int, ...]] = REAL_NUMBERS

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.round(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return s.zeros(x)


class Cast(Pointwise):
    """x converted to another dtype."""

    dtype: torch.dtype

    def infer(self, *xs: Any, **_: Any) -> Type:
        (x,) = xs
        if isinstance(x, TensorType):
            return x.dense().with_dtype(self.dtype)
        return ScalarType((bool, int, float, complex)[kind_of(self.dtype)])

    def emit(self, s: Emitter, x: Value) -> Value:
        return cast(s, x, self.dtype)

    def run(self, x: Any) -> Any:
        return x.to(self.dtype, copy=True)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (g,)


def is_bool(x: Type) -> bool:
    """Whether a value is boolean, tensor or number."""
    return x.dtype is torch.bool if isinstance(x, TensorType) else x == ScalarType(bool)
