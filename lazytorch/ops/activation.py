"""Activation functions: elementwise, composed for generated kernels, run by torch's.

Derivatives multiply with the cotangent early: what is left are functions of x alone, which fusion
computes where they are read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch.nn import functional

from lazytorch.ops.base import Pointwise
from lazytorch.ops.emitter import Emitter, Value
from lazytorch.types import TensorType, Type, contiguous_strides

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents


class Activation(Pointwise, abstract=True):
    """A function of one floating operand."""

    kinds: ClassVar[tuple[int, ...]] = (2,)


class Relu(Pointwise):
    """max(x, 0); NaN stays."""

    kinds: ClassVar[tuple[int, ...]] = (1, 2)
    overwrites: ClassVar[int | None] = 0

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.clamp_min(x, 0)

    def run(self, x: Any) -> Any:
        return torch.relu(x)

    def overwrite(self, x: Any) -> Any:
        return torch.relu_(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.choose(s.le(out, 0.0), 0.0, g),)


class Hardtanh(Activation):
    """x within two bounds, such as relu6's 0 and 6."""

    overwrites: ClassVar[int | None] = 0
    low: float = -1.0
    high: float = 1.0

    def infer(self, *xs: Any, **_: Any) -> Type:
        typed = super().infer(*xs)
        assert isinstance(typed, TensorType)
        return xs[0].dense().with_dtype(typed.dtype)  # made by torch.empty_like

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.clamp_max(s.clamp_min(x, self.low), self.high)

    def run(self, x: Any) -> Any:
        return torch.ops.aten.hardtanh(x, self.low, self.high)

    def overwrite(self, x: Any) -> Any:
        return torch.ops.aten.hardtanh_(x, self.low, self.high)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        outside = s.logical_or(s.le(x, self.low), s.ge(x, self.high))
        return (s.choose(outside, 0.0, g),)


class LeakyRelu(Activation):
    """x where positive, elsewhere slope * x."""

    slope: float = 0.01

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.where(x > 0, x, x * self.slope)

    def run(self, x: Any) -> Any:
        return functional.leaky_relu(x, self.slope)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s.choose(s.gt(x, 0.0), g, s.mul(g, self.slope)),)


class Elu(Activation):
    """scale * x where positive, elsewhere scale * alpha * (exp(x * input_scale) - 1)."""

    alpha: float = 1.0
    scale: float = 1.0
    input_scale: float = 1.0

    def emit(self, s: Emitter, x: Value) -> Value:
        below = s.expm1(x * self.input_scale) * (self.alpha * self.scale)
        return s.where(x < 0, below, x * self.scale)

    def run(self, x: Any) -> Any:
        return torch.ops.aten.elu(x, self.alpha, self.scale, self.input_scale)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, x = s.wide(g, x)
        factor = self.input_scale * self.alpha * self.scale
        bent = s.choose(s.lt(x, 0.0), x, 0.0)  # at 0 the slope is this branch's, and not its bend
        below = s.mul(s.mul(g, factor), s.exp(s.mul(bent, self.input_scale)))
        return (s.choose(s.le(x, 0.0), below, s.mul(g, self.scale)),)


class Silu(Activation):
    """x * sigmoid(x)."""

    kinds: ClassVar[tuple[int, ...]] = (2, 3)
    overwrites: ClassVar[int | None] = 0

    def emit(self, s: Emitter, x: Value) -> Value:
        return x / (s.exp(s.neg(x)) + 1)

    def run(self, x: Any) -> Any:
        return functional.silu(x)

    def overwrite(self, x: Any) -> Any:
        return torch.ops.aten.silu_(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, x = s.wide(g, x)
        part = s.sigmoid(x)
        scaled = s.mul(g, part)
        return (s.add(scaled, s.mul(s.mul(scaled, x), s.sub(1.0, part))),)


class Gelu(Activation):
    """x times the normal distribution's cumulative function, or its `tanh` approximation."""

    overwrites: ClassVar[int | None] = 0
    approximate: Literal["none", "tanh"] = "none"

    def emit(self, s: Emitter, x: Value) -> Value:
        if self.approximate == "none":
            return x * 0.5 * (s.erf(x * math.sqrt(0.5)) + 1)
        inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
        return x * 0.5 * (s.tanh(inner) + 1)

    def run(self, x: Any) -> Any:
        return functional.gelu(x, approximate=self.approximate)

    def overwrite(self, x: Any) -> Any:
        return torch.ops.aten.gelu_(x, approximate=self.approximate)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, x = s.wide(g, x)
        if self.approximate == "none":
            below = s.mul(s.add(s.erf(s.mul(x, math.sqrt(0.5))), 1.0), 0.5)
            density = s.mul(s.exp(s.mul(s.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
            return (s.add(s.mul(g, below), s.mul(s.mul(g, x), density)),)
        cube = s.mul(s.mul(s.mul(x, x), x), 0.044715)
        inner = s.tanh(s.mul(s.add(x, cube), math.sqrt(2 / math.pi)))
        slope = s.mul(s.add(s.mul(s.mul(x, x), 3 * 0.044715), 1.0), math.sqrt(2 / math.pi))
        bent = s.mul(s.mul(s.mul(x, 0.5), s.sub(1.0, s.mul(inner, inner))), slope)
        return (s.mul(g, s.add(s.mul(s.add(inner, 1.0), 0.5), bent)),)


class Softplus(Activation):
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x is above the threshold."""

    beta: float = 1.0
    threshold: float = 20.0

    def emit(self, s: Emitter, x: Value) -> Value:
        scaled = x * self.beta
        return s.where(scaled > self.threshold, x, s.log1p(s.exp(scaled)) / self.beta)

    def run(self, x: Any) -> Any:
        return functional.softplus(x, self.beta, self.threshold)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, x = s.wide(g, x)
        scaled = s.mul(x, self.beta)
        # At the threshold the slope is this branch's, and not its bend.
        within = s.choose(s.ge(scaled, self.threshold), self.threshold, scaled)
        bent = s.mul(g, s.sigmoid(within))
        return (s.choose(s.gt(scaled, self.threshold), g, bent),)


class LogSigmoid(Activation):
    """log(sigmoid(x))."""

    def infer(self, *xs: Any, **_: Any) -> Type:
        typed = super().infer(*xs)
        assert isinstance(typed, TensorType)
        if typed.device.type != "cpu":
            return xs[0].dense()
        return typed.with_strides(contiguous_strides(typed.shape))  # torch's CPU kernel's own

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.clamp_max(x, 0.0) - s.log1p(s.exp(s.neg(s.abs(x))))

    def run(self, x: Any) -> Any:
        return functional.logsigmoid(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, x = s.wide(g, x)
        return (s.mul(g, s.sigmoid(s.neg(x))),)


class Hardsigmoid(Activation):
    """x + 3 within 0 and 6, over 6."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.clamp_max(s.clamp_min(x + 3.0, 0.0), 6.0) / 6.0

    def run(self, x: Any) -> Any:
        return functional.hardsigmoid(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        inside = s.logical_and(s.gt(x, -3.0), s.lt(x, 3.0))
        return (s.choose(inside, s.mul(g, 1 / 6), 0.0),)


class Hardswish(Activation):
    """x * hardsigmoid(x)."""

    overwrites: ClassVar[int | None] = 0

    def emit(self, s: Emitter, x: Value) -> Value:
        return x * s.clamp_max(s.clamp_min(x + 3.0, 0.0), 6.0) / 6.0

    def run(self, x: Any) -> Any:
        return functional.hardswish(x)

    def overwrite(self, x: Any) -> Any:
        return torch.ops.aten.hardswish_(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, x = s.wide(g, x)
        between = s.mul(g, s.add(s.div(x, 3.0), 0.5))
        return (s.choose(s.le(x, -3.0), 0.0, s.choose(s.lt(x, 3.0), between, g)),)


class Mish(Activation):
    """x * tanh(log(1 + exp(x)))."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return x * s.tanh(s.log1p(s.exp(x)))

    def run(self, x: Any) -> Any:
        return functional.mish(x)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        g, x = s.wide(g, x)
        bent = s.tanh(s.log1p(s.exp(x)))
        slope = s.mul(s.mul(s.mul(g, x), s.sigmoid(x)), s.sub(1.0, s.mul(bent, bent)))
        return (s.add(s.mul(g, bent), slope),)
