"""What generated kernels can compute, and why not the rest."""

from __future__ import annotations

import math

import torch

from lazytorch.ir import Const, Node
from lazytorch.ops.affine import Affine
from lazytorch.ops.base import Pointwise, Rowwise
from lazytorch.ops.conv import KernelConvolution
from lazytorch.ops.elementary import Cos, Sin, Tan
from lazytorch.ops.linalg import RowDots
from lazytorch.ops.number import ToNumber
from lazytorch.ops.pointwise import FloorDivide, Fmod, Pow, Remainder
from lazytorch.ops.reduce import Reduction
from lazytorch.types import ScalarType, TensorType, dtype_name

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = frozenset(
    (*FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
)

SHORTEST = 8
"""Elements of the shortest rows: those of shorter ones are better reduced across, or together."""

LONE = 1 << 16
"""From this length on rows must be many: a row is one program's, or one thread's, work."""

REMAINDERS = 1 << 12
"""Floats whose remainders on the CPU are better left to torch: C++ has them exactly, but one after
the other."""

PLACES = 40
"""Places that one operation reads at the most: each is a load of its own."""

BESIDE = 16
"""Rows beside each other in memory from which on a GPU, or a CPU's thread, reads them together."""

MANY = {"cuda": 128, "cpu": 4}
"""How many rows keep a device busy."""


def obstacle(node: Node) -> str | None:
    """Why no generated kernel can compute this operation; None if one can."""
    op, typed = node.op, node.type
    if isinstance(op, Rowwise):
        return row_obstacle(node)
    if isinstance(op, Affine):
        return place_obstacle(node)
    if isinstance(op, KernelConvolution):
        return None
    if not isinstance(op, Pointwise):
        return "not elementwise"
    if not isinstance(typed, TensorType):
        return "a number, not a tensor"
    if type(op).emit is Pointwise.emit:
        return f"{op.name()} has no arithmetic for generated kernels"
    for x in (*[x.type for x in node.inputs], typed):
        if isinstance(x, TensorType):
            if x.dtype not in DTYPES:
                return f"dtype {dtype_name(x.dtype)} has no generated kernel"
            if x.device != typed.device:
                return "operands on different devices"
    numbers = [x for x in node.inputs if isinstance(x.type, ScalarType)]
    if varying := [x for x in numbers if not isinstance(x.op, Const)]:
        if any(x.type != ScalarType(float) for x in varying):
            return "a number that varies is no float"
        if isinstance(op, Pow):  # torch computes some exponents otherwise than others
            return "the exponent or the base of a power varies"
    if typed.device.type != "cuda" and op.placed:
        return "only a GPU has generated kernels that ask for places"
    wide = typed.device.type == "cpu" and typed.dtype is torch.float64
    if wide and isinstance(op, Sin | Cos | Tan):  # the C++ ones have three times torch's error
        return "float64 trigonometry is left to torch's own kernel"
    divides = isinstance(op, FloorDivide | Remainder | Fmod) and typed.dtype.is_floating_point
    if divides and typed.device.type == "cpu" and typed.numel >= REMAINDERS:
        return "torch's own remainders of many floats are 2 to 10 times as fast"
    return None


def row_obstacle(node: Node) -> str | None:
    """Why no generated kernel can compute this operation on rows; None if one can."""
    op, typed, x = node.op, node.type, node.inputs[0].type
    assert isinstance(op, Rowwise) and isinstance(x, TensorType)
    if type(op).emit is Rowwise.emit or not isinstance(typed, TensorType):
        return f"{op.name()} has no arithmetic for generated kernels"
    if not op.along_rows(x):
        return "not along the last dimension alone"
    if isinstance(op, Reduction | RowDots) and x.strides[-1] != 1 and not across(x):
        return "rows do not lie in one piece"
    together = x.device.type == "cpu" and (across(x) or (x.shape[-1] > 1 and in_turn(x)))
    if x.shape[-1] < SHORTEST and not together:
        return f"rows of {x.shape[-1]} elements: kernels are for {SHORTEST} and more"
    if x.shape[-1] > LONE and math.prod(x.shape[:-1]) < MANY.get(x.device.type, 1):
        return f"{math.prod(x.shape[:-1])} rows of {x.shape[-1]} elements would be few programs"
    given: torch.dtype | None = getattr(op, "dtype", None)
    if given is not None and torch.promote_types(given, x.dtype) is not given:
        return f"{op.name()} rounds its operand to {dtype_name(given)} first"
    for other in (*[x.type for x in node.inputs], typed):
        if isinstance(other, ScalarType):
            continue
        if not isinstance(other, TensorType) or other.dtype not in DTYPES:
            return f"{other} has no generated kernel"
    if x.dtype not in FLOATS or typed.dtype not in FLOATS:
        return f"{op.name()} of integers has no generated kernel"
    return None


def across(x: TensorType) -> bool:
    """Whether rows lie beside each other in memory: many begin one after the other, on a CPU enough
    for all its threads."""
    pairs = zip(x.shape[:-1], x.strides[:-1], strict=True)
    many = BESIDE if x.device.type == "cuda" else BESIDE * torch.get_num_threads()
    return any(size >= many and step == 1 for size, step in pairs)


def in_turn(x: TensorType) -> bool:
    """Whether rows lie one after the other, enough for a CPU to compute many at a time."""
    return x.is_contiguous and math.prod(x.shape[:-1]) >= BESIDE


def place_obstacle(node: Node) -> str | None:
    """Why no generated kernel can choose these places to read; None if one can."""
    op, typed = node.op, node.type
    assert isinstance(op, Affine)
    types = [x.type for x in node.inputs if isinstance(x.type, TensorType)]
    if type(op).emit is Affine.emit or not isinstance(typed, TensorType):
        return f"{op.name()} has no arithmetic for generated kernels"
    if typed.device.type != "cuda":
        return "only a GPU has generated kernels that choose where to read"
    if not typed.numel or any(x.dtype not in DTYPES for x in (*types, typed)):
        return f"{typed} has no generated kernel"
    if not op.readable(*types):
        return f"{op.name()} of such operands or windows has no generated kernel"
    if (count := len(op.places(*types))) > PLACES:
        return f"{op.name()} reads in {count} places: kernels do in {PLACES} at most"
    return None


def elsewhere(node: Node) -> bool:
    """Whether an operation reads its operands at other places than its own."""
    if not isinstance(node.op, Affine):
        return isinstance(node.op, KernelConvolution)
    types = [x.type for x in node.inputs if isinstance(x.type, TensorType)]
    found = node.op.places(*types)
    return len(found) > 1 or any(set(x.scales) - {1} or any(x.shifts) for x in found)


def reads_number(node: Node, made: TensorType) -> bool:
    """Whether a kernel that makes `made` can itself read this number from a tensor."""
    if not isinstance(node.op, ToNumber):
        return False
    x = node.inputs[0].type
    assert isinstance(x, TensorType)
    return not x.shape and x.dtype in DTYPES and x.device == made.device
