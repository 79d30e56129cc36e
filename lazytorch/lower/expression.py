"""Turns a group's arithmetic into straight-line source: what printers of all targets share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Const, Input
from lazytorch.lower.steps import Bound, Step, Steps
from lazytorch.ops.affine import Affine
from lazytorch.ops.base import Pointwise, Rowwise
from lazytorch.ops.number import ToNumber
from lazytorch.types import Number, ScalarType, TensorType, dtype_name, kind_of

HALVES = (torch.float16, torch.bfloat16)
SUPPORTED = (
    *(torch.float64, torch.float32, *HALVES),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


class Expression:
    """A value in generated source: its text, and the dtype that torch would give it.

    A 16-bit float is held in float32 and is rounded only where `Printer.convert` says so.
    `number` is the Python number that a literal stands for; with `varies`, its text in float64, it
    is such a number too, known at run time only. As torch does, neither is rounded to 16 bits
    before it is used.
    """

    __slots__ = ("code", "dtype", "number", "printer", "varies")

    def __init__(
        self,
        printer: Printer,
        code: str,
        dtype: torch.dtype,
        number: Number | None = None,
        varies: str = "",
    ) -> None:
        self.printer = printer
        self.code = code
        self.dtype = dtype
        self.number = number
        self.varies = varies

    def to(self, dtype: torch.dtype) -> Expression:
        """Converted as `Tensor.to` does."""
        return self.printer.to(self, dtype)

    def __add__(self, other: Operand) -> Expression:
        return self.printer.add(self, other)

    def __radd__(self, other: Operand) -> Expression:
        return self.printer.add(other, self)

    def __sub__(self, other: Operand) -> Expression:
        return self.printer.sub(self, other)

    def __rsub__(self, other: Operand) -> Expression:
        return self.printer.sub(other, self)

    def __mul__(self, other: Operand) -> Expression:
        return self.printer.mul(self, other)

    def __rmul__(self, other: Operand) -> Expression:
        return self.printer.mul(other, self)

    def __truediv__(self, other: Operand) -> Expression:
        return self.printer.true_divide(self, other)

    def __rtruediv__(self, other: Operand) -> Expression:
        return self.printer.true_divide(other, self)

    def __neg__(self) -> Expression:
        return self.printer.neg(self)

    def __lt__(self, other: Operand) -> Expression:
        return self.printer.lt(self, other)

    def __le__(self, other: Operand) -> Expression:
        return self.printer.le(self, other)

    def __gt__(self, other: Operand) -> Expression:
        return self.printer.gt(self, other)

    def __ge__(self, other: Operand) -> Expression:
        return self.printer.ge(self, other)

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]  # as tensors compare
        return self.printer.eq(self, cast(Operand, other))

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]  # as tensors compare
        return self.printer.ne(self, cast(Operand, other))

    __hash__ = None  # type: ignore[assignment]  # equality is source text, not a truth value


Operand = Expression | Number
Method = Callable[..., Expression]


def same(name: str) -> Method:
    """A primitive whose result has its operands' common dtype."""

    def method(self: Printer, *xs: Operand) -> Expression:
        operands, dtype = self.common(xs)
        return self.apply(name, operands, dtype, dtype)

    return method


def floating(name: str) -> Method:
    """A primitive of floating numbers: integers become the default floating dtype."""

    def method(self: Printer, *xs: Operand) -> Expression:
        operands, dtype = self.common(xs)
        if kind_of(dtype) < 2:
            dtype = torch.get_default_dtype()
            operands = [self.to(x, dtype) for x in operands]
        return self.apply(name, operands, dtype, dtype)

    return method


def question(name: str) -> Method:
    """A primitive that compares or tests in its operands' common dtype and answers bool."""

    def method(self: Printer, *xs: Operand) -> Expression:
        operands, dtype = self.common(xs)
        # Eager compares with the rounded number, and equal is equal.
        operands = [self.round_number(x) for x in operands]
        return self.apply(name, operands, dtype, torch.bool)

    return method


def logic(name: str) -> Method:
    """A primitive on whether its operands differ from zero."""

    def method(self: Printer, *xs: Operand) -> Expression:
        operands = [self.to(x, torch.bool) for x in self.common(xs)[0]]
        return self.apply(name, operands, torch.bool, torch.bool)

    return method


class Printer(ABC):
    """An `Emitter` that writes source: every primitive becomes one local variable.

    A target says how it spells a literal, a conversion, a primitive and a local variable. With
    `rounding`, each 16-bit result of an operation is rounded as eager does; without, it stays in
    float32 until it is stored or cast.
    """

    def __init__(self, rounding: bool = False) -> None:
        self.rounding = rounding
        self.lines: list[str] = []
        self.count = 0

    @abstractmethod
    def literal(self, value: float, dtype: torch.dtype) -> str:
        """The exact number in a dtype (16-bit floats: in float32)."""

    @abstractmethod
    def conversion(self, code: str, source: torch.dtype, dtype: torch.dtype) -> str:
        """Text converted between two different dtypes as `Tensor.to` does.

        A 16-bit result is rounded and comes as float32. Equal dtypes, of 16 bits, mean only
        that: round.
        """

    @abstractmethod
    def primitive(
        self, name: str, operands: list[Expression], dtype: torch.dtype, result: torch.dtype
    ) -> str:
        """The text of a primitive of `Emitter` on operands of one dtype (`where`: after a bool)."""

    @abstractmethod
    def assign(self, name: str, code: str, dtype: torch.dtype) -> str:
        """The line that makes a local variable."""

    def bind(self, code: str, dtype: torch.dtype) -> Expression:
        """A new local variable that holds `code`."""
        name = f"v{self.count}"
        self.count += 1
        self.lines.append(self.assign(name, code, dtype))
        return Expression(self, name, dtype)

    def apply(
        self, name: str, operands: list[Expression], dtype: torch.dtype, result: torch.dtype
    ) -> Expression:
        """A local variable that holds a primitive's result."""
        return self.bind(self.primitive(name, operands, dtype, result), result)

    def number(self, value: Number, dtype: torch.dtype) -> Expression:
        """A literal, whose Python number stays known."""
        check(dtype)
        if isinstance(value, complex):
            raise UnsupportedError("generated kernels have no complex numbers")
        return Expression(self, self.literal(value, dtype), dtype, value)

    def varying(self, x: Expression) -> Expression:
        """A loaded value as a Python float: what a number is that is known at run time only."""
        code = self.to(x, torch.float64).code
        return Expression(self, code, torch.float64, varies=code)

    def to(self, x: Expression, dtype: torch.dtype) -> Expression:
        """`x` in another dtype; itself when it has that dtype."""
        if x.dtype is dtype:
            return x
        check(dtype)
        if x.varies:
            if kind_of(dtype) != 2:
                raise UnsupportedError(f"a float that varies as a {dtype_name(dtype)}")
            wide = torch.float32 if dtype in HALVES else dtype
            if x.dtype in (*HALVES, torch.float32) and wide is torch.float32:
                return Expression(self, x.code, dtype, varies=x.varies)
            code = self.bind(self.conversion(x.code, x.dtype, wide), wide).code
            return Expression(self, code, dtype, varies=x.varies)
        return self.bind(self.conversion(x.code, x.dtype, dtype), dtype)

    def round16(self, x: Expression) -> Expression:
        """`x` rounded to its own dtype when that has 16 bits."""
        if x.dtype not in HALVES or x.number is not None or x.varies:
            return x
        return self.bind(self.conversion(x.code, x.dtype, x.dtype), x.dtype)

    def round_number(self, x: Expression) -> Expression:
        """A number of a 16-bit dtype rounded to it; other values as they are."""
        if x.dtype in HALVES and x.varies:
            return self.bind(self.conversion(x.code, x.dtype, x.dtype), x.dtype)
        if x.dtype not in HALVES or x.number is None:
            return x
        return self.number(torch.tensor(x.number, dtype=x.dtype).item(), x.dtype)

    def common(self, xs: Sequence[Operand]) -> tuple[list[Expression], torch.dtype]:
        """Operands in their promoted dtype: a bare number only counts by its kind."""
        dtype = kind = None
        for x in xs:
            if isinstance(x, Expression):
                dtype = x.dtype if dtype is None else torch.promote_types(dtype, x.dtype)
            else:
                kind = max(kind or 0, (bool, int, float, complex).index(x.__class__))
        if dtype is None or (kind is not None and kind > kind_of(dtype)):
            dtype = (torch.bool, torch.int64, torch.get_default_dtype(), torch.complex64)[kind or 0]
        return [
            self.to(x, dtype) if isinstance(x, Expression) else self.number(x, dtype) for x in xs
        ], dtype

    def clamp_min(self, x: Operand, bound: Operand) -> Expression:
        """The larger of two; NaN when either is."""
        return self.maximum(x, bound)

    def clamp_max(self, x: Operand, bound: Operand) -> Expression:
        """The smaller of two; NaN when either is."""
        return self.minimum(x, bound)

    def where(self, condition: Expression, x: Operand, y: Operand) -> Expression:
        """`x` where the condition is not zero, elsewhere `y`."""
        operands, dtype = self.common((x, y))
        return self.apply("where", [self.to(condition, torch.bool), *operands], dtype, dtype)

    add, sub, mul = same("add"), same("sub"), same("mul")
    floor_divide, remainder, fmod = same("floor_divide"), same("remainder"), same("fmod")
    maximum, minimum, pow = same("maximum"), same("minimum"), same("pow")
    fma = same("fma")
    neg, abs, sign = same("neg"), same("abs"), same("sign")
    floor, ceil, trunc, round = same("floor"), same("ceil"), same("trunc"), same("round")
    true_divide, reciprocal = floating("true_divide"), floating("reciprocal")
    sqrt, rsqrt, atan2 = floating("sqrt"), floating("rsqrt"), floating("atan2")
    exp, exp2, expm1 = floating("exp"), floating("exp2"), floating("expm1")
    log, log2, log10, log1p = map(floating, ("log", "log2", "log10", "log1p"))
    sin, cos, tan = floating("sin"), floating("cos"), floating("tan")
    asin, acos, atan = floating("asin"), floating("acos"), floating("atan")
    sinh, cosh, tanh = floating("sinh"), floating("cosh"), floating("tanh")
    sigmoid, erf = floating("sigmoid"), floating("erf")
    isnan, isinf = question("isnan"), question("isinf")
    eq, ne, lt, le, gt, ge = map(question, ("eq", "ne", "lt", "le", "gt", "ge"))
    logical_not, logical_and = logic("logical_not"), logic("logical_and")
    logical_or, logical_xor = logic("logical_or"), logic("logical_xor")
    bitwise_not, bitwise_and = same("bitwise_not"), same("bitwise_and")
    bitwise_or, bitwise_xor = same("bitwise_or"), same("bitwise_xor")
    bitwise_left_shift = same("bitwise_left_shift")
    bitwise_right_shift = same("bitwise_right_shift")


def print_steps(
    printer: Printer,
    found: Steps,
    inputs: Sequence[Expression],
    inside: Callable[[tuple[Bound, ...]], Expression] | None = None,
    places: Sequence[Expression] = (),
) -> list[Expression]:
    """Write the lines that compute a group; its outputs, each in its own dtype.

    `inputs` are what the steps load, in their order: 16-bit numbers widened to float32, numbers in
    float64. `inside` gives the condition that bounds are, `places` are those that are wanted.
    """
    known: dict[Step, Expression] = dict(zip(found.all, inputs, strict=False))
    asking = found.places()
    if len(asking) != len(places):
        raise UnsupportedError(f"{asking[0].node.op.name()} takes places, which no kernel here has")
    place = dict(zip(asking, places, strict=True))
    for step in found.all:
        node, op = step.node, step.node.op
        if isinstance(op, Input):
            if isinstance(node.type, ScalarType):
                known[step] = printer.varying(known[step])
        elif isinstance(op, ToNumber):
            known[step] = printer.varying(known[step.operands[0]])
        elif not isinstance(op, Const):
            assert isinstance(node.type, TensorType)
            if isinstance(op, Affine):
                result = chosen(printer, step, op, known, inside)
            else:
                assert isinstance(op, Pointwise | Rowwise)
                dtypes = op.operand_dtypes(*[x.type for x in node.inputs])
                operands = [
                    printer.number(x.node.op.value, dtype)
                    if isinstance(x.node.op, Const)
                    else printer.to(known[x], dtype)
                    for x, dtype in zip(step.operands, dtypes, strict=True)
                ]
                asked = [place[step]] if step in place else []
                result = op.emit(cast(Any, printer), *operands, *asked)
            result = printer.to(result, node.type.dtype)
            known[step] = printer.round16(result) if printer.rounding else result
    return [known[step] for step in found.outputs]


def chosen(
    printer: Printer,
    step: Step,
    op: Affine,
    known: dict[Step, Expression],
    inside: Callable[[tuple[Bound, ...]], Expression] | None,
) -> Expression:
    """The result of an operation that chooses where to read."""
    assert isinstance(step.node.type, TensorType)
    dtype = step.node.type.dtype
    values: list[tuple[Expression, object]] = []
    for x, bounds in zip(step.operands, step.inside, strict=True):
        assert inside is not None or not bounds
        condition = inside(bounds) if inside is not None and bounds else True
        value = printer.to(known[x], dtype)
        if isinstance(condition, Expression) and op.fill is not None and x.at.fill is None:
            value = printer.where(condition, value, op.fill)
        values.append((value, condition))
    return op.emit(cast(Any, printer), *values)


def check(dtype: torch.dtype) -> None:
    """UnsupportedError unless generated kernels compute in this dtype."""
    if dtype not in SUPPORTED:
        raise UnsupportedError(f"generated kernels have no {dtype_name(dtype)}")
