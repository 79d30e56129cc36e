"""Elementwise overloads whose arguments are more than operands in order."""

from __future__ import annotations

import math
from typing import Any

import torch

from lazytorch.frontend.imports import imports, pointwise
from lazytorch.ir import Builder, Const, Node
from lazytorch.ops.activation import (
    Elu,
    Gelu,
    Hardtanh,
    LeakyRelu,
    LogSigmoid,
    Softplus,
)
from lazytorch.ops.base import operand_dtype
from lazytorch.ops.compare import MaskedFill, Where
from lazytorch.ops.pointwise import (
    Add,
    Addcdiv,
    Addcmul,
    AddScaled,
    Cast,
    Clamp,
    ClampMax,
    ClampMin,
    Div,
    FloorDivide,
    Mul,
    Sub,
    TruncDivide,
)
from lazytorch.types import Number, ScalarType, TensorType, kind_of

Operand = Node | Number
ADD, SUB, MUL = Add(), Sub(), Mul()  # made once: they are imported most


@imports("add.Tensor", "add.Scalar", plain=ADD)
def add(b: Builder, self: Operand, other: Operand, alpha: Operand = 1) -> Any:
    """self + alpha * other."""
    if alpha.__class__ is int and alpha == 1:
        return b(ADD, self, other)
    if together(self, other, alpha):
        return b(AddScaled(), self, other, alpha)
    term = scaled(b, self, other, alpha)
    return b(ADD, self, term) if isinstance(term, Node) else term


@imports("sub.Tensor", "sub.Scalar", plain=SUB)
def sub(b: Builder, self: Operand, other: Operand, alpha: Operand = 1) -> Any:
    """self - alpha * other."""
    if alpha.__class__ is int and alpha == 1:
        return b(SUB, self, other)
    if together(self, other, alpha) and not isinstance(alpha, Node):
        return b(AddScaled(), self, other, -alpha)
    term = scaled(b, self, other, alpha)
    return b(SUB, self, term) if isinstance(term, Node) else term


@imports("rsub.Tensor", "rsub.Scalar")
def rsub(b: Builder, self: Operand, other: Operand, alpha: Operand = 1) -> Any:
    """other - alpha * self."""
    if alpha.__class__ is int and alpha == 1:
        return b(SUB, other, self)
    term = scaled(b, other, self, alpha)
    return b(SUB, other, term) if isinstance(term, Node) else term


def together(x: Operand, y: Operand, alpha: Operand) -> bool:
    """Whether torch multiplies and adds at once: floating tensors of one dtype, a real number."""
    a, b, c = typed(x), typed(y), typed(alpha)
    return (
        isinstance(a, TensorType)
        and isinstance(b, TensorType)
        and a.dtype is b.dtype
        and a.dtype.is_floating_point
        and isinstance(c, int | float | ScalarType)
    )


def scaled(b: Builder, base: Operand, x: Operand, alpha: Operand) -> Any:
    """alpha * x in the dtype in which it meets `base`; NotImplemented where torch may refuse."""
    dtype = operand_dtype((typed(base), typed(x)))
    if kind_of(operand_dtype((typed(alpha),))) > kind_of(dtype) or kind_of(dtype) == 0:
        return NotImplemented
    if isinstance(x, Node) and isinstance(x.type, TensorType) and x.type.dtype is not dtype:
        x = b(Cast(dtype), x)
    return b(MUL, x, alpha)


def typed(x: Operand) -> Any:
    """A node's type, or the number itself."""
    return x.type if isinstance(x, Node) else x


@imports("div.Tensor_mode", "div.Scalar_mode")
def div(b: Builder, self: Operand, other: Operand, rounding_mode: str | None) -> Any:
    """self / other, rounded as asked."""
    if rounding_mode is None:
        return b(Div(), self, other)
    if rounding_mode == "floor":
        return b(FloorDivide(), self, other)
    if kind_of(operand_dtype((typed(self), typed(other)))) != 2:
        return NotImplemented  # integers round towards zero exactly, which needs no division
    return b(TruncDivide(), self, other)


def overflows(x: Node, number: Operand | None) -> bool:
    """Whether a number is too large for x's elements, which torch refuses."""
    return isinstance(x.type, TensorType) and too_large(number, x.type.dtype)


def too_large(number: Operand | None, dtype: torch.dtype) -> bool:
    """Whether a number is out of a dtype's range; negative ones wrap."""
    if isinstance(number, Node) and isinstance(number.op, Const):
        number = number.op.value
    if not isinstance(number, int | float):
        return False
    if dtype.is_floating_point:
        return math.isfinite(number) and abs(number) > torch.finfo(dtype).max
    if dtype is torch.bool or dtype.is_complex or not math.isfinite(number):
        return False
    limits = torch.iinfo(dtype)
    return not (limits.min if limits.min < 0 else -limits.max) <= number <= limits.max


@imports("clamp", "clamp.Tensor")
def clamp(b: Builder, self: Node, min: Operand | None = None, max: Operand | None = None) -> Any:
    """self within one or two bounds."""
    if overflows(self, min) or overflows(self, max):
        return NotImplemented  # torch says so
    if min is None:
        return NotImplemented if max is None else b(ClampMax(), self, max)
    return b(ClampMin(), self, min) if max is None else b(Clamp(), self, min, max)


@imports("clamp_min", "clamp_min.Tensor")
def clamp_min(b: Builder, self: Node, min: Operand) -> Any:
    """self, or a bound where self is below it."""
    return NotImplemented if overflows(self, min) else pointwise(ClampMin())(b, self, min)


@imports("clamp_max", "clamp_max.Tensor")
def clamp_max(b: Builder, self: Node, max: Operand) -> Any:
    """self, or a bound where self is above it."""
    return NotImplemented if overflows(self, max) else pointwise(ClampMax())(b, self, max)


@imports("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(b: Builder, self: Node, mask: Node, value: Operand) -> Any:
    """self with a value where the mask holds."""
    if not isinstance(self.type, TensorType):
        return NotImplemented
    if kind_of(operand_dtype((typed(value),))) > kind_of(self.type.dtype):
        return NotImplemented  # torch decides by the value whether it fits
    if overflows(self, value):
        return NotImplemented  # torch says so
    return b(MaskedFill(), self, mask, value)


@imports("where.ScalarSelf", "where.ScalarOther")
def where_number(b: Builder, condition: Node, self: Operand, other: Operand) -> Any:
    """self where the condition holds, elsewhere other; one of them is a number.

    torch refuses it if it is too large for what it meets, but for floats of 16 bits.
    """
    dtype = operand_dtype((typed(self), typed(other)))
    narrow = dtype.is_floating_point and dtype.itemsize < 4
    if not narrow and (too_large(self, dtype) or too_large(other, dtype)):
        return NotImplemented  # torch says so
    return pointwise(Where())(b, condition, self, other)


@imports("addcmul")
def addcmul(b: Builder, self: Node, tensor1: Node, tensor2: Node, value: Operand = 1) -> Any:
    """self + value * tensor1 * tensor2."""
    return b(Addcmul(), self, tensor1, tensor2, value)


@imports("addcdiv")
def addcdiv(b: Builder, self: Node, tensor1: Node, tensor2: Node, value: Operand = 1) -> Any:
    """self + value * tensor1 / tensor2."""
    return b(Addcdiv(), self, tensor1, tensor2, value)


@imports("gelu")
def gelu(b: Builder, self: Node, approximate: str = "none") -> Any:
    """Gelu, exact or by tanh."""
    return b(Gelu(approximate), self) if approximate in ("none", "tanh") else NotImplemented


@imports("leaky_relu")
def leaky_relu(b: Builder, self: Node, negative_slope: Operand = 0.01) -> Any:
    """A leaky relu with a known slope."""
    return attributed(b, LeakyRelu, self, negative_slope)


@imports("elu")
def elu(
    b: Builder, self: Node, alpha: Operand = 1, scale: Operand = 1, input_scale: Operand = 1
) -> Any:
    """Elu, and selu and celu, which torch writes as elu."""
    return attributed(b, Elu, self, alpha, scale, input_scale)


@imports("selu")
def selu(b: Builder, self: Node) -> Any:
    """Elu with the two constants of its paper."""
    return attributed(b, Elu, self, 1.6732632423543772, 1.0507009873554805, 1.0)


@imports("celu")
def celu(b: Builder, self: Node, alpha: Operand = 1.0) -> Any:
    """Elu whose slope is continuous."""
    if isinstance(alpha, Node) or alpha == 0:
        return NotImplemented
    return attributed(b, Elu, self, alpha, 1.0, 1 / alpha)


@imports("softplus")
def softplus(b: Builder, self: Node, beta: Operand = 1, threshold: Operand = 20) -> Any:
    """Softplus with known steepness."""
    return attributed(b, Softplus, self, beta, threshold)


@imports("hardtanh")
def hardtanh(b: Builder, self: Node, min_val: Operand = -1, max_val: Operand = 1) -> Any:
    """A clamp between two known bounds."""
    return attributed(b, Hardtanh, self, min_val, max_val)


@imports("relu6")
def relu6(b: Builder, self: Node) -> Any:
    """A clamp between 0 and 6."""
    return attributed(b, Hardtanh, self, 0.0, 6.0)


def attributed(b: Builder, kind: Any, x: Node, *numbers: Operand) -> Any:
    """An activation whose parameters are attributes, unless one of them is a value."""
    if not is_floating(x) or any(isinstance(n, Node) for n in numbers):
        return NotImplemented
    return b(kind(*[float(n) for n in numbers]), x)  # type: ignore[arg-type]  # no node is left


def is_floating(x: Node) -> bool:
    """Whether a node is a tensor of real floating numbers."""
    return isinstance(x.type, TensorType) and x.type.dtype.is_floating_point


@imports("log_sigmoid")
def log_sigmoid(b: Builder, self: Node) -> Any:
    """The logarithm of the sigmoid."""
    return b(LogSigmoid(), self)
