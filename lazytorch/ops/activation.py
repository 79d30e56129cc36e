"""Activation functions: elementwise, composed for generated kernels, run by torch's."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch.nn import functional

from lazytorch.ops.base import Pointwise
from lazytorch.ops.emitter import Emitter, Value
from lazytorch.types import TensorType, Type, contiguous_strides


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


class LeakyRelu(Activation):
    """x where positive, elsewhere slope * x."""

    slope: float = 0.01

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.where(x > 0, x, x * self.slope)

    def run(self, x: Any) -> Any:
        return functional.leaky_relu(x, self.slope)


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


class Softplus(Activation):
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x is above the threshold."""

    beta: float = 1.0
    threshold: float = 20.0

    def emit(self, s: Emitter, x: Value) -> Value:
        scaled = x * self.beta
        return s.where(scaled > self.threshold, x, s.log1p(s.exp(scaled)) / self.beta)

    def run(self, x: Any) -> Any:
        return functional.softplus(x, self.beta, self.threshold)


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


class Hardsigmoid(Activation):
    """x + 3 within 0 and 6, over 6."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.clamp_max(s.clamp_min(x + 3.0, 0.0), 6.0) / 6.0

    def run(self, x: Any) -> Any:
        return functional.hardsigmoid(x)


class Hardswish(Activation):
    """x * hardsigmoid(x)."""

    overwrites: ClassVar[int | None] = 0

    def emit(self, s: Emitter, x: Value) -> Value:
        return x * s.clamp_max(s.clamp_min(x + 3.0, 0.0), 6.0) / 6.0

    def run(self, x: Any) -> Any:
        return functional.hardswish(x)

    def overwrite(self, x: Any) -> Any:
        return torch.ops.aten.hardswish_(x)


class Mish(Activation):
    """x * tanh(log(1 + exp(x)))."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return x * s.tanh(s.log1p(s.exp(x)))

    def run(self, x: Any) -> Any:
        return functional.mish(x)
