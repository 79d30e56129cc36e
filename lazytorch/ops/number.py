"""Numbers that are values: read from a tensor, computed from other numbers as Python computes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from lazytorch.errors import DTypeError, ShapeError
from lazytorch.ir import Op
from lazytorch.types import ScalarType, TensorType, Type, dtype_name


def real_pow(base: float, exponent: float) -> float:
    """A power that a graph has as a float; DTypeError where Python makes it complex."""
    found = base**exponent
    if isinstance(found, complex):
        raise DTypeError(f"{base!r} ** {exponent!r} is a complex number")
    return found


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "abs",
        "eq", "ne", "lt", "le", "gt", "ge",
    )},
    **{name: getattr(math, name) for name in (
        "sqrt", "exp", "log", "log2", "sin", "cos", "tan", "asin", "acos", "atan",
        "sinh", "cosh", "tanh", "floor", "ceil",
    )},
    "float": float, "int": int, "bool": bool, "round": round, "is_integer": float.is_integer,
    "real_pow": real_pow,
    "max": lambda x, y: float(max(x, y)), "min": lambda x, y: float(min(x, y)),
}  # fmt: skip
"""What Python does with numbers, by name."""

BOOLEAN = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "bool", "is_integer"})
INTEGER = frozenset({"int", "floor", "ceil"})


class ToNumber(Op):
    """The one element of a floating tensor as a Python number, which widens it to double."""

    def infer(self, x: TensorType) -> ScalarType:
        if x.numel != 1:
            raise ShapeError(
                f"a Tensor with {x.numel} elements cannot be converted to Scalar", {"tensor": x}
            )
        if not x.dtype.is_floating_point:
            raise DTypeError(f"to_number: {dtype_name(x.dtype)} is not a floating dtype")
        return ScalarType(float)

    def run(self, x: torch.Tensor) -> float:
        return x.item()


class Arithmetic(Op):
    """`function` (one of `FUNCTIONS`) of Python numbers, by Python: a float, int or bool."""

    function: str

    def infer(self, *xs: Type) -> ScalarType:
        if self.function not in FUNCTIONS:
            raise DTypeError(f"arithmetic: there is no function {self.function!r}")
        for x in xs:
            if not isinstance(x, ScalarType):
                raise DTypeError(f"arithmetic: {self.function} of {x}, which is not a number")
        if self.function in BOOLEAN:
            return ScalarType(bool)
        whole = self.function in INTEGER or (self.function == "round" and len(xs) == 1)
        return ScalarType(int if whole else float)

    def run(self, *xs: Any) -> Any:
        return FUNCTIONS[self.function](*xs)
