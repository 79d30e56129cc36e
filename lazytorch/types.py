"""What a value is: a tensor, a scalar, a tuple or opaque bytes; dtype names and promotion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch

Shape = tuple[int, ...]
Strides = tuple[int, ...]
Number = bool | int | float | complex

_SHORT: dict[torch.dtype, str] = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.uint16: "u16",
    torch.uint32: "u32",
    torch.uint64: "u64",
    torch.bool: "bool",
    torch.complex128: "c128",
    torch.complex64: "c64",
    torch.complex32: "c32",
    torch.float8_e4m3fn: "f8e4m3fn",
    torch.float8_e5m2: "f8e5m2",
    torch.float8_e4m3fnuz: "f8e4m3fnuz",
    torch.float8_e5m2fnuz: "f8e5m2fnuz",
}
_LONG: dict[str, torch.dtype] = {short: dtype for dtype, short in _SHORT.items()}
_KINDS: dict[type, int] = {bool: 0, int: 1, float: 2, complex: 3}


def dtype_name(dtype: torch.dtype) -> str:
    """The short name used in a graph's text: `f32`, `bf16`, `i64`."""
    return _SHORT.get(dtype) or str(dtype).removeprefix("torch.")


def dtype_named(name: str) -> torch.dtype:
    """Inverse of `dtype_name`; KeyError for a name that is none."""
    found = _LONG.get(name) or getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise KeyError(name)
    return found


@lru_cache(maxsize=4096)
def contiguous_strides(shape: Shape) -> Strides:
    """Row-major strides as torch gives them: sizes of 0 count as 1."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * max(shape[i + 1], 1)
    return tuple(strides)


def strides_in_order(shape: Shape, order: Sequence[int]) -> Strides:
    """Dense strides with `order` naming the dimensions from the outermost to the innermost."""
    strides = [1] * len(shape)
    step = 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(shape[dim], 1)
    return tuple(strides)


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape, dtype, device, and the strides that eager gives (in elements, row-major by default).

    Strides are part of the type, rather than an order of dimensions, because views (expanded,
    sliced) have types too and eager's results must come out with eager's exact strides.
    """

    shape: Shape
    dtype: torch.dtype
    device: torch.device
    strides: Strides

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without what the strides skip or repeat."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie row-major without holes (sizes of 1 have free strides)."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1:
                if stride != expected:
                    return not self.numel
                expected *= size
        return True

    @property
    def is_dense(self) -> bool:
        """Whether the elements fill one block of memory in some order of the dimensions."""
        expected = 1
        for stride, size in sorted(zip(self.strides, self.shape, strict=True)):
            if size != 1:
                if stride != expected:
                    return not self.numel
                expected *= size
        return True

    @property
    def order(self) -> tuple[int, ...]:
        """Dimensions from the outermost in memory to the innermost."""
        if self.is_contiguous:
            return tuple(range(self.rank))
        return tuple(sorted(range(self.rank), key=lambda d: (-self.strides[d], -self.shape[d], d)))

    def with_shape(self, shape: Iterable[int]) -> TensorType:
        """The same dtype and device, another shape, row-major."""
        return tensor_type(tuple(shape), self.dtype, self.device)

    def with_dtype(self, dtype: torch.dtype) -> TensorType:
        """The same shape, device and strides, another dtype."""
        if dtype is self.dtype:
            return self
        return TensorType(self.shape, dtype, self.device, self.strides)

    def with_strides(self, strides: Strides) -> TensorType:
        """The same elements laid out otherwise."""
        return TensorType(self.shape, self.dtype, self.device, strides)

    def dense(self) -> TensorType:
        """What `torch.empty_like` makes of it: its own strides if dense, else its order packed."""
        if self.is_dense:
            return self
        return self.with_strides(preserved_strides(self.shape, self.strides))

    def __str__(self) -> str:
        text = f"{dtype_name(self.dtype)}[{', '.join(map(str, self.shape))}]"
        if self.strides != contiguous_strides(self.shape):
            text += "{" + ", ".join(map(str, self.strides)) + "}"
        return text if self.device.type == "cpu" else f"{text} on {self.device}"


def tensor_type(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    strides: Strides | None = None,
) -> TensorType:
    """A TensorType; row-major when no strides are given."""
    shape = tuple(shape)
    if isinstance(device, str):
        device = torch.device(device)
    return TensorType(
        shape, dtype, device, contiguous_strides(shape) if strides is None else strides
    )


@lru_cache(maxsize=4096)
def preserved_strides(shape: Shape, strides: Strides) -> Strides:
    """Strides of a fresh result that keeps the memory order of an operand (`preserve_format`)."""
    return strides_in_order(shape, elementwise_order(shape, (strides,)))


def elementwise_order(shape: Shape, operands: tuple[Strides, ...]) -> list[int]:
    """Order of dimensions that torch's TensorIterator gives an elementwise result.

    Insertion sort from the innermost dimension outwards; a pair is swapped only when the first
    operand that has an opinion (both strides nonzero) says so. Source: ATen/TensorIterator.cpp,
    `reorder_dimensions`.
    """
    rank = len(shape)
    perm = list(range(rank - 1, -1, -1))  # innermost first

    def should_swap(a: int, b: int) -> int:
        for strides in operands:
            sa, sb = strides[a], strides[b]
            if sa == 0 or sb == 0:
                continue
            if sa < sb:
                return -1
            if sa > sb:
                return 1
            if shape[a] > shape[b]:
                return 1
        return 0

    for i in range(1, rank):
        dim1 = i
        for dim0 in range(i - 1, -1, -1):
            swap = should_swap(perm[dim0], perm[dim1])
            if swap > 0:
                perm[dim0], perm[dim1] = perm[dim1], perm[dim0]
                dim1 = dim0
            elif swap < 0:
                break
    return perm[::-1]


@dataclass(frozen=True, slots=True)
class ScalarType:
    """A Python number that is a value: `kind` is bool, int, float or complex."""

    kind: type

    def __str__(self) -> str:
        return self.kind.__name__


@dataclass(frozen=True, slots=True)
class TupleType:
    """Several values; `Item(i)` takes one."""

    items: tuple[Type, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.items))})"


@dataclass(frozen=True, slots=True)
class OpaqueType:
    """Bytes that only one library can read, such as a prepacked oneDNN weight."""

    nbytes: int
    device: torch.device

    def __str__(self) -> str:
        text = f"opaque[{self.nbytes}]"
        return text if self.device.type == "cpu" else f"{text} on {self.device}"


Type = TensorType | ScalarType | TupleType | OpaqueType

NOTHING = OpaqueType(0, torch.device("cpu"))
"""The type of None among a tuple's items: what a library was not asked for."""


def kind_of(dtype: torch.dtype) -> int:
    """Category of promotion: 0 bool, 1 integer, 2 floating, 3 complex."""
    if dtype.is_floating_point:
        return 2
    if dtype.is_complex:
        return 3
    return 0 if dtype is torch.bool else 1


def promote(operands: Iterable[Type]) -> torch.dtype:
    """The dtype torch computes in: tensors with dimensions outrank 0-d ones outrank numbers.

    A lower rank only counts when its category (bool, integer, floating, complex) is higher.
    Source: torch.result_type.
    """
    ranked: list[torch.dtype | None] = [None, None]
    number = -1
    for t in operands:
        if isinstance(t, TensorType):
            rank = 0 if t.shape else 1
            have = ranked[rank]
            if have is None:
                ranked[rank] = t.dtype
            elif have is not t.dtype:
                ranked[rank] = torch.promote_types(have, t.dtype)
        elif isinstance(t, ScalarType):
            number = max(number, _KINDS[t.kind])
    dimensioned, zero_dim = ranked
    result = None if number < 0 else _number_dtype(number)
    for higher in (zero_dim, dimensioned):
        if higher is not None:
            result = higher if result is None else _outrank(higher, result)
    assert result is not None
    return result


def _outrank(higher: torch.dtype, lower: torch.dtype) -> torch.dtype:
    """Promotion of two ranks: ATen/native/TypeProperties.cpp, `combine_categories`."""
    kind, other = kind_of(higher), kind_of(lower)
    if kind == 3 or other <= kind:
        return higher
    if kind == 2:
        return higher.to_complex()
    return torch.promote_types(higher, lower)


def _number_dtype(kind: int) -> torch.dtype:
    if kind == 0:
        return torch.bool
    if kind == 1:
        return torch.int64
    default = torch.get_default_dtype()
    return default if kind == 2 else default.to_complex()


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The common shape; ValueError names the first pair that does not fit."""
    result: Shape = shapes[0]
    for shape in shapes[1:]:
        if shape == result:
            continue
        if len(shape) < len(result):
            shape = (1,) * (len(result) - len(shape)) + shape
        elif len(shape) > len(result):
            result = (1,) * (len(shape) - len(result)) + result
        merged: list[int] = []
        for i, (a, b) in enumerate(zip(result, shape, strict=True)):
            if a != b and a != 1 and b != 1:
                raise ValueError(f"size {a} and size {b} at dimension {i} cannot be broadcast")
            merged.append(b if a == 1 else a)
        result = tuple(merged)
    return result


def carries(typed: Type) -> bool:
    """Whether values of a type have derivatives: floating and complex tensors, tuples of such."""
    if isinstance(typed, TensorType):
        return typed.dtype.is_floating_point or typed.dtype.is_complex
    return isinstance(typed, TupleType) and any([carries(x) for x in typed.items])
