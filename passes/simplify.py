"""Exact local rewrites: operations that change nothing go, pairs that undo each other go.

Every rule keeps the bits, NaN and the sign of zero included: x + 0.0 stays (it turns -0.0 into
0.0), x * 0 stays (it keeps NaN). What only nearly holds has no place here. A rule proposes; the
result stands only if its type, strides included, is the node's own type. Declines where the
result would be the memory of an input that the graph writes: its value must be read before.

Runs after automatic differentiation, so that `detach` has no meaning left.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lazytorch.ir import Builder, Const, Graph, Item, Node, Op, Write
from lazytorch.ops.base import Pointwise
from lazytorch.ops.chains import memory
from lazytorch.ops.compare import Eq, Ge, Gt, Le, Lt, MaskedFill, Ne, Where
from lazytorch.ops.copies import Cat, Clone
from lazytorch.ops.create import Full
from lazytorch.ops.custom import Custom
from lazytorch.ops.elementary import Reciprocal, Rsqrt, Sqrt
from lazytorch.ops.layout import (
    Detach,
    Expand,
    Kept,
    Permute,
    Reshape,
    Slice,
    Variable,
    view_strides,
)
from lazytorch.ops.linalg import Addmm, Linear
from lazytorch.ops.pointwise import Add, Cast, Div, Maximum, Minimum, Mul, Neg, Pow, Square, Sub
from lazytorch.types import Number, TensorType, contiguous_strides

ABSORBING = (Add, Sub, Mul, Maximum, Minimum, Eq, Ne, Lt, Le, Gt, Ge, Where, MaskedFill)
"""Elementwise operations to which a number and a tensor of that number are the same; to `div` and
`pow` they are not: their kernels treat a number in a special way."""

Rule = Callable[[Builder, Node], Node]
"""A node that means the same, or the node itself; operands are simplified already."""


def simplify(graph: Graph) -> Graph:
    """Apply the rules, operands first, until none applies."""
    written = {e.inputs[0] for e in graph.effects if isinstance(e.op, Write)}

    def simplified(node: Node) -> Node:
        while (found := step(node)) is not node:
            if found.type != node.type or memory(found) in written:
                break
            node = found
        return node

    return graph.map(simplified)


def step(node: Node) -> Node:
    """What the first rule that has something to say makes of the node."""
    if isinstance(node.op, ABSORBING) and (found := absorb(Builder(node.where), node)) is not node:
        return found
    rule = RULES.get(type(node.op))
    return node if rule is None else rule(Builder(node.where), node)


def number(node: Node) -> float | None:
    """The value of a real constant that a float holds exactly; None for everything else."""
    value = node.op.value if isinstance(node.op, Const) else None
    if value is None or isinstance(value, complex) or abs(value) > 2**53:
        return None
    return float(value)


def is_real(node: Node) -> bool:
    """Whether it is a tensor of real numbers; products of complex infinities are NaN."""
    return isinstance(node.type, TensorType) and not node.type.dtype.is_complex


def is_floating(node: Node) -> bool:
    """Whether it is a tensor of floating numbers."""
    return isinstance(node.type, TensorType) and node.type.dtype.is_floating_point


def is_negative(zero: float) -> bool:
    """Whether it is -0.0, which compares equal to 0.0."""
    return math.copysign(1.0, zero) < 0


def absorb(b: Builder, node: Node) -> Node:
    """A `full` operand as a number, where the others alone make the same shape and dtype."""
    assert isinstance(node.op, Pointwise)
    # Conditions, and what is filled, must be tensors.
    first = 1 if isinstance(node.op, Where) else 2 if isinstance(node.op, MaskedFill) else 0
    for i, x in enumerate(node.inputs[first:], first):
        if isinstance(x.op, Full) and (value := filling(x.op)) is not None:
            found = b(node.op, *node.inputs[:i], value, *node.inputs[i + 1 :])
            before, after = (
                node.op.operand_dtypes(*[y.type for y in n.inputs]) for n in (node, found)
            )
            if found.type == node.type and before == after:
                return found
    return node


def filling(op: Full) -> Number | None:
    """The number that fills a tensor, rounded to its dtype; None if its dtype cannot hold it."""
    if op.value is None:
        return None
    try:
        return torch.scalar_tensor(op.value, dtype=op.dtype).item()
    except RuntimeError:  # so the call will say as well
        return None


def add(b: Builder, node: Node) -> Node:
    """x + -0.0 of floating numbers, x + 0 of integers."""
    for x, y in (node.inputs, node.inputs[::-1]):
        if (value := number(y)) is None or value != 0.0 or not is_real(node):
            continue
        if is_negative(value) or not is_floating(node):
            return x
    return node


def sub(b: Builder, node: Node) -> Node:
    """x - 0.0; not x - -0.0, which turns -0.0 into 0.0."""
    x, y = node.inputs
    value = number(y)
    if value is None or value != 0.0 or not is_real(node):
        return node
    return node if is_floating(node) and is_negative(value) else x


def mul(b: Builder, node: Node) -> Node:
    """x * 1."""
    for x, y in (node.inputs, node.inputs[::-1]):
        if number(y) == 1.0 and is_real(node):
            return x
    return node


def div(b: Builder, node: Node) -> Node:
    """x / 1, and x / 2**k = x * 2**-k: the reciprocal is exact, so both round the same number."""
    x, y = node.inputs
    value = number(y)
    if value is None or not is_floating(node):
        return node
    if value == 1.0:
        return x
    mantissa, exponent = math.frexp(abs(value))
    # Up to 2**14 the reciprocal is a normal number in every floating dtype.
    if mantissa == 0.5 and abs(exponent - 1) <= 14:
        return b(Mul(), x, 1.0 / value)
    return node


def power(b: Builder, node: Node) -> Node:
    """The exponents for which torch's own kernel does something simpler."""
    x, y = node.inputs
    value = number(y)
    if not isinstance(x.type, TensorType) or not is_real(node):
        return node
    if value == 1.0:
        return x
    if value == 2.0:
        return b(Mul(), x, x)
    if not is_floating(node) or x.type.dtype is torch.float16:
        return node  # in float16 torch computes the power, and (-inf) ** 0.5 is inf
    roots: dict[float | None, Op] = {0.5: Sqrt(), -0.5: Rsqrt(), -1.0: Reciprocal()}
    return b(roots[value], x) if value in roots else node


def square(b: Builder, node: Node) -> Node:
    """As the product that a power of 2 becomes too, so that cse sees they are equal."""
    return b(Mul(), node.inputs[0], node.inputs[0])


def neg(b: Builder, node: Node) -> Node:
    """-(-x)."""
    match node:
        case Node(_, (Node(Neg(), (x,)),)):
            return x
        case _:
            return node


def convert(b: Builder, node: Node) -> Node:
    """A conversion to the dtype it has, and one through a dtype that holds every value.

    A copy in between is made of what is left.
    """
    (through,) = node.inputs
    if through.type == node.type:
        return through
    if isinstance(through.op, Clone) and isinstance(through.inputs[0].op, Cast):
        direct = b(node.op, through.inputs[0])
        shorter = convert(b, direct)
        found = b(through.op, shorter)
        return found if shorter is not direct and found.type == node.type else node
    if not isinstance(through.op, Cast):
        return node
    (x,) = through.inputs
    if not lossless(dtype_of(x), dtype_of(through)):
        return node
    if x.type == node.type:
        return x
    return b(node.op, x) if is_floating(x) and is_floating(node) else node


def dtype_of(node: Node) -> torch.dtype | None:
    """A tensor's dtype; None for a number."""
    return node.type.dtype if isinstance(node.type, TensorType) else None


def lossless(narrow: torch.dtype | None, wide: torch.dtype | None) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    if narrow is None or wide is None:
        return False
    if narrow is wide or narrow is torch.bool:
        return True
    if narrow.is_complex or wide.is_complex or wide is torch.bool:
        return False
    if narrow.is_floating_point:
        a, b = torch.finfo(narrow), (torch.finfo(wide) if wide.is_floating_point else None)
        return (
            b is not None
            and a.eps >= b.eps
            and a.max <= b.max
            and a.smallest_normal >= b.smallest_normal
        )
    inside = torch.iinfo(narrow)
    if wide.is_floating_point:
        return max(inside.max, -inside.min) <= 2 / torch.finfo(wide).eps
    outside = torch.iinfo(wide)
    return outside.min <= inside.min and inside.max <= outside.max


def same(b: Builder, node: Node) -> Node:
    """The operand itself, where the operation does nothing but what the type tells."""
    return node.inputs[0] if len(node.inputs) == 1 else node


def filled(b: Builder, node: Node, value: Number, dtype: torch.dtype, device: torch.device) -> Node:
    """A view of a filled tensor as one that is filled in that shape."""
    assert isinstance(node.type, TensorType)
    strides = node.type.strides
    row_major = strides == contiguous_strides(node.type.shape)
    return b(Full(node.type.shape, value, dtype, device, None if row_major else strides))


def value(b: Builder, node: Node) -> Node:
    """What was written; whose history it has matters to derivatives alone."""
    return node.inputs[1]


def permute(b: Builder, node: Node) -> Node:
    """A permutation of a permutation, and one that leaves all in place."""
    match node:
        case Node(Permute(outer), (Node(Permute(inner), (x,)),)):
            return b(Permute(tuple([inner[p] for p in outer])), x)
        case Node(Permute(perm), (x,)) if perm == tuple(range(len(perm))):
            return x
        case _:
            return node


def reshape(b: Builder, node: Node) -> Node:
    """A reshape to the same type, and one of a reshape that is a view of what that one reads."""
    (inner,) = node.inputs
    if inner.type == node.type:
        return inner
    if isinstance(inner.op, Full) and inner.op.value is not None:
        return filled(b, node, inner.op.value, inner.op.dtype, inner.op.device)
    if not isinstance(inner.op, Reshape):
        return node
    (x,) = inner.inputs
    given, wanted = x.type, node.type
    assert isinstance(given, TensorType) and isinstance(wanted, TensorType)
    strides = view_strides(given.shape, given.strides, wanted.shape)
    if strides is None:
        return node
    if strides == wanted.strides:
        return b(Reshape(wanted.shape), x)
    free = [n == 1 or a == b for n, a, b in zip(wanted.shape, strides, wanted.strides, strict=True)]
    return b(Reshape(wanted.shape, wanted.strides), x) if all(free) else node


def expand(b: Builder, node: Node) -> Node:
    """An expansion to the shape that is there, one of an expansion, and one of a filled tensor."""
    match node:
        case Node(_, (Node(Full(_, value, dtype, device)),)) if value is not None:
            return filled(b, node, value, dtype, device)
        case Node(Expand(shape), (Node(Expand(), (x,)),)):
            return b(Expand(shape), x)
        case _:
            return same(b, node)


def cut(b: Builder, node: Node) -> Node:
    """A slice that takes everything."""
    match node:
        case Node(Slice(_, 0), (x,)):
            return x
        case _:
            return node


def cat(b: Builder, node: Node) -> Node:
    """The operands that have elements; one alone is itself, or a copy of it in cat's layout and
    dtype.

    transformers' caches append to an empty tensor.
    """
    assert isinstance(node.op, Cat) and isinstance(node.type, TensorType)
    filled = [x for x in node.inputs if isinstance(x.type, TensorType) and x.type.numel]
    if len(filled) == 1:
        (x,) = filled
        x = x if dtype_of(x) is node.type.dtype else b(Cast(node.type.dtype), x)
        return x if x.type == node.type else b(Clone(node.type.strides), x)
    if filled and len(filled) < len(node.inputs):
        fewer = b(node.op, *filled)
        return fewer if fewer.type == node.type else node
    return node


def clone(b: Builder, node: Node) -> Node:
    """A copy in the layout that is there, and a copy of a copy.

    Values are never written, and a plan gives results fresh memory anyway.
    """
    match node:
        case Node(Clone(strides), (Node(Clone(), (x,)),)):
            return b(Clone(strides), x)
        case _:
            return same(b, node)


def addmm(b: Builder, node: Node) -> Node:
    """A product to whose rows one bias is added, as the linear layer that torch makes of it."""
    base, x, weight = node.inputs
    assert isinstance(node.op, Addmm) and isinstance(node.type, TensorType)
    assert isinstance(base.type, TensorType)
    if node.op.beta != 1 or node.op.alpha != 1 or base.type.shape != node.type.shape[1:]:
        return node
    return b(Linear(), x, b(Permute((1, 0)), weight), base)


def item(b: Builder, node: Node) -> Node:
    """What a user's function computed, once nothing is differentiated any more."""
    (source,) = node.inputs
    if isinstance(node.op, Item) and isinstance(source.op, Custom):
        return source.inputs[node.op.index]
    return node


RULES: dict[type[Op], Rule] = {
    Add: add,
    Sub: sub,
    Mul: mul,
    Div: div,
    Pow: power,
    Square: square,
    Neg: neg,
    Cast: convert,
    Permute: permute,
    Reshape: reshape,
    Expand: expand,
    Slice: cut,
    Clone: clone,
    Cat: cat,
    Addmm: addmm,
    Detach: same,
    Kept: value,
    Variable: same,
    Item: item,
}
