"""Attention: softmax(query @ key.T * scale + mask) @ value, written out, becomes one operation.

torch's kernels for it never write the scores to memory. What is read: products of any rank, scales
by numbers (of query, key or scores), masks (added, or where scores are replaced), a softmax in
float32, and on the way views and copies that keep the order of elements.

Declines where anything else reads the scores or the weights; where a step is none of those (such
as dropout), or scales what is masked already; on numbers that vary; where query, key, value and
product differ in dtype; on sizes and dtypes that the kernels do not take; where a mask would have
to be repeated, would lose digits, or replaces scores by a number that does not hide them (a second
mask counts from that number, so that must be -inf); where a constant mask hides all keys from a
query; and on what the prologue computes. Safe within the accuracy rule: the same function, rounded
less often. Rows that are masked with -inf everywhere stay NaN (`ops.masks`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from lazytorch.ir import Builder, Graph, Node, Op, Write, with_inputs
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.chains import IndexMap, applied, follow, identity, is_link, memory, shown
from lazytorch.ops.compare import MaskedFill, Where
from lazytorch.ops.layout import Clone, Expand, Permute, Reshape
from lazytorch.ops.linalg import Baddbmm, Bmm, Matmul, Mm
from lazytorch.ops.masks import HIDES, Mask, constant_value, is_causal, number, regrouped, safe
from lazytorch.ops.pointwise import Add, Cast, Div, Mul
from lazytorch.ops.reduce import Softmax
from lazytorch.types import Shape, TensorType, contiguous_strides

DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "cuda": (torch.float32, torch.bfloat16, torch.float16),
}
"""What the kernels compute in."""

WIDEST = 256
"""The size of a head from which on the kernels are slower than products, or are none."""

LONGEST = 24
"""Steps between the two products, at most."""

Alone = Callable[[Node], bool]


@dataclass
class Scores:
    """What is found on the way from the weights back to the first product."""

    scale: float = 1.0
    masks: list[Mask] = field(default_factory=list[Mask])
    shapes: list[Shape] = field(default_factory=list[Shape])
    softmax: bool = False

    def step(self, node: Node) -> Node | None:
        """Take in one operation on the scores; its operand that the scores are."""
        shape = typed(node).shape
        match node.op:
            case Softmax() as op if not self.softmax and op.along_rows(typed(node)):
                self.softmax = True
                return node.inputs[0]
            case Cast():
                return node.inputs[0]
            case Mul() | Div() if self.softmax:
                x, factor = scaled(node)
                self.scale *= factor
                return x
            case Add() if self.softmax and self.scale == 1.0:
                x, mask = largest_first(node)
                self.masks.append(Mask(mask, shape))
                plain = isinstance(mask.type, TensorType) and mask.type.dtype.is_floating_point
                return x if plain else None
            case MaskedFill() if self.softmax and self.scale == 1.0:
                x, condition, below = node.inputs
                return self.replaced(x, condition, below, shape, hides=True)
            case Where() if self.softmax and self.scale == 1.0:
                condition, x, y = node.inputs
                if number(x) is None:
                    return self.replaced(x, condition, y, shape, hides=False)
                return self.replaced(y, condition, x, shape, hides=True)
            case _:
                return None

    def replaced(
        self, x: Node, condition: Node, below: Node, shape: Shape, hides: bool
    ) -> Node | None:
        """A step that replaces scores where a condition holds, or where it does not."""
        value = number(below)
        least = torch.finfo(typed(x).dtype).min if isinstance(x.type, TensorType) else 0.0
        if value is None or not value <= max(HIDES, least):
            return None
        self.masks.append(Mask(condition, shape, value, hides))
        return x


@dataclass(frozen=True, eq=False)
class Operand:
    """A query, key or value as a view of what it was made from; `copied` if no view will do."""

    source: Node
    shown: IndexMap
    copied: bool = False

    def build(self, b: Builder, done: dict[Node, Node]) -> Node | None:
        """The operand as the kernels read it."""
        x = shown(b, done.get(self.source, self.source), self.shown, copy=self.copied)
        if x is None or not self.copied or typed(x).strides[-1] == 1:
            return x
        return b(Clone(contiguous_strides(typed(x).shape)), x)


@dataclass(frozen=True, eq=False)
class Found:
    """A written-out attention."""

    operands: tuple[Operand, Operand, Operand]
    masks: tuple[tuple[Mask, Shape], ...]
    scale: float

    def build(self, end: Node, done: dict[Node, Node]) -> Node | None:
        """The attention, shown as `end` was; None where the kernels do not take it."""
        b = Builder(end.where)
        parts = [operand.build(b, done) for operand in self.operands]
        xs = [x for x in parts if x is not None]
        if len(xs) < 3:
            return None
        if typed(xs[0]).dense().strides[-1] != 1:  # the kernel writes as if its result's were
            xs[0] = b(Clone(contiguous_strides(typed(xs[0]).shape)), xs[0])
        dtype = typed(xs[0]).dtype
        mask: Node | None = None
        for one, shape in self.masks:
            mask = one.numbers(b, done.get(one.node, one.node), shape, mask)
        op = ScaledDotProductAttention(scale=self.scale)
        if mask is not None:
            value = constant_value(mask)
            if value is not None and is_causal(value):
                op = ScaledDotProductAttention(scale=self.scale, is_causal=True)
            else:
                mask = safe(b, mask, dtype)
                if mask is None:
                    return None
                xs.append(mask)
        types = [typed(x) for x in xs]
        if not op.fused(types[0], types[1], types[2], types[3] if len(xs) > 3 else None):
            return None
        y = applied(b, Reshape(typed(end).shape), b(op, *xs))
        return y if y.type == end.type else b(Clone(typed(end).strides), y)


def attention(graph: Graph) -> Graph:
    """The graph with attention as one operation."""
    roots = {*graph.outputs, *graph.effects}
    written = {e.inputs[0] for e in graph.effects if isinstance(e.op, Write)}

    def alone(node: Node) -> bool:
        return len(graph.users[node]) == 1 and node not in roots

    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        found = None
        if isinstance(node.op, Matmul | Bmm | Mm) and node not in graph.steady:
            found = written_out(graph, node, alone, written)
        made = found.build(node, done) if found is not None else None
        done[node] = made or with_inputs(node, [done[x] for x in node.inputs])
    return graph.replace(done)


def written_out(graph: Graph, end: Node, alone: Alone, written: set[Node]) -> Found | None:
    """The attention whose last product `end` is."""
    weights, value = end.inputs
    if not takes(end) or typed(value).rank < 2 or typed(weights).rank < 2:
        return None
    scores, node = Scores(), weights
    for _ in range(LONGEST):
        through = unordered(node, alone)
        if through is None:
            return None
        node = through
        scores.shapes.append(typed(node).shape)
        if isinstance(node.op, Matmul | Bmm | Mm | Baddbmm):
            break
        below = scores.step(node) if alone(node) else None
        if below is None or not isinstance(below.type, TensorType):
            return None
        if below.type.shape != typed(node).shape or not exact(below, node, end):
            return None
        node = below
    else:
        return None
    return taken(graph, end, value, node, scores, written) if scores.softmax else None


def taken(
    graph: Graph, end: Node, value: Node, product: Node, scores: Scores, written: set[Node]
) -> Found | None:
    """The attention between two products, if the kernels can do it."""
    *base, query, key = product.inputs
    if isinstance(product.op, Baddbmm):
        if product.op.beta == 1:
            scores.masks.append(Mask(base[0], typed(product).shape))
        elif product.op.beta != 0:
            return None
        alpha = product.op.alpha
        scores.scale *= alpha if isinstance(alpha, int | float) else math.nan
    operands = [query, key, value]
    if any(typed(x).rank < 2 or typed(x).dtype is not typed(end).dtype for x in operands):
        return None
    leading, (rows, columns) = typed(product).shape[:-2], typed(product).shape[-2:]
    size = typed(query).shape[-1]
    finite = any(mask.below is not None and mask.below != -math.inf for mask in scores.masks)
    unequal = math.prod(leading) != math.prod(typed(end).shape[:-2])
    if unequal or (finite and len(scores.masks) > 1) or not typed(end).numel or not columns:
        return None
    if not 0 < size <= WIDEST or typed(value).shape[-1] != size:
        return None
    batch = heads(graph, end, query, scores.shapes, leading)
    turned = (False, True, False)
    shapes = ((rows, size), (columns, size), (columns, size))
    found: list[Operand] = []
    for x, turn, last, apart in zip(
        operands, turned, shapes, (leading, leading, typed(end).shape[:-2]), strict=True
    ):
        operand, factor = shortest(x, turn, (*apart, *last), (*batch, *last), written)
        if operand is None:
            return None
        scores.scale *= factor if x is not value else 1.0
        found.append(operand)
    masks: list[tuple[Mask, Shape]] = []
    for mask in reversed(scores.masks):
        shape = regrouped(typed(mask.node).shape, mask.shape, batch)
        if shape is None:
            return None
        masks.append((mask, shape))
    if not 0 < scores.scale < math.inf:
        return None
    return Found((found[0], found[1], found[2]), tuple(masks), scores.scale)


def takes(end: Node) -> bool:
    """Whether the kernels compute in the dtype, on the device."""
    x = typed(end)
    return x.dtype in DTYPES.get(x.device.type, ())


def exact(below: Node, node: Node, end: Node) -> bool:
    """Whether a step loses no digits: it is in the product's dtype or a wider one."""
    least = torch.finfo(typed(end).dtype).eps
    return all(
        typed(x).dtype.is_floating_point and torch.finfo(typed(x).dtype).eps <= least
        for x in (below, node)
    )


def scaled(node: Node) -> tuple[Node | None, float]:
    """The tensor that a number scales, and the number; None where it is no such node."""
    x, y = node.inputs
    by, factor = (y, number(y))
    if factor is None and isinstance(node.op, Mul):
        x, by, factor = y, x, number(x)
    same = isinstance(x.type, TensorType) and typed(node).dtype is x.type.dtype
    if factor is None or not same or typed(node).shape != typed(x).shape or x is by:
        return None, 1.0
    if isinstance(node.op, Div):
        return (x, 1.0 / factor) if factor else (None, 1.0)
    return x, factor


def largest_first(node: Node) -> tuple[Node, Node]:
    """The operands of a sum: the scores, then the mask."""
    x, y = node.inputs
    products = [isinstance(z.type, TensorType) and made_of_product(z) for z in (x, y)]
    return (y, x) if products[1] and not products[0] else (x, y)


def made_of_product(node: Node) -> bool:
    """Whether a value comes from a product, by steps that scores may take."""
    for _ in range(LONGEST):
        if isinstance(node.op, Matmul | Bmm | Mm | Baddbmm):
            return True
        steps = Mul | Div | Add | Cast | MaskedFill | Where
        if not (is_link(node) or isinstance(node.op, steps)):
            return False
        tensors = [x for x in node.inputs if isinstance(x.type, TensorType)]
        same = [x for x in tensors if typed(x).numel == typed(node).numel and number(x) is None]
        if not same:
            return False
        node = same[-1] if isinstance(node.op, Where) else same[0]
    return False


def unordered(node: Node, alone: Alone) -> Node | None:
    """What stands before views and copies that keep the order of elements and the last two sizes.

    None where something else reads what is on the way, or the order is another.
    """
    chain = [node]
    while is_link(chain[-1]):
        if not alone(chain[-1]):
            return None
        chain.append(chain[-1].inputs[0])
    below = chain.pop()
    if not chain:
        return below
    first, last = typed(below), typed(node)
    if first.shape[-2:] != last.shape[-2:] or first.numel != last.numel:
        return None
    found: IndexMap | None = identity(first.shape)
    for link in reversed(chain):
        found = None if found is None else follow(found, link.op)
    straight = follow(identity(first.shape), Reshape(last.shape))
    return below if found is not None and found == straight else None


def heads(
    graph: Graph, end: Node, query: Node, shapes: list[Shape], leading: Shape
) -> tuple[int, int]:
    """The sizes of batch and heads that the leading dimensions of the scores are."""
    if len(leading) == 2:
        return leading[0], leading[1]
    if len(leading) > 2:
        return math.prod(leading[:-1]), leading[-1]
    count = math.prod(leading)
    users = [user for user in graph.users[end] if isinstance(user.op, Reshape)]
    seen = [*shapes, *[typed(x).shape for x in users]]
    x = query
    while is_link(x):
        x = x.inputs[0]
        seen.append(typed(x).shape)
    rows = typed(query).shape[-2]
    for shape in seen:
        if len(shape) == 4 and shape[0] * shape[1] == count and shape[2] == rows:
            return shape[0], shape[1]
    return 1, count


def sources(x: Node) -> Iterator[tuple[Node, list[Op], float]]:
    """What an operand is made from by views, copies and scales: the way from there, the scale."""
    way: list[Op] = []
    factor = 1.0
    yield x, [], 1.0
    while True:
        if is_link(x):
            way = [x.op, *way]
            x = x.inputs[0]
        elif isinstance(x.op, Mul | Div) and isinstance(x.type, TensorType):
            below, by = scaled(x)
            if below is None:
                return
            x, factor = below, factor * by
        else:
            return
        yield x, way, factor


def shortest(
    x: Node, turn: bool, whole: Shape, wanted: Shape, written: set[Node]
) -> tuple[Operand | None, float]:
    """An operand as a view of the furthest source that shows it in rows, and its scale."""
    for source, way, factor in reversed(list(sources(x))):
        if source is not x and memory(source) in written:
            continue
        found: IndexMap | None = identity(typed(source).shape)
        last = tuple(range(typed(x).rank))
        turned: list[Op] = [Permute((*last[:-2], last[-1], last[-2]))] if turn else []
        for op in (*way, *turned, Expand(whole), Reshape(wanted)):
            found = None if found is None else follow(found, op)
        if found is None:
            continue
        view = shown(Builder(), source, found)
        if view is not None and typed(view).strides[-1] == 1:
            return Operand(source, found), factor
        if source is x or (x.op in (Mul(), Div()) and not way):
            operand = Operand(source, found, copied=True)
            if operand.build(Builder(), {}) is not None:
                return operand, factor
    return None, 1.0


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type
