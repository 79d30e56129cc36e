"""CUDA's math library by numpy, for kernels that Triton's interpreter runs without a GPU."""
# pyright: basic

import threading

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import TensorHandle

ALONE = threading.Lock()
"""Held while a kernel is interpreted: the interpreter keeps its state in triton's own modules."""


def elementwise(function):
    """A function of blocks of one dtype from a numpy function."""

    def call(*xs):
        if len(xs) == 2:
            xs = tl.broadcast(*xs)
        handle = xs[0].handle
        data = function(*[x.handle.data for x in xs]).astype(handle.data.dtype)
        return tl.tensor(TensorHandle(data, handle.dtype.scalar), xs[0].type)

    return call


exp, exp2, expm1 = map(elementwise, (np.exp, np.exp2, np.expm1))
log, log2, log10, log1p = map(elementwise, (np.log, np.log2, np.log10, np.log1p))
sin, cos, tan = map(elementwise, (np.sin, np.cos, np.tan))
asin, acos, atan = map(elementwise, (np.arcsin, np.arccos, np.arctan))
sinh, cosh, tanh = map(elementwise, (np.sinh, np.cosh, np.tanh))
trunc, rint = map(elementwise, (np.trunc, np.rint))
pow, atan2, fmod = map(elementwise, (np.power, np.arctan2, np.fmod))
copysign = elementwise(np.copysign)


def reciprocal(x):
    """1 / x."""
    return 1.0 / x


power_of_two = exp2


def along_rows(function):
    """A reduction of each row of a block from a numpy function."""

    def call(x):
        data = function(x.handle.data, axis=1, keepdims=True)
        scalar = x.handle.dtype.scalar
        return tl.tensor(TensorHandle(data, scalar), tl.block_type(scalar, list(data.shape)))

    return call


row_max, row_min = along_rows(np.max), along_rows(np.min)


def from_bfloat16(x):
    """Widened to float32."""
    bits = x.to(tl.int16, bitcast=True).to(tl.int32) << 16
    return bits.to(tl.float32, bitcast=True)


def to_bfloat16(x):
    """Rounded to nearest even; NaN stays NaN."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded = tl.where(x == x, rounded, 0x7FC0)
    return rounded.to(tl.int16).to(tl.bfloat16, bitcast=True)


def widened(x):
    """A 16-bit or 32-bit float as float32."""
    return from_bfloat16(x) if x.dtype == tl.bfloat16 else x.to(tl.float32)


def like(x, y):
    """A float32 rounded to the 16-bit dtype of y."""
    return to_bfloat16(x) if y.dtype == tl.bfloat16 else x.to(y.dtype)


def product(x, y):
    """The product of two matrices of 16-bit numbers, summed in float32."""
    return tl.dot(widened(x), widened(y))
