"""One computation for each of several members: many small updates as one launch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

from lazytorch.errors import DTypeError, ShapeError
from lazytorch.interpret import evaluate
from lazytorch.ir import Graph, Op
from lazytorch.types import TensorType, TupleType, Type

FLAT = (2,)
"""The shape that stands in a body for a member's own: its elements, however many, in a row."""

T = TypeVar("T")


class Foreach(Op):
    """What `body` computes, for each of `count` members; a tuple of results, member after member.

    The body's inputs numbered `common` are given once, then each member's others, member after
    member. What has the shape `FLAT` in the body is a member's own tensor: all of one member have
    one shape and fill memory alike. The rest are numbers and 0-d tensors.
    """

    body: Graph
    count: int
    common: tuple[int, ...] = ()

    @cached_property
    def own(self) -> tuple[int, ...]:
        """The body's inputs that every member gives itself."""
        return tuple(i for i in range(len(self.body.inputs)) if i not in self.common)

    @cached_property
    def flat(self) -> tuple[int, ...]:
        """The body's inputs that are tensors of a member's shape."""
        types = [x.type for x in self.body.inputs]
        return tuple(
            i for i, x in enumerate(types) if isinstance(x, TensorType) and x.shape == FLAT
        )

    def place(self, member: int, i: int) -> int:
        """Which of all operands a member gives for the body's input number i."""
        if i in self.common:
            return self.common.index(i)
        return len(self.common) + member * len(self.own) + self.own.index(i)

    def members(self, xs: Sequence[T]) -> list[tuple[T, ...]]:
        """Each member's operands, as the body takes them."""
        order = range(len(self.body.inputs))
        return [tuple([xs[self.place(m, i)] for i in order]) for m in range(self.count)]

    def infer(self, *xs: Type) -> TupleType:
        if len(xs) != len(self.common) + self.count * len(self.own):
            raise ShapeError(f"foreach: {len(xs)} operands do not fit {self.count} members")
        found: list[Type] = []
        for operands in self.members(xs):
            like = operands[self.flat[0]]
            assert isinstance(like, TensorType)
            for i, (x, y) in enumerate(zip(operands, self.body.inputs, strict=True)):
                if i in self.flat:
                    check(x, y.type, like)
                elif x != y.type:
                    raise DTypeError(f"foreach: {x} is given where {y.type} is expected")
            for y in self.body.outputs:
                assert isinstance(y.type, TensorType)
                found.append(like.with_dtype(y.type.dtype))
        return TupleType(tuple(found))

    def run(self, *xs: object) -> tuple[object, ...]:
        """By torch's kernels, member by member: the meaning of the kernel, and its stand-in."""
        found: list[object] = []
        for operands in self.members(xs):
            known = evaluate(self.body, operands)
            found += [known[y] for y in self.body.outputs]
        return tuple(found)


def check(x: Type, expected: Type, like: TensorType) -> None:
    """Raise unless `x` can be read flat beside a member's first tensor."""
    assert isinstance(expected, TensorType)
    if not isinstance(x, TensorType) or x.dtype is not expected.dtype:
        raise DTypeError(f"foreach: {x} is given where {expected} is expected")
    if not alike(x, like):
        raise ShapeError(f"foreach: {x} does not lie in memory as {like} does")


def alike(x: TensorType, y: TensorType) -> bool:
    """Whether two tensors of one shape fill memory in the same order (sizes of 1 have free
    strides)."""
    return (
        x.shape == y.shape
        and x.is_dense
        and all(n == 1 or a == b for n, a, b in zip(x.shape, x.strides, y.strides, strict=True))
    )
