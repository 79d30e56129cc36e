"""Samples of the elementwise operations: every layout, dtype and special value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from samples import Sample
from torch.nn import functional

from lazytorch.ops import activation, compare, elementary
from lazytorch.ops import pointwise as p
from lazytorch.ops.base import Pointwise

SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, math.inf, -math.inf, math.nan, 1e-40, 3e38)
DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
)
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Row = tuple[Pointwise, Callable[..., Any], tuple[str, ...], tuple[torch.dtype, ...]]
"""Operation, torch's function, operands as letters: x any, d a divisor, s a shift, b bool, w of
one dtype with the first, 2 and . and T the numbers 2, 1.5 and True; and dtypes of the x."""

ELEMENTARY: list[type[elementary.Elementary]] = [
    elementary.Reciprocal, elementary.Sqrt, elementary.Rsqrt, elementary.Exp, elementary.Exp2,
    elementary.Expm1, elementary.Log, elementary.Log2, elementary.Log10, elementary.Log1p,
    elementary.Sin, elementary.Cos, elementary.Tan, elementary.Asin, elementary.Acos,
    elementary.Atan, elementary.Sinh, elementary.Cosh, elementary.Tanh, elementary.Sigmoid,
    elementary.Erf,
]  # fmt: skip


def row(op: Pointwise, function: Callable[..., Any], *letters: str, dtypes: Any = DTYPES) -> Row:
    return op, function, letters, dtypes


ROWS: list[Row] = [
    row(p.Add(), torch.add, "xx", "x2", "x.", "xT"),
    row(p.Sub(), torch.sub, "xx", "x2", "x."),
    row(p.Mul(), torch.mul, "xx", "x2", "x.", "xT"),
    row(p.Div(), torch.div, "xx", "x2", "x."),
    row(p.FloorDivide(), torch.floor_divide, "xd", "x2", "x."),
    row(p.TruncDivide(), lambda x, y: torch.div(x, y, rounding_mode="trunc"),
        "xd", "x2", dtypes=FLOATING),
    row(p.Remainder(), torch.remainder, "xd", "x2", "x.", "2d"),
    row(p.Fmod(), torch.fmod, "xd", "x2", "x."),
    row(p.Pow(), torch.pow, "xd", "x2", "x.", "2d", ".d"),
    row(p.Square(), torch.square, "x"),
    row(p.Atan2(), torch.atan2, "xx"),
    row(p.Maximum(), torch.maximum, "xx"),
    row(p.Minimum(), torch.minimum, "xx"),
    row(p.ClampMin(), torch.clamp_min, "xx", "x2", "x."),
    row(p.ClampMax(), torch.clamp_max, "xx", "x2", "x."),
    row(p.Clamp(), torch.clamp, "xxx", "x.2", "x2."),
    row(p.AddScaled(), lambda x, y, a: torch.add(x, y, alpha=a), "xx2", dtypes=FLOATING),
    row(p.Lerp(), torch.lerp, "xww", "xw."),
    row(p.Addcmul(), lambda x, y, z, v: torch.addcmul(x, y, z, value=v), "xxx2"),
    row(p.Addcdiv(), lambda x, y, z, v: torch.addcdiv(x, y, z, value=v), "xxd2"),
    row(p.Cast(torch.float32), lambda x: x.to(torch.float32, copy=True), "x",
        dtypes=DTYPES[:-1]),
    row(p.Cast(torch.int32), lambda x: x.to(torch.int32, copy=True), "d", dtypes=DTYPES[:-1]),
    row(p.Cast(torch.bool), lambda x: x.to(torch.bool, copy=True), "x"),
    row(p.Cast(torch.bfloat16), lambda x: x.to(torch.bfloat16, copy=True), "x",
        dtypes=DTYPES[:-1]),
    *(row(getattr(p, name)(), getattr(torch, name.lower()), "x")
      for name in ["Neg", "Abs", "Sign", "Floor", "Ceil", "Trunc", "Round"]),
    *(row(kind(), getattr(torch, kind.name()), "x") for kind in ELEMENTARY),
    *(row(getattr(compare, name)(), getattr(torch, name.lower()), "xx", "x2", "x.")
      for name in ["Eq", "Ne", "Lt", "Le", "Gt", "Ge"]),
    row(compare.Isnan(), torch.isnan, "x"),
    row(compare.Isinf(), torch.isinf, "x"),
    row(compare.LogicalNot(), torch.logical_not, "x"),
    row(compare.LogicalAnd(), torch.logical_and, "xx"),
    row(compare.LogicalOr(), torch.logical_or, "xx"),
    row(compare.LogicalXor(), torch.logical_xor, "xx"),
    row(compare.BitwiseNot(), torch.bitwise_not, "x"),
    row(compare.BitwiseAnd(), torch.bitwise_and, "xx", "x2", "2x"),
    row(compare.BitwiseOr(), torch.bitwise_or, "xx", "x2", "2x"),
    row(compare.BitwiseXor(), torch.bitwise_xor, "xx", "x2", "2x"),
    row(compare.BitwiseLeftShift(), torch.bitwise_left_shift, "xs", "x2", "2s"),
    row(compare.BitwiseRightShift(), torch.bitwise_right_shift, "xs", "x2", "2s"),
    row(compare.Where(), torch.where, "bxx", "bx2", "b.x", "b2."),
    row(compare.MaskedFill(), torch.masked_fill, "xbT"),
    row(activation.Relu(), torch.relu, "x"),
    row(activation.Hardtanh(), functional.hardtanh, "x", dtypes=FLOATING),
    row(activation.Hardtanh(0.0, 6.0), functional.relu6, "x", dtypes=FLOATING),
    row(activation.LeakyRelu(0.2), lambda x: functional.leaky_relu(x, 0.2), "x", dtypes=FLOATING),
    row(activation.Elu(), functional.elu, "x", dtypes=FLOATING),
    row(activation.Elu(1.6732632423543772, 1.0507009873554805), functional.selu, "x",
        dtypes=FLOATING),
    row(activation.Elu(2.0, 1.0, 0.5), lambda x: functional.celu(x, 2.0), "x", dtypes=FLOATING),
    row(activation.Silu(), functional.silu, "x"),
    row(activation.Gelu(), functional.gelu, "x"),
    row(activation.Gelu("tanh"), lambda x: functional.gelu(x, approximate="tanh"), "x"),
    row(activation.Softplus(), functional.softplus, "x", dtypes=FLOATING),
    row(activation.Softplus(2.0, 3.0), lambda x: functional.softplus(x, 2.0, 3.0), "x",
        dtypes=FLOATING),
    row(activation.LogSigmoid(), functional.logsigmoid, "x"),
    row(activation.Hardsigmoid(), functional.hardsigmoid, "x"),
    row(activation.Hardswish(), functional.hardswish, "x"),
    row(activation.Mish(), functional.mish, "x"),
]  # fmt: skip


def filled(shape: tuple[int, ...], dtype: torch.dtype, letter: str, seed: int) -> torch.Tensor:
    """Random values that the letter's operand may have."""
    draw = torch.Generator().manual_seed(seed)
    if letter == "b" or dtype is torch.bool:
        return torch.randint(int(letter == "d"), 2, shape, generator=draw) == 1
    if letter == "s" or not (dtype.is_floating_point or dtype.is_complex):
        low = 1 if letter == "d" else 0
        return torch.randint(low, 5, shape, generator=draw).to(dtype)
    drawn = torch.randn(shape, generator=draw, dtype=torch.float64) * 3
    return drawn.to(dtype)


def laid_out(layout: str, index: int, dtype: torch.dtype, letter: str) -> torch.Tensor:
    """Operand number `index` of a sample with that layout."""
    seed = 100 * index + len(layout)
    match layout:
        case "0-d":
            return filled((), dtype, letter, seed)
        case "empty":
            return filled((3, 0), dtype, letter, seed)
        case "broadcast":
            shape = ((2, 1, 3), (4, 1), (1,), ())[index]
            return filled(shape, dtype, letter, seed)
        case "transposed":
            return filled((5, 3, 2), dtype, letter, seed).permute(2, 0, 1)
        case "channels last":
            value = filled((2, 3, 4, 5), dtype, letter, seed)
            return value.contiguous(memory_format=torch.channels_last)
        case "expanded":
            return filled((3, 1), dtype, letter, seed).expand(3, 4)
        case "sliced":
            return filled((5, 8), dtype, letter, seed)[1:4, ::2]
        case _:
            return filled((3, 37), dtype, letter, seed)


NUMBER = {"2": 2, ".": 1.5, "T": True}
LAYOUTS = ("0-d", "empty", "broadcast", "transposed", "channels last", "expanded", "sliced")


def operands(letters: str, dtype: torch.dtype, layout: str) -> tuple[Any, ...]:
    """One operand for each letter; other operands than the first also come in other dtypes."""
    return tuple(
        NUMBER[letter] if letter in NUMBER else laid_out(layout, i, dtype, letter)
        for i, letter in enumerate(letters)
    )


LEFT_OUT: dict[type[Pointwise], tuple[float, ...]] = {
    # torch's own vectors on the CPU: NaN for the remainder of a quotient that float32 cannot hold
    p.Remainder: (3e38,),
    p.Fmod: (3e38,),
    # and for gelu(inf), which its scalars give as inf
    activation.Gelu: (math.inf, 3e38),
}


def specials(op: Pointwise, letters: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """Every pair of special values."""
    count = sum(letter in "xdw" for letter in letters)
    chosen = [value for value in SPECIAL if value not in LEFT_OUT.get(type(op), ())]
    pairs = list(itertools.product(chosen, repeat=min(count, 2)))
    columns = iter(torch.tensor(column).to(dtype) for column in zip(*pairs, strict=True))
    found: list[Any] = []
    for letter in letters:
        if letter in NUMBER:
            found.append(NUMBER[letter])
        elif letter in "xdw":
            found.append(next(columns, torch.ones(len(pairs)).to(dtype)))
        else:
            found.append(torch.arange(len(pairs)) % 2 == 0)
    return tuple(found)


def samples(
    op: Pointwise, function: Callable[..., Any], letters: str, dtypes: Any
) -> Iterator[Any]:
    """The samples of one row with one choice of operands."""
    # Whether infinities have no defined result.
    undefined = isinstance(op, p.Cast) and op.dtype is torch.int32
    for dtype in dtypes:
        same = isinstance(op, p.Cast) and op.dtype is dtype  # a copy, imported as one
        given = operands(letters, dtype, "plain")
        yield Sample(op, given, function, imported=not same, label=f"{letters} {dtype}")
        if dtype in FLOATING and not undefined:
            given = specials(op, letters, dtype)
            yield Sample(op, given, function, imported=not same, label=f"{letters} {dtype} special")
    usual = torch.float32 if torch.float32 in dtypes and 2 in op.kinds else torch.int64
    if op == p.Cast(torch.float32):
        usual = torch.float64
    for layout in LAYOUTS:
        yield Sample(op, operands(letters, usual, layout), function, label=f"{letters} {layout}")
    if letters in ("xx", "xd", "bxx") and usual is torch.float32:
        for first, second in ((torch.int64, torch.float32), (torch.bfloat16, torch.float32)):
            mixed = list(operands(letters, first, "plain"))
            mixed[-1] = mixed[-1].to(second)
            yield Sample(op, tuple(mixed), function, label=f"{letters} {first} {second}")


SAMPLES = [
    sample
    for op, function, choices, dtypes in ROWS
    for letters in choices
    for sample in samples(op, function, letters, dtypes)
]
