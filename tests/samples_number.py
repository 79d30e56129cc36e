"""Samples of numbers that are values: read from tensors, and Python's arithmetic on them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from samples import Sample

from lazytorch.ops.number import FUNCTIONS, Arithmetic, ToNumber

NUMBERS = (0.3, -2.5, 0.0, -0.0, 7.0, math.inf, -math.inf, math.nan, 1e-310)
BINARY = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod"),
    *("eq", "ne", "lt", "le", "gt", "ge"),
)


def defined(function: Callable[..., Any], operands: tuple[Any, ...]) -> bool:
    """Whether Python has a value there."""
    try:
        return not isinstance(function(*operands), complex)
    except (ArithmeticError, ValueError):
        return False


SAMPLES = [
    *(
        Sample(ToNumber(), (torch.full(shape, value, dtype=dtype),), torch.Tensor.item, True, False)
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        for value in NUMBERS
        for shape in ((), (1,), (1, 1))
    ),
    Sample(ToNumber(), (torch.ones(2),), torch.Tensor.item, True, False),
    *(
        Sample(Arithmetic(name), (x, y), getattr(operator, name), True, False)
        for name in BINARY
        for x in NUMBERS
        for y in (*NUMBERS, 3)
        if defined(getattr(operator, name), (x, y))
    ),
    *(
        Sample(Arithmetic(name), (x,), function, True, False)
        for name, function in FUNCTIONS.items()
        for x in NUMBERS
        if name not in (*BINARY, "pow", "real_pow", "max", "min") and defined(function, (x,))
    ),
    *(
        Sample(Arithmetic(name), (x, y), function, True, False)
        for name, function in (("max", max), ("min", min))
        for x in NUMBERS
        for y in NUMBERS
    ),
    *(
        Sample(Arithmetic(name), operands, operator.pow, True, False)
        for name in ("pow", "real_pow")
        for operands in ((-2.5, 2), (0.3, -1), (2.0, 0.3), (2, 0.5))
    ),
    Sample(Arithmetic("round"), (2.675, 2), round, True, False),
]
