"""The builder in which derivative rules are written: operations by name, sums undone, zeros."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from lazytorch.ir import Builder, Node, Op
from lazytorch.ops.copies import Clone
from lazytorch.ops.create import Full
from lazytorch.ops.layout import Expand, Permute, Reshape
from lazytorch.ops.pointwise import Cast
from lazytorch.ops.reduce import Sum
from lazytorch.types import Number, Shape, TensorType


class Calculus(Builder):
    """Builds nodes: `s.mul(g, s.cos(x))`. Every operation without attributes is a method by its
    name, and those below are what rules need besides."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Callable[..., Node]:
        if name not in Op.registry:
            raise AttributeError(name)
        return partial(self, plain(name))

    def full(self, like: Node, value: Number) -> Node:
        """A tensor of the type of `like` filled with one number."""
        t = tensor(like)
        return self(Full(t.shape, value, t.dtype, t.device))

    def cast(self, x: Node, dtype: torch.dtype) -> Node:
        """`x` in another dtype; complex numbers lose their imaginary part."""
        return x if tensor(x).dtype is dtype else self(Cast(dtype), x)

    def reshape(self, x: Node, shape: Shape) -> Node:
        """The same elements under another shape."""
        return x if tensor(x).shape == shape else self(Reshape(shape), x)

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


@cache
def plain(name: str) -> Op:
    """The operation of that name, which has no attributes."""
    return Op.registry[name]()


def tensor(x: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(x.type, TensorType)
    return x.type


def is_tensor(x: Any) -> bool:
    """Whether a node is a tensor, not a number."""
    return isinstance(x.type, TensorType)
