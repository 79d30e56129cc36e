"""The builder in which derivative rules are written: operations by name, sums undone, zeros."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial, reduce
from math import prod
from typing import Any

import torch

from lazytorch.ir import Builder, Node, Op
from lazytorch.ops.compare import Where
from lazytorch.ops.copies import Cat, Clone, Pad
from lazytorch.ops.create import Arange, Full
from lazytorch.ops.index import ScatterAdd
from lazytorch.ops.layout import Expand, Permute, Reshape, Slice
from lazytorch.ops.pointwise import Cast, Mul
from lazytorch.ops.reduce import Sum
from lazytorch.ops.reduction import tensor as tensor
from lazytorch.types import Number, Shape, TensorType

Cotangents = Sequence[Node | None]
"""One for each operand: a node, or None where nothing flows."""


class Calculus(Builder):
    """Builds nodes: `s.mul(g, s.cos(x))`. Every operation without attributes is a method by its
    name, and those below are what rules need besides."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Callable[..., Node]:
        if name not in Op.registry:
            raise AttributeError(name)
        return partial(self, plain(name))

    def choose(self, condition: Node, x: Node | Number, y: Node | Number) -> Node:
        """`where` under a name of its own, since a builder's `where` is the user's line."""
        return self(Where(), condition, x, y)

    def full(self, like: Node, value: Number) -> Node:
        """A tensor of the type of `like` filled with one number."""
        t = tensor(like)
        return self(Full(t.shape, value, t.dtype, t.device))

    def as_tensor(self, x: Node, like: Node) -> Node:
        """A number as a 0-d tensor on the device of `like`."""
        if is_tensor(x):
            return x
        return self(Full((), None, torch.float64, tensor(like).device), x)

    def zeros(self, *like: Node) -> list[Node | None]:
        """Zeros of the type of each tensor, None for a number: cotangents of a step function."""
        return [self.full(x, 0.0) if is_tensor(x) else None for x in like]

    def wide(self, *xs: Node) -> list[Node]:
        """The operands in the dtype that torch's kernels compute in: 16-bit floats in float32."""
        narrow = (torch.float16, torch.bfloat16)
        return [self.cast(x, torch.float32) if tensor(x).dtype in narrow else x for x in xs]

    def total(self, parts: Sequence[Node]) -> Node | None:
        """The sum of what flows along several ways; None where nothing does."""
        return reduce(self.add, parts) if parts else None

    def arange(self, size: int, device: torch.device, shape: Shape) -> Node:
        """0, 1 and so on below `size`, reshaped; -1 in the shape stands for the size."""
        shape = tuple([size if n == -1 else n for n in shape])
        return self.reshape(self(Arange(0, size, 1, torch.int64, device)), shape)

    def cast(self, x: Node, dtype: torch.dtype) -> Node:
        """`x` in another dtype; complex numbers lose their imaginary part."""
        return x if tensor(x).dtype is dtype else self(Cast(dtype), x)

    def match(self, x: Node, like: Node) -> Node:
        """`x` in the dtype of `like`."""
        return self.cast(x, tensor(like).dtype)

    def reshape(self, x: Node, shape: Shape) -> Node:
        """The same elements under another shape."""
        return x if tensor(x).shape == shape else self(Reshape(shape), x)

    def unsqueeze(self, x: Node, dim: int) -> Node:
        """`x` with a dimension of size 1 put in."""
        shape = tensor(x).shape
        return self.reshape(x, (*shape[:dim], 1, *shape[dim:]))

    def expand(self, x: Node, shape: Shape) -> Node:
        """`x` repeated along its dimensions of size 1 and new leading ones."""
        return x if tensor(x).shape == shape else self(Expand(shape), x)

    def permute(self, x: Node, dims: tuple[int, ...]) -> Node:
        """Result dimension i is dimension `dims[i]` of `x`."""
        return x if dims == tuple(range(len(dims))) else self(Permute(dims), x)

    def transpose(self, x: Node) -> Node:
        """The last two dimensions exchanged."""
        rank = tensor(x).rank
        return self.permute(x, (*range(rank - 2), rank - 1, rank - 2))

    def as_matrices(self, x: Node, dim: int) -> Node:
        """A vector as a matrix of one row (`dim` 0) or one column (1); matrices as they are."""
        t = tensor(x)
        if t.rank > 1:
            return x
        return self.reshape(x, (1, t.numel) if dim == 0 else (t.numel, 1))

    def rows(self, x: Node) -> Node:
        """All dimensions but the last put together."""
        t = tensor(x)
        return x if t.rank == 2 else self.reshape(x, (prod(t.shape[:-1]), t.shape[-1]))

    def scaled(self, x: Node, by: Number) -> Node:
        """`x` times a number, itself where that is 1."""
        return x if by == 1 else self(Mul(), x, by)

    def slice(self, x: Node, dim: int, start: int, stop: int) -> Node:
        """`x[start:stop]` along `dim`."""
        whole = (start, stop) == (0, tensor(x).shape[dim])
        return x if whole else self(Slice(dim, start, stop), x)

    def pad(self, x: Node, dim: int, before: int, after: int) -> Node:
        """Zeros before and after `x` along `dim`."""
        if not before and not after:
            return x
        behind = (0, 0) * (tensor(x).rank - 1 - dim)
        return self(Pad((*behind, before, after), 0.0), x)

    def joined(self, x: Node, y: Node) -> Node:
        """The sum of two cotangents: of neighbouring parts of one value, one after the other."""
        for first, second in ((x, y), (y, x)):
            a, b = around(first), around(second)
            if a is None or b is None or a[0] != b[0] or tensor(x).dtype is not tensor(y).dtype:
                continue
            dim, before, after = a[0], a[1], b[2]
            parts = (first.inputs[0], second.inputs[0])
            size = tensor(parts[0]).shape[dim]
            if before + size == b[1] and after + tensor(parts[1]).shape[dim] == a[2]:
                flat = [z for part in parts for z in pieces(part, dim)]
                return self.pad(self(Cat(dim), *flat), dim, before, after)
        return self.add(x, y)

    def shown(self, view: Op, x: Node, g: Node) -> Node:
        """What flows to `x` where a view of it may show an element more than once."""
        t = tensor(x)
        places = self(view, self.arange(t.numel, t.device, t.shape))
        count = (tensor(g).numel,)
        zeros = self(Full((t.numel,), 0.0, t.dtype, t.device))
        flat = self(ScatterAdd(0), zeros, self.reshape(places, count), self.reshape(g, count))
        return self.reshape(flat, t.shape)

    def dense(self, x: Node) -> Node:
        """`x` row-major in memory of its own."""
        t = tensor(x)
        return x if t.is_contiguous else self(Clone(t.with_shape(t.shape).strides), x)

    def sum(self, x: Node, dims: tuple[int, ...], keepdim: bool = False) -> Node:
        """The sum along `dims`."""
        return self(Sum(dims, keepdim), x) if dims else x

    def sum_to(self, x: Node, shape: Shape) -> Node:
        """`x` summed over what broadcasting `shape` to it repeated."""
        have = tensor(x).shape
        if have == shape:
            return x
        missing = len(have) - len(shape)
        repeated = [i for i in range(missing, len(have)) if shape[i - missing] == 1 != have[i]]
        return self.reshape(self.sum(x, (*range(missing), *repeated)), shape)

    def unreduced(self, x: Node, dims: tuple[int, ...], keepdim: bool, shape: Shape) -> Node:
        """What a reduction of `shape` along `dims` gave, repeated to that shape."""
        kept = tuple([1 if d in dims else size for d, size in enumerate(shape)])
        return self.expand(x if keepdim else self.reshape(x, kept), shape)


def around(x: Node) -> tuple[int, int, int] | None:
    """Dimension, zeros before and zeros after, where a node pads one dimension with zeros."""
    if not isinstance(x.op, Pad) or x.op.value != 0 or min(x.op.pad) < 0:
        return None
    named = [i for i in range(0, len(x.op.pad), 2) if any(x.op.pad[i : i + 2])]
    if len(named) != 1:
        return None
    (i,) = named
    return tensor(x).rank - 1 - i // 2, x.op.pad[i], x.op.pad[i + 1]


def pieces(x: Node, dim: int) -> tuple[Node, ...]:
    """What a node joins along a dimension; itself if it joins nothing there."""
    return x.inputs if isinstance(x.op, Cat) and x.op.dim == dim else (x,)


@cache
def plain(name: str) -> Op:
    """The operation of that name, which has no attributes."""
    return Op.registry[name]()


def is_tensor(x: Any) -> bool:
    """Whether a node is a tensor, not a number."""
    return isinstance(x.type, TensorType)
