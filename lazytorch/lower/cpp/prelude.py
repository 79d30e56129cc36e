"""Gives the C++ text that every generated translation unit starts with."""

from functools import cache
from pathlib import Path

_HEADERS = (
    "vector_math.h",
    "arithmetic.h",
    "conversions.h",
    "loops.h",
    "transpose.h",
    "windows.h",
    "products.h",
)


@cache
def prelude() -> str:
    """Return the prelude: fixed-width integers and namespace `lt`.

    Generated kernels call `lt::exp(float)`, `lt::to_bf16(float)` and so on inside loops marked
    `#pragma omp simd`. The text is the same on every machine.
    """
    folder = Path(__file__).parent
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in _HEADERS)
