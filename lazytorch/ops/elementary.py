"""Elementary functions: roots, exponentials, logarithms and trigonometry, elementwise."""

from __future__ import annotations

from typing import ClassVar, Literal

from lazytorch.ops.base import Pointwise
from lazytorch.ops.emitter import Emitter, Value


class Elementary(Pointwise, abstract=True):
    """A function of floating (or complex) numbers: integers become the default floating dtype."""

    result: ClassVar[Literal["same", "float", "bool"]] = "float"


class Reciprocal(Elementary):
    """1 / x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.reciprocal(x)


class Sqrt(Elementary):
    """The square root; NaN below zero."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.sqrt(x)


class Rsqrt(Elementary):
    """1 / sqrt(x)."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.rsqrt(x)


class Exp(Elementary):
    """e to the power x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.exp(x)


class Exp2(Elementary):
    """2 to the power x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.exp2(x)


class Expm1(Elementary):
    """exp(x) - 1, accurate near zero."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.expm1(x)


class Log(Elementary):
    """The natural logarithm."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.log(x)


class Log2(Elementary):
    """The logarithm to the base 2."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.log2(x)


class Log10(Elementary):
    """The logarithm to the base 10."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.log10(x)


class Log1p(Elementary):
    """log(1 + x), accurate near zero."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.log1p(x)


class Sin(Elementary):
    """The sine of x radians."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.sin(x)


class Cos(Elementary):
    """The cosine of x radians."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.cos(x)


class Tan(Elementary):
    """The tangent of x radians."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.tan(x)


class Asin(Elementary):
    """The angle whose sine is x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.asin(x)


class Acos(Elementary):
    """The angle whose cosine is x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.acos(x)


class Atan(Elementary):
    """The angle whose tangent is x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.atan(x)


class Sinh(Elementary):
    """The hyperbolic sine."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.sinh(x)


class Cosh(Elementary):
    """The hyperbolic cosine."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.cosh(x)


class Tanh(Elementary):
    """The hyperbolic tangent."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.tanh(x)


class Sigmoid(Elementary):
    """1 / (1 + exp(-x))."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.sigmoid(x)


class Erf(Elementary):
    """The error function."""

    kinds: ClassVar[tuple[int, ...]] = (2,)

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.erf(x)
