"""Spells the arithmetic of a group in C++."""

from __future__ import annotations

import math
import re
import struct

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.lower.expression import Expression, Printer
from lazytorch.types import kind_of

LOCAL = {
    torch.float64: "double",
    torch.float32: "float",
    torch.float16: "float",
    torch.bfloat16: "float",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.int16: "int16_t",
    torch.int8: "int8_t",
    torch.uint8: "uint8_t",
    torch.bool: "bool",
}
"""What a value of a dtype is while it is computed with."""

HALF = {torch.float16: "f16", torch.bfloat16: "bf16"}

MEMORY = LOCAL | dict.fromkeys(HALF, "uint16_t") | {torch.bool: "uint8_t"}
"""What a value of a dtype is in memory."""

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "true_divide": "/",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "logical_and": "&", "logical_or": "|", "logical_xor": "!=",
}  # fmt: skip
WRAPPING = ("add", "sub", "mul")
DIVISIONS = ("floor_divide", "remainder", "fmod")
ERF = re.compile(r"lt::erf\((\w+)\)")
ROUNDINGS = ("floor", "ceil", "trunc", "round")
CHOOSING = ("maximum", "minimum", "where", "neg", "abs")
"""What gives one of its operands, but for the sign."""


def loaded(code: str, dtype: torch.dtype) -> str:
    """What is in memory as a local value."""
    if dtype in HALF:
        return f"lt::from_{HALF[dtype]}({code})"
    return f"{code} != 0" if dtype is torch.bool else code


def stored(code: str, dtype: torch.dtype) -> str:
    """A local value as it is in memory."""
    return f"lt::to_{HALF[dtype]}({code})" if dtype in HALF else code


class CppPrinter(Printer):
    """Writes a group as C++ statements on scalars, inside a loop that becomes SIMD code.

    `erfs` are the names of error functions, and what each is of; `rounded` are what was rounded to
    16 bits, as text or by name, and how it is in memory; `exact` are the names of what is a
    bfloat16 without rounding, as what is read or chosen among such.
    """

    def __init__(self, rounding: bool = False) -> None:
        super().__init__(rounding)
        self.erfs: dict[str, str] = {}
        self.rounded: dict[str, str] = {}
        self.exact: set[str] = set()

    def literal(self, value: float, dtype: torch.dtype) -> str:
        """The exact number: hexadecimal, or an integer of the dtype's width."""
        if dtype is torch.bool:
            return "true" if value else "false"
        if not dtype.is_floating_point:
            return integer_literal(value, dtype)
        if isinstance(value, int) and abs(value) > 2**24:
            return f"{LOCAL[dtype]}({integer_literal(value, torch.int64)})"
        return floating_literal(float(value), dtype)

    def conversion(self, code: str, source: torch.dtype, dtype: torch.dtype) -> str:
        """By C++'s own conversion where it is defined, and through memory's format to 16 bits."""
        if dtype in HALF:
            if LOCAL[source] != "float":
                code = f"float(int({code}))" if source is torch.bool else f"float({code})"
            kept = stored(code, dtype)
            self.rounded[loaded(kept, dtype)] = kept
            return loaded(kept, dtype)
        if LOCAL[source] == LOCAL[dtype]:
            return code
        if source is torch.bool:
            return f"{LOCAL[dtype]}({code} ? 1 : 0)"  # g++ makes vector code of this form only
        return f"{code} != 0" if dtype is torch.bool else f"lt::cast<{LOCAL[dtype]}>({code})"

    def assign(self, name: str, code: str, dtype: torch.dtype) -> str:
        """A local constant."""
        if dtype is not torch.float64 and (found := ERF.fullmatch(code)):
            self.erfs[name] = found[1]
        if code in self.rounded:
            self.rounded[name] = self.rounded[code]
        if dtype is torch.bfloat16 and code.startswith(loaded("", dtype)[:-1]):
            self.exact.add(name)
        return f"const {LOCAL[dtype]} {name} = {code};"

    def stored(self, x: Expression, dtype: torch.dtype) -> str:
        """A value as it is in memory; what was rounded to 16 bits before is not rounded again."""
        if dtype in HALF and x.dtype is dtype:
            if x.code in self.rounded:
                return self.rounded[x.code]
            if x.code in self.exact:
                return f"lt::kept_bf16({x.code})"
        return stored(x.code, dtype)

    def apply(
        self, name: str, operands: list[Expression], dtype: torch.dtype, result: torch.dtype
    ) -> Expression:
        """As for all targets; what chooses among bfloat16 numbers gives one."""
        made = super().apply(name, operands, dtype, result)
        if name in CHOOSING and result is torch.bfloat16 and all(map(self.is_exact, operands[-2:])):
            self.exact.add(made.code)
        return made

    def round16(self, x: Expression) -> Expression:
        """As for all targets; what is a bfloat16 is one already."""
        return x if x.dtype is torch.bfloat16 and self.is_exact(x) else super().round16(x)

    def is_exact(self, x: Expression) -> bool:
        """Whether a value is a bfloat16 without rounding."""
        return x.code in self.exact or (
            x.number is not None and x.code == self.round_number(x).code
        )

    def primitive(
        self, name: str, operands: list[Expression], dtype: torch.dtype, result: torch.dtype
    ) -> str:
        """An operator, a built-in function of the compiler, or a function of the prelude."""
        codes = [x.code for x in operands]
        if name == "add":
            for one, other in (operands, reversed(operands)):
                if one.number == 1 and other.code in self.erfs:
                    return f"lt::one_plus_erf({self.erfs[other.code]})"
        if name == "where" and dtype is not torch.bool:
            return f"{codes[0]} ? {codes[1]} : {codes[2]}"
        if dtype is torch.bool:
            return boolean(name, codes)
        if name in INFIX:
            code = f"{codes[0]} {INFIX[name]} {codes[1]}"
            if result is torch.bool or kind_of(dtype) == 2:
                return code
            local = LOCAL[dtype]
            if name in WRAPPING and dtype.itemsize > 2:
                code = f"u{local}({codes[0]}) {INFIX[name]} u{local}({codes[1]})"
            return f"{local}({code})"
        if name in ("maximum", "minimum"):
            return extremum(self, name, operands, kind_of(dtype) == 2)
        if kind_of(dtype) == 2:
            return real(name, operands, "" if LOCAL[dtype] == "double" else "f")
        return integer(name, operands, dtype)


def extremum(printer: Printer, name: str, operands: list[Expression], may_be_nan: bool) -> str:
    """The larger or the smaller of two; NaN when either is."""
    x, y = operands
    if x.number is not None or x.varies:
        x, y = y, x
    sign = ">" if name == "maximum" else "<"
    if y.varies:
        sign += "="  # of equal zeros the tensor's, as where the number is a literal
    if not may_be_nan:
        return f"{x.code} {sign} {y.code} ? {x.code} : {y.code}"
    if y.number is not None and not math.isnan(y.number.real):
        # One instruction: where x is NaN the comparison is false and x stays.
        return f"{y.code} {sign} {x.code} ? {y.code} : {x.code}"
    # Two steps, which g++ makes vector code of; of one condition for both it does not.
    larger = printer.bind(f"{x.code} {sign} {y.code} ? {x.code} : {y.code}", x.dtype)
    return f"{x.code} != {x.code} ? {x.code} : {larger.code}"


def boolean(name: str, codes: list[str]) -> str:
    """Primitives on booleans, whose sum is `or` and whose product is `and`."""
    x, y = codes[0], codes[-1]
    match name:
        case "where":
            return f"bool(({x} & {codes[1]}) | (!{x} & {y}))"
        case "add" | "maximum" | "bitwise_or" | "logical_or":
            return f"bool({x} | {y})"
        case "mul" | "minimum" | "bitwise_and" | "logical_and":
            return f"bool({x} & {y})"
        case "bitwise_xor" | "logical_xor" | "ne":
            return f"{x} != {y}"
        case "eq" | "lt" | "le" | "gt" | "ge":
            return f"{x} {INFIX[name]} {y}"
        case "bitwise_not" | "logical_not":
            return f"!{x}"
        case "sign" | "abs" | "floor" | "ceil" | "trunc" | "round":
            return x
        case "isnan" | "isinf":
            return "false"
        case _:
            raise UnsupportedError(f"generated C++ has no {name} of booleans")


def real(name: str, operands: list[Expression], suffix: str) -> str:
    """Primitives on float (suffix `f`) and double."""
    x = operands[0].code
    match name:
        case "neg":
            return f"-({x})"
        case "isnan":
            return f"{x} != {x}"
        case "isinf":
            return f"__builtin_fabs{suffix}({x}) == __builtin_inf{suffix}()"
        case "pow":
            return power(operands, halves=operands[0].dtype is not torch.float16)
        case _:
            return f"lt::{name}({', '.join(x.code for x in operands)})"


def power(operands: list[Expression], halves: bool) -> str:
    """x to the power y; the exponents that torch computes otherwise, as torch does.

    That is but seen at -0.0 and infinities; of float16 torch takes no square roots (`halves`).
    """
    x, exponent = operands[0].code, operands[1].number
    match None if exponent is None else exponent.real:
        case 2.0:
            return f"{x} * {x}"
        case 3.0:
            return f"{x} * {x} * {x}"
        case 0.5 if halves:
            return f"lt::sqrt({x})"
        case -0.5 if halves:
            return f"lt::rsqrt({x})"
        case -1.0:
            return f"lt::reciprocal({x})"
        case -2.0:
            return f"1 / ({x} * {x})"
        case _:
            return f"lt::pow({x}, {operands[1].code})"


def integer(name: str, operands: list[Expression], dtype: torch.dtype) -> str:
    """Primitives on integers, which wrap."""
    x = operands[0].code
    if name in DIVISIONS:
        divisor = operands[1].number
        if divisor is None or not int(divisor.real):
            raise UnsupportedError(f"{name} of integers by a tensor or 0: eager raises for a zero")
    if name in ROUNDINGS:
        return x
    match name:
        case "neg":
            return f"{LOCAL[dtype]}(0 - uint64_t({x}))"
        case "abs" if dtype is torch.uint8:
            return x
        case "bitwise_not":
            return f"{LOCAL[dtype]}(~{x})"
        case "isnan" | "isinf":
            return "false"
        case "bitwise_left_shift" | "bitwise_right_shift":
            name = name.removeprefix("bitwise_")
            name = "_".join(reversed(name.split("_")))
        case _:
            pass
    return f"lt::{name}({', '.join(x.code for x in operands)})"


def integer_literal(value: float, dtype: torch.dtype) -> str:
    """The integer, wrapped into the dtype's range as torch wraps a number."""
    if not math.isfinite(value):
        raise UnsupportedError(f"{value} is no integer")
    number = int(value)
    bits = 8 * dtype.itemsize
    number &= (1 << bits) - 1
    if dtype is not torch.uint8 and number >> (bits - 1):
        number -= 1 << bits
    if number == -(1 << 63):
        return "(-9223372036854775807 - 1)"
    return f"{LOCAL[dtype]}({number})"


def floating_literal(value: float, dtype: torch.dtype) -> str:
    """The number in hexadecimal, rounded to float32 unless the dtype is float64."""
    suffix = "" if dtype is torch.float64 else "f"
    if suffix and math.isfinite(value):
        try:
            (value,) = struct.unpack("f", struct.pack("f", value))
        except OverflowError:
            value = math.copysign(math.inf, value)
    if math.isnan(value):
        return f'__builtin_nan{suffix}("")'
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}__builtin_inf{suffix}()"
    return f"{value.hex()}{suffix}"
