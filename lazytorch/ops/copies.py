"""Operations that move elements into fresh memory without computing: copies, joins, padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lazytorch.errors import BoundsError, DeviceError, ShapeError
from lazytorch.ir import Builder, Graph, Node, Op
from lazytorch.ops.affine import Affine, Place, shifted
from lazytorch.ops.emitter import Emitter, Value
from lazytorch.ops.reduction import tensor
from lazytorch.types import (
    Number,
    Shape,
    Strides,
    TensorType,
    contiguous_strides,
    promote,
)

if TYPE_CHECKING:
    from lazytorch.ops.calculus import Calculus, Cotangents


def wrapped(dim: int, rank: int) -> int:
    """`dim` counted from the front; BoundsError in torch's words outside [-rank, rank)."""
    bound = max(rank, 1)
    if not -bound <= dim < bound:
        raise BoundsError(
            f"Dimension out of range (expected to be in range of [{-bound}, {bound - 1}], "
            f"but got {dim})"
        )
    return dim + bound if dim < 0 else dim


def overlaps(x: TensorType) -> bool:
    """Whether one place in memory is several elements, as far as torch looks for it."""
    return any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.strides, strict=True))


def format_strides(shape: Shape, memory_format: torch.memory_format) -> Strides:
    """Strides of a fresh tensor in a memory format; ShapeError where the rank does not fit it."""
    if memory_format == torch.contiguous_format:
        return contiguous_strides(shape)
    rank = 4 if memory_format == torch.channels_last else 5
    if len(shape) != rank:
        name = str(memory_format).removeprefix("torch.")
        raise ShapeError(f"required rank {rank} tensor to use {name} format")
    strides, step = [1] * rank, 1
    for dim in (1, *range(rank - 1, 1, -1), 0):
        strides[dim] = step
        step *= shape[dim]  # not max(size, 1): torch's channels_last strides of empty tensors are 0
    return tuple(strides)


def suggested_format(x: TensorType) -> torch.memory_format:
    """What `suggest_memory_format` says of strides (c10/core/MemoryFormat.h)."""
    if x.rank in (4, 5) and x.strides[1] != 0:
        smallest = 0
        for dim in (1, *range(x.rank - 1, 1, -1), 0):
            size, stride = x.shape[dim], x.strides[dim]
            if size == 0 or stride < smallest or (dim == 0 and smallest == x.strides[1]):
                break
            smallest = stride * size if size > 1 else stride
        else:
            return torch.channels_last if x.rank == 4 else torch.channels_last_3d
    return torch.contiguous_format


def last_element(shape: Shape, strides: Strides) -> int:
    """Distance in memory from the first element to the furthest one; -1 when there are none."""
    if 0 in shape:
        return -1
    return sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def relaid(x: torch.Tensor, strides: Strides, like: torch.Tensor | None = None) -> torch.Tensor:
    """A copy of `x` in fresh memory with exactly these strides, holes and overlaps included.

    Under `torch.func.vmap` it has the batch of `like`, which is `x` unless said otherwise.
    """
    if tuple(x.stride()) == strides and x.numel() and like is None:
        count = last_element(x.shape, strides) + 1
        return x.as_strided((count,), (1,)).clone().as_strided(x.shape, strides, 0)
    return (x if like is None else like).new_empty_strided(x.shape, strides).copy_(x)


class Clone(Affine):
    """A copy in fresh memory with the given strides."""

    strides: Strides

    def places(self, *xs: TensorType) -> list[Place]:
        return [shifted(0, xs[0].rank, 0, 0)]

    def emit(self, s: Emitter, *found: tuple[Value, Value]) -> Value:
        return found[0][0]

    def infer(self, x: TensorType) -> TensorType:
        if len(self.strides) != x.rank:
            raise ShapeError(f"clone: {len(self.strides)} strides for {x.rank} dimensions")
        return x.with_strides(self.strides)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return relaid(x, self.strides)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (g,)


def rerooted(graph: Graph, new: dict[Node, Node]) -> Graph:
    """The graph whose roots are looked up in `new`; itself if they are all the same.

    Outputs that a rewrite laid out otherwise are brought back to the strides they had.
    """
    outputs: dict[Node, Node] = {}
    for x, alias in zip(graph.outputs, graph.aliases, strict=True):
        y = new[x]
        if alias is None and isinstance(x.type, TensorType) and y.type != x.type:
            y = Builder(y.where)(Clone(x.type.strides), y)
        outputs[x] = y
    return graph.replace({e: new[e] for e in graph.effects} | outputs)


class ToDevice(Op):
    """A copy on another device, in the same memory order."""

    device: torch.device

    def infer(self, x: TensorType) -> TensorType:
        x = x.dense()
        return TensorType(x.shape, x.dtype, self.device, x.strides)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.device, copy=True)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s(ToDevice(tensor(x).device), g),)


class Cat(Affine):
    """The operands one after another along `dim`; empty vectors among them are skipped."""

    dim: int

    def places(self, *xs: TensorType) -> list[Place]:
        end = 0
        found: list[Place] = []
        for i, x in enumerate(xs):
            if x.shape != (0,):
                found.append(shifted(i, x.rank, wrapped(self.dim, x.rank), -end))
                end += x.shape[self.dim]
        return found

    def readable(self, *xs: TensorType) -> bool:
        return all(x.numel for x in xs)

    def emit(self, s: Emitter, *found: tuple[Value, Value]) -> Value:
        result = found[0][0]
        for value, inside in found[1:]:
            result = s.where(inside, value, result)
        return result

    def infer(self, *xs: TensorType) -> TensorType:
        if not xs:
            raise ShapeError("torch.cat(): expected a non-empty list of Tensors")
        for i, x in enumerate(xs):
            if not x.rank:
                raise ShapeError(
                    f"zero-dimensional tensor (at position {i}) cannot be concatenated"
                )
            if x.device != xs[0].device:
                raise DeviceError(
                    f"cat: expected all tensors on one device, found {xs[0].device} and {x.device}"
                )
        dtype = xs[0].dtype if len({x.dtype for x in xs}) == 1 else promote(xs)
        counted = [x for x in xs if x.shape != (0,)]
        if not counted:
            return TensorType((0,), dtype, xs[0].device, (1,))
        first = counted[0]
        dim = wrapped(self.dim, first.rank)
        total = 0
        for i, x in enumerate(counted):
            if x.rank != first.rank:
                raise ShapeError(
                    f"Tensors must have same number of dimensions: got {first.rank} and {x.rank}"
                )
            for d, (a, b) in enumerate(zip(first.shape, x.shape, strict=True)):
                if d != dim and a != b:
                    raise ShapeError(
                        f"Sizes of tensors must match except in dimension {dim}. "
                        f"Expected size {a} but got size {b} for tensor number {i} in the list."
                    )
            total += x.shape[dim]
        shape = (*first.shape[:dim], total, *first.shape[dim + 1 :])
        formats = {suggested_format(x) for x in xs}
        chosen = formats.pop() if len(formats) == 1 else torch.contiguous_format
        return TensorType(shape, dtype, first.device, format_strides(shape, chosen))

    def run(self, *xs: torch.Tensor) -> torch.Tensor:
        return torch.cat(xs, self.dim)

    def vjp(self, s: Calculus, g: Node, out: Node, *xs: Node) -> Cotangents:
        dim, end = wrapped(self.dim, tensor(out).rank), 0
        found: list[Node] = []
        for x in xs:
            if tensor(x).shape == (0,):
                found.append(s.full(x, 0.0))
                continue
            end += tensor(x).shape[dim]
            found.append(s.slice(g, dim, end - tensor(x).shape[dim], end))
        return found


class Pad(Affine):
    """`value` around the operand: `pad` is (before, after) for each dimension, the last one first.

    Negative amounts cut away. Shape: size + before + after.
    """

    pad: tuple[int, ...]
    value: Number = 0

    @property
    def fill(self) -> Number:
        return self.value

    def places(self, *xs: TensorType) -> list[Place]:
        before = [0] * xs[0].rank
        for i in range(0, len(self.pad), 2):
            before[xs[0].rank - 1 - i // 2] = -self.pad[i]
        return [Place(0, (1,) * xs[0].rank, tuple(before))]

    def emit(self, s: Emitter, *found: tuple[Value, Value]) -> Value:
        return found[0][0]

    def infer(self, x: TensorType) -> TensorType:
        if len(self.pad) % 2 or len(self.pad) > 2 * x.rank:
            raise ShapeError(
                "Length of pad must be even and no more than twice the number of dimensions of "
                f"the input, but it is {len(self.pad)} for {x.rank} dimensions"
            )
        shape = list(x.shape)
        for i in range(0, len(self.pad), 2):
            dim = x.rank - 1 - i // 2
            shape[dim] += self.pad[i] + self.pad[i + 1]
            if shape[dim] < 0:
                raise ShapeError(
                    f"The input size {x.shape[dim]}, plus negative padding {self.pad[i]} and "
                    f"{self.pad[i + 1]}, resulted in a negative output size at dimension {dim}."
                )
        sizes = tuple(shape)
        if all(amount <= 0 for amount in self.pad):
            return TensorType(sizes, x.dtype, x.device, x.strides).dense()
        return TensorType(sizes, x.dtype, x.device, format_strides(sizes, suggested_format(x)))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.constant_pad_nd(x, self.pad, self.value)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        t = tensor(x)
        for i in range(0, len(self.pad), 2):
            dim = t.rank - 1 - i // 2
            before, after = self.pad[i : i + 2]
            g = s.slice(g, dim, max(before, 0), tensor(g).shape[dim] - max(after, 0))
            g = s.pad(g, dim, max(-before, 0), max(-after, 0))
        return (g,)


class Repeat(Op):
    """The operand repeated `repeats[i]` times along dimension i (missing dimensions lead)."""

    repeats: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        if len(self.repeats) < x.rank:
            raise ShapeError(
                "Number of dimensions of repeat dims can not be smaller than number of dimensions "
                "of tensor"
            )
        sizes = (1,) * (len(self.repeats) - x.rank) + x.shape
        if any(times < 0 for times in self.repeats):
            raise ShapeError(f"Repeat counts must not be negative: {self.repeats}")
        return x.with_shape(a * b for a, b in zip(sizes, self.repeats, strict=True))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat(self.repeats)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        shape = (1,) * (len(self.repeats) - tensor(x).rank) + tensor(x).shape
        split = [n for pair in zip(self.repeats, shape, strict=True) for n in pair]
        return (s.sum(s.reshape(g, tuple(split)), tuple(range(0, len(split), 2))),)


class Flip(Affine):
    """The operand read backwards along `dims`."""

    dims: tuple[int, ...]

    def places(self, *xs: TensorType) -> list[Place]:
        turned = [wrapped(dim, xs[0].rank) for dim in self.dims]
        scales = tuple([-1 if d in turned else 1 for d in range(xs[0].rank)])
        last = tuple([size - 1 if d in turned else 0 for d, size in enumerate(xs[0].shape)])
        return [Place(0, scales, last)]

    def emit(self, s: Emitter, *found: tuple[Value, Value]) -> Value:
        return found[0][0]

    def infer(self, x: TensorType) -> TensorType:
        if len({wrapped(dim, x.rank) for dim in self.dims}) != len(self.dims):
            raise ShapeError(f"flip: {self.dims} names a dimension twice")
        return x.dense()

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flip(x, self.dims)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s(self, g),)


class Roll(Op):
    """Element i moves to i + shift, modulo the size; without `dims`, over the flattened operand."""

    shifts: tuple[int, ...]
    dims: tuple[int, ...] = ()

    def infer(self, x: TensorType) -> TensorType:
        if len(self.shifts) != len(self.dims) and (self.dims or len(self.shifts) != 1):
            raise ShapeError(
                "shifts and dimensions must align. "
                f"shifts: {len(self.shifts)}, dims:{len(self.dims)}"
            )
        if not self.dims or x.device.type != "cpu":
            return x.with_shape(x.shape)
        for shift, dim in zip(self.shifts, self.dims, strict=True):
            x = rolled(x, shift, wrapped(dim, x.rank))
        return x

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.roll(x, self.shifts, self.dims)

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node) -> Cotangents:
        return (s(Roll(tuple([-shift for shift in self.shifts]), self.dims), g),)


def rolled(x: TensorType, shift: int, dim: int) -> TensorType:
    """Type of one roll on the CPU, where torch joins the two parts with `cat`."""
    if not x.numel:
        return x.dense()
    after = -shift % x.shape[dim]
    parts = [
        TensorType((*x.shape[:dim], size, *x.shape[dim + 1 :]), x.dtype, x.device, x.strides)
        for size in (x.shape[dim] - after, after)
    ]
    return Cat(dim).infer(*parts)


__all__ = [
    "Cat",
    "Clone",
    "Flip",
    "Pad",
    "Repeat",
    "Roll",
    "ToDevice",
    "format_strides",
    "overlaps",
    "suggested_format",
    "wrapped",
]
