"""Spells the arithmetic of a group in Triton's language."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Node
from lazytorch.lower.expression import HALVES, Expression, Printer
from lazytorch.types import TensorType, dtype_name, kind_of

LOCAL = {
    torch.float64: "tl.float64",
    torch.float32: "tl.float32",
    torch.float16: "tl.float32",
    torch.bfloat16: "tl.float32",
    torch.int64: "tl.int64",
    torch.int32: "tl.int32",
    torch.int16: "tl.int16",
    torch.int8: "tl.int8",
    torch.uint8: "tl.uint8",
    torch.bool: "tl.int1",
}
"""What a value of a dtype is while it is computed with."""

POINTER = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}
"""How Triton's signatures spell a pointer to elements of a dtype."""

INFIX = {
    "add": "+", "sub": "-", "mul": "*",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip

BOOLEAN = {
    **dict.fromkeys(("add", "maximum", "bitwise_or", "logical_or"), "{0} | {1}"),
    **dict.fromkeys(("mul", "minimum", "bitwise_and", "logical_and"), "{0} & {1}"),
    **dict.fromkeys(("ne", "bitwise_xor", "logical_xor"), "{0} ^ {1}"),
    **dict.fromkeys(("bitwise_not", "logical_not"), "{0} ^ {true}"),
    **dict.fromkeys(("abs", "sign", "floor", "ceil", "trunc", "round"), "{0}"),
    **dict.fromkeys(("isnan", "isinf"), "{false}"),
    "eq": "{0} ^ {1} ^ {true}",
    "lt": "({0} ^ {true}) & {1}",
    "gt": "{0} & ({1} ^ {true})",
    "le": "({0} ^ {true}) | {1}",
    "ge": "{0} | ({1} ^ {true})",
}
"""Primitives on booleans, whose sum is `or` and whose product is `and`."""

# Where torch's CUDA kernels call CUDA's math library, so do these.
LIBRARY = (
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan"),
    *("asin", "acos", "atan", "sinh", "cosh", "tanh", "atan2", "fmod", "trunc"),
)

SIGN = "({0} > 0).to({local}) - ({0} < 0).to({local})"
EXTREMUM = "tl.{name}({{0}}, {{1}}, propagate_nan=tl.PropagateNan.ALL)"

REAL = {
    "fma": "tl.fma({0}, {1}, {2})",
    "neg": "{0} * -1.0",  # a unary minus would be 0 - x, which has another sign at 0
    "abs": "tl.abs({0})",
    "sign": SIGN,
    "rsqrt": "tl.rsqrt({0})",
    "erf": "tl.erf({0})",
    "floor": "tl.floor({0})",
    "ceil": "tl.ceil({0})",
    "round": "libdevice.rint({0})",
    "isnan": "{0} != {0}",
    "isinf": 'tl.abs({0}) == float("inf")',
    "floor_divide": "lt.floor_divide({0}, {1})",
    "remainder": "lt.remainder({0}, {1})",
    "maximum": EXTREMUM.format(name="maximum"),
    "minimum": EXTREMUM.format(name="minimum"),
}
"""Primitives on floating numbers that float32 and float64 share."""

DOUBLE = {"true_divide": "{0} / {1}", "sqrt": "tl.sqrt({0})"}
SINGLE = {"true_divide": "tl.div_rn({0}, {1})", "sqrt": "tl.sqrt_rn({0})"}
# Accurate to two units in the last place of float32 and much faster; 16 bits keep none of that.
HALF = {**SINGLE, "sqrt": "tl.sqrt({0})", "exp": "tl.exp({0})", "erf": "lt.erf_short({0})"}

INTEGER = {
    "fma": "{0} * {1} + {2}",
    **dict.fromkeys(("floor", "ceil", "trunc", "round"), "{0}"),
    **dict.fromkeys(("isnan", "isinf"), "{0} != {0}"),
    "neg": "-{0}",
    "abs": "tl.abs({0})",
    "sign": SIGN,
    "bitwise_not": "{0} ^ {ones}",
    "maximum": "tl.maximum({0}, {1})",
    "minimum": "tl.minimum({0}, {1})",
    "bitwise_left_shift": "lt.shift_left({0}, {1}, {bits})",
    "bitwise_right_shift": "lt.shift_right({0}, {1}, {bits}, {signed})",
    "pow": "lt.power({0}, {1}, {places}, {signed})",
    "floor_divide": "lt.floor_divide_integers({0}, {1}, {signed})",
    "remainder": "lt.remainder_integers({0}, {1}, {signed})",
    "fmod": "lt.fmod_integers({0}, {1}, {signed})",
}
"""Primitives on integers, which wrap."""


def loaded(code: str, dtype: torch.dtype) -> str:
    """What was loaded from memory as a local value."""
    if dtype is torch.bfloat16:
        return f"lt.from_bfloat16({code})"
    return f"{code}.to(tl.float32)" if dtype is torch.float16 else code


def stored(code: str, dtype: torch.dtype) -> str:
    """A local value as it is stored to memory."""
    if dtype is torch.bfloat16:
        return f"lt.to_bfloat16({code})"
    return f"{code}.to(tl.float16)" if dtype is torch.float16 else code


class TritonPrinter(Printer):
    """Writes a group as Triton statements on blocks.

    `short` says that all that is stored has 16 bits, whatever is computed on the way.
    """

    short = False

    def __init__(self, rounding: bool = False) -> None:
        super().__init__(rounding)
        self.runs: dict[str, int] = {}

    def place(self, code: str, wide: bool, run: int) -> Expression:
        """The places of elements; each `run` of them are one after the other, from a multiple of
        that on."""
        found = self.bind(code, torch.int64 if wide else torch.int32)
        self.runs[found.code] = run
        return found

    def philox_below(
        self,
        seed: Expression,
        offset: Expression,
        place: Expression,
        vector: int,
        threads: int,
        bound: int,
    ) -> Expression:
        """Whether the numbers that torch's kernels draw for the places are below a bound."""
        run = max(x for x in (1, 4, vector) if x <= self.runs[place.code])
        values = f"{seed.code}, {offset.code}, {place.code}"
        return self.bind(
            f"lt.drawn_below({values}, {vector}, {threads}, {bound}, {run})", torch.bool
        )

    def operands(self, inputs: Sequence[Node], load: Callable[[int], str]) -> list[Expression]:
        """The values of loads: the r-th of a tensor by `load(r)`, numbers from their bits."""
        found: list[Expression] = []
        numbers: dict[Node, str] = {}
        for x in inputs:
            if isinstance(x.type, TensorType):
                code = load(len(found) - len(numbers))
                found.append(self.bind(loaded(code, x.type.dtype), x.type.dtype))
            else:
                name = numbers.setdefault(x, f"d{len(numbers)}")
                code = f"{name}.to(tl.int64).to(tl.float64, bitcast=True)"
                found.append(self.bind(code, torch.float64))
        return found

    def literal(self, value: float, dtype: torch.dtype) -> str:
        """The exact number: a scalar block."""
        if dtype is torch.bool:
            return f"tl.full((), {bool(value)}, tl.int1)"
        if not dtype.is_floating_point:
            return f"tl.full((), {wrapped(value, dtype)}, {LOCAL[dtype]})"
        return floating_literal(value, LOCAL[dtype])

    def conversion(self, code: str, source: torch.dtype, dtype: torch.dtype) -> str:
        """Text converted as `Tensor.to` does."""
        if dtype in HALVES:
            code = code if LOCAL[source] == "tl.float32" else f"{code}.to(tl.float32)"
            return loaded(stored(code, dtype), dtype)
        if dtype is torch.bool:
            return f"{code} != 0"
        if LOCAL[source] == LOCAL[dtype]:
            return code
        if source.is_floating_point and dtype is torch.uint8:
            code = f"{code}.to(tl.int64)"  # as c10 does, so that negative numbers wrap
        elif source.is_floating_point and not dtype.is_floating_point and dtype.itemsize < 4:
            code = f"{code}.to(tl.int32)"
        return f"{code}.to({LOCAL[dtype]})"

    def assign(self, name: str, code: str, dtype: torch.dtype) -> str:
        """An assignment: Triton infers types."""
        return f"{name} = {code}"

    def primitive(
        self, name: str, operands: list[Expression], dtype: torch.dtype, result: torch.dtype
    ) -> str:
        """The text of a primitive, by the tables above."""
        codes = [x.code for x in operands]
        if name == "where":
            return f"tl.where({', '.join(codes)})"
        if dtype is torch.bool:
            return self.boolean(name, codes)
        if name in INFIX:
            return f"{codes[0]} {INFIX[name]} {codes[1]}"
        if kind_of(dtype) == 2:
            return self.real(name, operands, dtype)
        return integer(name, operands, dtype)

    def boolean(self, name: str, codes: list[str]) -> str:
        """Primitives on booleans."""
        true, false = (self.literal(x, torch.bool) for x in (True, False))
        return entry(BOOLEAN, name, torch.bool).format(*codes, true=true, false=false)

    def real(self, name: str, operands: list[Expression], dtype: torch.dtype) -> str:
        """Primitives on float32 and float64."""
        codes = [x.code for x in operands]
        fast = (dtype in HALVES or self.short) and not self.rounding
        table = DOUBLE if dtype is torch.float64 else HALF if fast else SINGLE
        one = self.literal(1, dtype)
        divide = table["true_divide"]
        match name:
            case "reciprocal":
                return divide.format(one, codes[0])
            case "true_divide" if operands[1].number is not None:  # as torch's kernels for CUDA
                return f"{codes[0]} * {self.literal(inverse(operands[1].number.real), dtype)}"
            case "true_divide" if operands[1].varies:
                return f"{codes[0]} * (1.0 / {operands[1].varies}).to({LOCAL[dtype]})"
            case "sigmoid":
                exp = table.get("exp", "libdevice.exp({0})").format(f"{codes[0]} * -1.0")
                return divide.format(one, f"(1.0 + {exp})")
            case "pow":
                return power(operands, table, one)
            case _ if name in table:
                return table[name].format(*codes)
            case _ if name in LIBRARY:
                return f"libdevice.{name}({', '.join(codes)})"
            case _:
                return entry(REAL, name, dtype).format(*codes, local=LOCAL[dtype])


def inverse(number: float) -> float:
    """1 / number, as C computes it."""
    return 1 / number if number else math.copysign(math.inf, number)


def entry(table: dict[str, str], name: str, dtype: torch.dtype) -> str:
    """How a table spells a primitive."""
    if name not in table:
        raise UnsupportedError(f"generated Triton has no {name} of {dtype_name(dtype)}")
    return table[name]


def power(operands: list[Expression], table: dict[str, str], one: str) -> str:
    """x to the power y; the exponents that torch computes otherwise, as torch does."""
    x, exponent = operands[0].code, operands[1].number
    divide = table["true_divide"]
    match None if exponent is None else exponent.real:
        case 2.0:
            return f"{x} * {x}"
        case 3.0:
            return f"{x} * {x} * {x}"
        case 0.5:
            return table["sqrt"].format(x)
        case -0.5:
            return f"tl.rsqrt({x})"
        case -1.0:
            return divide.format(one, x)
        case -2.0:
            return divide.format(one, f"({x} * {x})")
        case _:
            return f"libdevice.pow({x}, {operands[1].code})"


def integer(name: str, operands: list[Expression], dtype: torch.dtype) -> str:
    """Primitives on integers."""
    second = operands[-1].number
    if name in ("floor_divide", "remainder", "fmod") and second is not None and not second:
        raise UnsupportedError(f"{name} of integers by 0")
    bits = 8 * dtype.itemsize
    signed = dtype is not torch.uint8
    places = bits - signed
    if name == "pow" and second is not None and second.real >= 0:
        places = min(places, int(second.real).bit_length())
    return entry(INTEGER, name, dtype).format(
        *[x.code for x in operands],
        local=LOCAL[dtype],
        ones=wrapped(-1, dtype),
        bits=bits,
        places=places,
        signed=signed,
    )


def wrapped(value: float, dtype: torch.dtype) -> int:
    """The integer, wrapped into the dtype's range as torch wraps a number."""
    if not math.isfinite(value):
        raise UnsupportedError(f"{value} is no integer")
    bits = 8 * dtype.itemsize
    number = int(value) & ((1 << bits) - 1)
    if dtype is not torch.uint8 and number >> (bits - 1):
        number -= 1 << bits
    return number


def floating_literal(value: float, local: str) -> str:
    """The number, rounded to float32 unless it is computed with in float64."""
    value = float(value)
    if local == "tl.float32" and math.isfinite(value):
        try:
            (value,) = struct.unpack("f", struct.pack("f", value))
        except OverflowError:
            value = math.copysign(math.inf, value)
    if value == 0 and math.copysign(1, value) < 0:
        # Triton makes any zero a positive one, so this one is spelled by its bits.
        bits = 64 if local == "tl.float64" else 32
        return f"tl.full((), {-(2 ** (bits - 1))}, tl.int{bits}).to({local}, bitcast=True)"
    text = repr(value) if math.isfinite(value) else f'float("{value}")'
    return f"tl.full((), {text}, {local})"
