"""Elementwise comparisons, logic, bits, and the choice that they steer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from lazytorch.ops.base import Pointwise, elementwise_strides
from lazytorch.ops.emitter import Emitter, Value
from lazytorch.types import TensorType, Type, contiguous_strides, kind_of, promote

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents


class Comparison(Pointwise, abstract=True):
    """A question about two numbers: compared in the promoted dtype, answered in bool."""

    result: ClassVar[Literal["same", "float", "bool"]] = "bool"
    kinds: ClassVar[tuple[int, ...]] = (0, 1, 2)
    takes_numbers: ClassVar[Literal["anywhere", "right", "nowhere"]] = "right"


class Logical(Pointwise, abstract=True):
    """Logic on whether numbers differ from zero."""

    result: ClassVar[Literal["same", "float", "bool"]] = "bool"
    takes_numbers: ClassVar[Literal["anywhere", "right", "nowhere"]] = "nowhere"


class Bitwise(Pointwise, abstract=True):
    """The same logic on every bit of integers, or on booleans."""

    kinds: ClassVar[tuple[int, ...]] = (0, 1)


class Shift(Pointwise, abstract=True):
    """Bits of an integer moved by a number of places."""

    kinds: ClassVar[tuple[int, ...]] = (1,)


class Where(Pointwise):
    """x where the condition holds, elsewhere y."""

    overloads: ClassVar[tuple[str, ...]] = ("where.self", "where.Scalar")

    def compute_dtype(self, *xs: Type) -> torch.dtype:
        return promote(xs[1:])

    def operand_dtypes(self, *xs: Type) -> tuple[torch.dtype, ...]:
        dtype = self.compute_dtype(*xs)
        return (torch.bool, dtype, dtype)

    def infer(self, *xs: Any, **_: Any) -> Type:
        # torch converts by copies here, on every device.
        dtype = self.compute_dtype(*xs)
        copied = [
            x.dense() if isinstance(x, TensorType) and x.dtype is not dtype else x for x in xs[1:]
        ]
        return super().infer(xs[0], *copied)

    def emit(self, s: Emitter, condition: Value, x: Value, y: Value) -> Value:
        return s.where(condition, x, y)

    def vjp(self, s: Calculus, g: Node, out: Node, c: Node, x: Node, y: Node) -> Cotangents:
        return (None, s.choose(c, g, 0.0), s.choose(c, 0.0, g))


class MaskedFill(Pointwise):
    """A row-major copy of x with `value` where the mask holds, in x's dtype."""

    numbers: ClassVar[bool] = False
    overloads: ClassVar[tuple[str, ...]] = ("masked_fill.Scalar", "masked_fill.Tensor")

    def compute_dtype(self, *xs: Type) -> torch.dtype:
        return promote(xs[:1])

    def operand_dtypes(self, *xs: Type) -> tuple[torch.dtype, ...]:
        dtype = self.compute_dtype(*xs)
        return (dtype, torch.bool, dtype)

    def infer(self, *xs: Any) -> Type:
        typed = super().infer(*xs)
        assert isinstance(typed, TensorType)
        return typed.with_strides(contiguous_strides(typed.shape))

    def emit(self, s: Emitter, x: Value, mask: Value, value: Value) -> Value:
        return s.where(mask, value, x)

    def run(self, x: Any, mask: Any, value: Any) -> Any:
        return torch.masked_fill(x, mask, value)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, mask: Node, value: Node) -> Cotangents:
        return (s.choose(mask, 0.0, g), None, s.choose(mask, g, 0.0))


class Eq(Comparison):
    """Whether x equals y; NaN equals nothing."""

    kinds: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.eq(x, y)


class Ne(Comparison):
    """Whether x differs from y."""

    kinds: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.ne(x, y)


class Lt(Comparison):
    """Whether x is less than y."""

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.lt(x, y)


class Le(Comparison):
    """Whether x is at most y."""

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.le(x, y)


class Gt(Comparison):
    """Whether x is greater than y."""

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.gt(x, y)


class Ge(Comparison):
    """Whether x is at least y."""

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.ge(x, y)


class Isnan(Logical):
    """Whether x is not a number."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.isnan(x)


class Isinf(Logical):
    """Whether x is infinite."""

    def infer(self, *xs: Any, **_: Any) -> Type:
        # torch asks abs(x) == inf, whose number counts as an operand; of integers it makes zeros.
        typed = super().infer(*xs)
        if not isinstance(typed, TensorType):
            return typed
        if kind_of(xs[0].dtype) < 2:
            return xs[0].dense().with_dtype(torch.bool)
        magnitude = (typed.shape, typed.strides)
        return typed.with_strides(elementwise_strides(typed.shape, (magnitude,), numbers=True))

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.isinf(x)


class LogicalNot(Logical):
    """Whether x is zero."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.logical_not(x)


class LogicalAnd(Logical):
    """Whether neither is zero."""

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.logical_and(x, y)


class LogicalOr(Logical):
    """Whether either is not zero."""

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.logical_or(x, y)


class LogicalXor(Logical):
    """Whether exactly one is not zero."""

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.logical_xor(x, y)


class BitwiseNot(Bitwise):
    """Every bit flipped."""

    def emit(self, s: Emitter, x: Value) -> Value:
        return s.bitwise_not(x)


class BitwiseAnd(Bitwise):
    """The bits that both have."""

    overloads: ClassVar[tuple[str, ...]] = (
        "bitwise_and.Tensor",
        "bitwise_and.Scalar",
        "bitwise_and.Scalar_Tensor",
        "__and__.Tensor",
        "__and__.Scalar",
    )

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.bitwise_and(x, y)


class BitwiseOr(Bitwise):
    """The bits that either has."""

    overloads: ClassVar[tuple[str, ...]] = (
        "bitwise_or.Tensor",
        "bitwise_or.Scalar",
        "bitwise_or.Scalar_Tensor",
        "__or__.Tensor",
        "__or__.Scalar",
    )

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.bitwise_or(x, y)


class BitwiseXor(Bitwise):
    """The bits that exactly one has."""

    overloads: ClassVar[tuple[str, ...]] = (
        "bitwise_xor.Tensor",
        "bitwise_xor.Scalar",
        "bitwise_xor.Scalar_Tensor",
        "__xor__.Tensor",
        "__xor__.Scalar",
    )

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.bitwise_xor(x, y)


class BitwiseLeftShift(Shift):
    """x * 2**y, of integers."""

    overloads: ClassVar[tuple[str, ...]] = (
        "bitwise_left_shift.Tensor",
        "bitwise_left_shift.Tensor_Scalar",
        "bitwise_left_shift.Scalar_Tensor",
        "__lshift__.Tensor",
        "__lshift__.Scalar",
    )

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.bitwise_left_shift(x, y)


class BitwiseRightShift(Shift):
    """x / 2**y rounded down, of integers."""

    overloads: ClassVar[tuple[str, ...]] = (
        "bitwise_right_shift.Tensor",
        "bitwise_right_shift.Tensor_Scalar",
        "bitwise_right_shift.Scalar_Tensor",
        "__rshift__.Tensor",
        "__rshift__.Scalar",
    )

    def emit(self, s: Emitter, x: Value, y: Value) -> Value:
        return s.bitwise_right_shift(x, y)
