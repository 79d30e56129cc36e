"""Elementary functions: roots, exponentials, logarithms and trigonometry, elementwise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from lazytorch.ops.base import Pointwise
from lazytorch.ops.emitter import Emitter, Value

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents


class Elementary(Pointwise, abstract=True):
    """A function of floating (or complex) numbers: integers become the default floating dtype."""

    result: ClassVar[Literal["same", "float", "bool"]] = "float"


class Reciprocal(Elementary):
    """1 / x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.reciprocal(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(s.neg(g), s.mul(out, out)),)


class Sqrt(Elementary):
    """The square root; NaN below zero."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.sqrt(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.div(g, s.mul(out, 2.0)),)


class Rsqrt(Elementary):
    """1 / sqrt(x)."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.rsqrt(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(s.mul(g, -0.5), s.pow(out, 3.0)),)


class Exp(Elementary):
    """e to the power x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.exp(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(g, out),)


class Exp2(Elementary):
    """2 to the power x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.exp2(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(s.mul(g, out), math.log(2)),)


class Expm1(Elementary):
    """exp(x) - 1, accurate near zero."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.expm1(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(g, s.add(out, 1.0)),)


class Log(Elementary):
    """The natural logarithm."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.log(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.div(g, x),)


class Log2(Elementary):
    """The logarithm to the base 2."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.log2(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.div(g, s.mul(x, math.log(2))),)


class Log10(Elementary):
    """The logarithm to the base 10."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.log10(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.div(g, s.mul(x, math.log(10))),)


class Log1p(Elementary):
    """log(1 + x), accurate near zero."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.log1p(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.div(g, s.add(x, 1.0)),)


class Sin(Elementary):
    """The sine of x radians."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.sin(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(g, s.cos(x)),)


class Cos(Elementary):
    """The cosine of x radians."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.cos(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(g, s.neg(s.sin(x))),)


class Tan(Elementary):
    """The tangent of x radians."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.tan(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(g, s.add(s.mul(out, out), 1.0)),)


class Asin(Elementary):
    """The angle whose sine is x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.asin(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(g, s.rsqrt(s.sub(1.0, s.mul(x, x)))),)


class Acos(Elementary):
    """The angle whose cosine is x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.acos(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(g, s.neg(s.rsqrt(s.sub(1.0, s.mul(x, x))))),)


class Atan(Elementary):
    """The angle whose tangent is x."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.atan(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.div(g, s.add(s.mul(x, x), 1.0)),)


class Sinh(Elementary):
    """The hyperbolic sine."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.sinh(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(g, s.cosh(x)),)


class Cosh(Elementary):
    """The hyperbolic cosine."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.cosh(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(g, s.sinh(x)),)


class Tanh(Elementary):
    """The hyperbolic tangent."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.tanh(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, out = s.wide(g, out)
        return (s.mul(g, s.sub(1.0, s.mul(out, out))),)


class Sigmoid(Elementary):
    """1 / (1 + exp(-x))."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.sigmoid(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, out = s.wide(g, out)
        return (s.mul(s.mul(g, s.sub(1.0, out)), out),)


class Erf(Elementary):
    """The error function."""

    kinds: ClassVar[tuple[int, ...]] = (2,)

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.erf(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.mul(s.mul(s.exp(s.neg(s.mul(x, x))), 2 / math.sqrt(math.pi)), g),)
