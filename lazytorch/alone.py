"""Whether one operation alone is better off as a generated kernel than as torch's own.

On a GPU a generated norm, softmax or logarithm of a sum of exponentials reads each row once, and
torch's sums across rows, joins, windows and copies of what has gaps or repeats are slower. On the
CPU torch's root mean square norm and cross entropy are, over long and over short rows softmax and
layer norm, arithmetic whose operands lie in different orders, and what torch computes one element
after the other or in more steps: choices by a mask (up to 20 times), comparisons (10), hyperbolic
tangents (6), exponentials.
"""

from __future__ import annotations

import platform
from functools import cache

import torch

from lazytorch.ir import Const, Node
from lazytorch.ops.activation import Elu, Gelu, Hardtanh, Mish, Relu, Softplus
from lazytorch.ops.base import Pointwise, Rowwise
from lazytorch.ops.bounds import Clamp, ClampMax, ClampMin, Maximum, Minimum
from lazytorch.ops.compare import Comparison, Logical, MaskedFill, Where
from lazytorch.ops.conv import KernelConvolution
from lazytorch.ops.copies import Cat, Clone, Pad
from lazytorch.ops.elementary import (
    Atan,
    Cos,
    Erf,
    Exp,
    Expm1,
    Log,
    Log1p,
    Log2,
    Log10,
    Sigmoid,
    Sin,
    Sqrt,
    Tanh,
)
from lazytorch.ops.generated import in_turn, reads_number
from lazytorch.ops.linalg import RowDots
from lazytorch.ops.loss import RowCrossEntropy
from lazytorch.ops.norm import LayerNorm, RmsNorm
from lazytorch.ops.pointwise import Add, Cast, Div, Mul, Sub
from lazytorch.ops.pool import AvgPool, MaxPool
from lazytorch.ops.reduce import LogSumExp, Reduction, Softmax
from lazytorch.types import TensorType

LONG_SQUARE, LONG = 32, 384
"""Elements of a row from which on the CPU a kernel of one's own is faster than torch's root mean
square norm, and than its softmax and layer norm, which lose less time between rows."""

SHORT, SHORT_NORM = 16, 64
"""Elements up to which it is faster than torch's softmax, and than its norms, where rows lie one
after the other, because it computes many of them at a time."""

SOME = 1 << 13
"""Elements from which on a kernel makes up for its call, some microseconds longer than torch's."""

CHOOSING = (Where, MaskedFill, Comparison, Logical)
"""Operations at which a kernel on the CPU is faster in every type (1.1 to 20 times, measured)."""

CURVED = (Tanh, Elu, Softplus, Mish, Expm1)
"""The same in floating types."""

VECTORS = (Sin, Cos, Atan)
"""The same where the C library has them for vectors, as glibc has on x86-64; so has it those that
are CURVED or WIDE for float64."""

WIDE = (Exp, Log, Log2, Log10, Log1p, Sigmoid, Sqrt, Erf)
"""The same in float32 and float64."""

NARROW = (Relu, Hardtanh, Clamp, ClampMin, ClampMax, Add, Sub, Mul, Div, Maximum, Minimum)
"""The same in bfloat16, which torch converts in more steps."""


def better_alone(node: Node) -> bool:
    """Whether a kernel of one's own is better than torch's for this operation."""
    op = node.op
    typed = next((x.type for x in node.inputs if isinstance(x.type, TensorType)), None)
    if typed is None:
        return False
    gpu = typed.device.type == "cuda"
    match op:
        case LogSumExp() if gpu:
            return True
        case Reduction():
            return typed.strides[-1] != 1
        case Pointwise():  # a number that stays on the GPU is read there alone
            made = node.type
            assert isinstance(made, TensorType)
            if crosswise(node) or op.placed:
                return True
            return any(reads_number(x, made) for x in node.inputs) if gpu else quicker(node)
        case Clone():
            return gpu and (crosswise(node) or not typed.is_dense)
        case RowCrossEntropy() | RowDots() | KernelConvolution():
            return True
        case RmsNorm() | Softmax() | LayerNorm():
            size = typed.shape[-1]
            short = size <= (SHORT if isinstance(op, Softmax) else SHORT_NORM) and in_turn(typed)
            return gpu or short or size >= (LONG_SQUARE if isinstance(op, RmsNorm) else LONG)
        case _:
            return gpu and isinstance(op, Rowwise | Cat | Pad | MaxPool | AvgPool)


def quicker(node: Node) -> bool:
    """Whether a kernel on the CPU computes an elementwise operation faster than torch does."""
    made = node.type
    assert isinstance(made, TensorType)
    if made.numel < SOME:
        return False
    of = {x.type.dtype for x in node.inputs if isinstance(x.type, TensorType)} | {made.dtype}
    match node.op:
        case Gelu(approximate=form) if torch.float64 not in of or vectors():
            return form == "tanh" or made.dtype is not torch.bfloat16
        case Cast():
            return torch.float16 not in of
        case op if isinstance(op, CHOOSING):
            return True
        case op if not made.dtype.is_floating_point or (torch.float64 in of and not vectors()):
            return False
        case op if isinstance(op, CURVED):
            return True
        case op if isinstance(op, VECTORS):
            return vectors()
        case op if made.dtype is torch.bfloat16:  # a tensor that is a constant is a bound
            return isinstance(op, NARROW) and not any(isinstance(x.op, Const) for x in ties(node))
        case op:
            return isinstance(op, WIDE) and torch.float16 not in of


def ties(node: Node) -> tuple[Node, ...]:
    """Operands of which the larger or the smaller is taken, and of equal zeros the second."""
    return node.inputs if isinstance(node.op, Maximum | Minimum) else ()


@cache
def vectors() -> bool:
    """Whether the C library has most functions for vectors."""
    name, version = platform.libc_ver()
    return (
        platform.machine() in ("x86_64", "AMD64")
        and name == "glibc"
        and tuple(map(int, version.split(".")[:2])) >= (2, 35)
    )


def crosswise(node: Node) -> bool:
    """Whether an operand of full size is read in another order than the result is written."""
    typed = node.type
    assert isinstance(typed, TensorType)
    orders = {
        x.type.order
        for x in node.inputs
        if isinstance(x.type, TensorType) and x.type.shape == typed.shape and x.type.is_dense
    }
    return bool(orders - {typed.order})
