"""Batch norm in training on a GPU as sums of columns and arithmetic, where channels lie innermost.

The statistics are moments of equal parts of the columns; of these, the mean of the means, and the
mean of the variances and of what the means are apart, squared (law of total variance). The
derivative's sums go the same way. What is done to each element is arithmetic, so it joins the
activation and the residual around it in one kernel; the new running statistics are arithmetic on
one number of each channel, of which `horizontal` makes one launch for many norms. torch's own
kernels read an image as often, at half the memory's rate, and what is around them reads and writes
it again.

A cotangent that is arithmetic which nothing else reads (the mask of a relu) is computed in both
places that read it, and never stored. So is, whoever else reads it, what an activation's derivative
asks of the norm (the sign, for a relu's): it is computed again from the norm's image, which the
norm's derivative reads anyway.

Declines on the CPU, on float64, where channels are not innermost in memory, where they are fewer
than a program reads together, on a momentum that varies, and where elements cannot be divided into
enough equal parts. Safe within the accuracy rule: float32 sums in another order, and one rounding
where torch's kernels and what follows round between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lazytorch.columns import Columns, columns_of
from lazytorch.ir import Const, Graph, Item, Node, with_inputs
from lazytorch.ops.activation import Relu
from lazytorch.ops.base import Pointwise
from lazytorch.ops.batch_norm import BatchNormBackward, BatchNormSaving, BatchNormTrain
from lazytorch.ops.checks import optional
from lazytorch.ops.compare import Le
from lazytorch.ops.elementary import Rsqrt
from lazytorch.ops.generated import obstacle
from lazytorch.ops.pointwise import Add, Mul, Sub
from lazytorch.ops.reduce import Mean, Sum, Var
from lazytorch.types import TensorType, TupleType

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

DEEPEST = 32
"""Operations one upon another that are computed in two places."""


def batch_norm_columns(graph: Graph) -> Graph:
    """The graph with batch norms of a training step computed by generated kernels."""
    return Rewrite(graph).rewritten()


@dataclass(frozen=True)
class Normed:
    """What a norm makes of the image `x`, from one number of each channel; in float32."""

    columns: Columns
    x: Node
    mean: Node
    scale: Node
    bias: Node | None

    def whole(self) -> Node:
        """The image."""
        return self.of(self.x, self.columns.beside)

    def in_parts(self) -> Node:
        """The image's columns, in parts."""
        return self.of(self.columns.of(self.x), self.columns.tall)

    def of(self, x: Node, placed: Callable[[Node], Node]) -> Node:
        """(x - mean) * scale + bias, the vectors placed beside `x`."""
        c = self.columns
        y = c.b(Mul(), c.b(Sub(), c.wide(x), placed(self.mean)), placed(self.scale))
        return y if self.bias is None else c.b(Add(), y, c.wide(placed(self.bias)))


class Rewrite:
    """What became of the nodes of a graph: `done`, by results, and of images by norms."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.done: dict[Node, Node] = {x: x for x in graph.inputs}
        self.results: dict[Node, list[Node]] = {}
        self.norms: dict[Node, Normed] = {}
        self.known: dict[tuple[Node, Node], Node | None] = {}  # `derived`, by value and image

    def rewritten(self) -> Graph:
        """The graph with what could be rewritten."""
        for node in self.graph.nodes:
            if node not in self.done:
                self.done[node] = self.one(node)
        return self.graph.replace(self.done) if self.results else self.graph

    def one(self, node: Node) -> Node:
        """What becomes of a node, whose operands are done."""
        if isinstance(node.op, Item) and node.inputs[0] in self.results:
            return self.results[node.inputs[0]][node.op.index]
        found = with_inputs(node, [self.done[x] for x in node.inputs])
        if norm := self.signed(node):
            return norm.columns.b(Le(), norm.whole(), found.inputs[1])
        if node in self.graph.outputs:
            return found
        made: list[Node] | None = None
        match node.op:
            case BatchNormTrain(momentum=float()):
                made = self.normalized(found, node)
            case BatchNormBackward():
                made = self.pulled(found, node)
            case _:
                pass
        if made is not None:
            assert isinstance(node.type, TupleType)
            if [x.type for x in made] == list(node.type.items):
                self.results[node] = made
        return found

    def signed(self, node: Node) -> Normed | None:
        """The norm whose sign a node asks for: `relu(norm) <= 0` is `norm <= 0`."""
        if not isinstance(node.op, Le):
            return None
        y, bound = node.inputs
        zero = isinstance(bound.op, Const) and bound.op.value == 0
        norm = y.inputs[0] if zero and isinstance(y.op, Relu) else None
        if norm is None or not isinstance(norm.op, Item) or norm.op.index:
            return None
        return self.norms.get(norm.inputs[0]) if norm.inputs[0] in self.results else None

    def in_parts(
        self, c: Columns, x: Node, readers: set[Node], image: Node, made: dict[Node, Node]
    ) -> Node:
        """`x` in parts, computed there where that reads nothing more, or nothing else reads it."""
        if x not in made:
            made[x] = self.derived(c, x, image) or self.moved(c, x, readers, image, made)
        return made[x]

    def moved(
        self, c: Columns, x: Node, readers: set[Node], image: Node, made: dict[Node, Node]
    ) -> Node:
        """`x` in parts: arithmetic on parts where nothing but the `readers` reads it."""
        alone = set(self.graph.users[x]) <= readers and x not in self.graph.outputs
        if alone and len(readers) <= DEEPEST:
            images = [y for y in x.inputs if isinstance(y.type, TensorType) and y.type.rank]
            if elementwise(x) and all(map(c.fits, images)):
                inside = readers | {x}
                operands = [
                    self.in_parts(c, y, inside, image, made) if y in images else self.done[y]
                    for y in x.inputs
                ]
                return c.b(x.op, *operands)
        return c.of(self.done[x])

    def derived(self, c: Columns, x: Node, image: Node, depth: int = 0) -> Node | None:
        """A value in parts where it is arithmetic on the norm of `image` alone; else None."""
        if (x, image) not in self.known:
            deep = depth > DEEPEST
            self.known[x, image] = None if deep else self.recomputed(c, x, image, depth)
        return self.known[x, image]

    def recomputed(self, c: Columns, x: Node, image: Node, depth: int) -> Node | None:
        """The same, looked at for the first time."""
        if norm := self.signed(x):
            return c.b(Le(), norm.in_parts(), self.done[x.inputs[1]]) if norm.x is image else None
        if isinstance(x.op, Item) and not x.op.index and x.inputs[0] in self.results:
            normed = self.norms.get(x.inputs[0])
            return c.like(normed.in_parts(), x) if normed and normed.x is image else None
        if not elementwise(x):
            return None
        operands: list[Node] = []
        for y in x.inputs:
            wide = isinstance(y.type, TensorType) and y.type.rank > 0
            found = self.derived(c, y, image, depth + 1) if wide else self.done[y]
            if found is None:
                return None
            operands.append(found)
        return c.b(x.op, *operands)

    def normalized(self, norm: Node, before: Node) -> list[Node] | None:
        """The results of a norm: the image, running statistics, what is kept."""
        op, (x, *rest) = norm.op, norm.inputs
        assert isinstance(op, BatchNormTrain) and op.momentum is not None
        c = columns_of(x, DTYPES, norm.where)
        if c is None:
            return None
        weight, bias, running_mean, running_var, _ = op.given(rest)
        rows = c.wide(c.of(x))
        means, variances = c.b(Mean((2,), True), rows), c.b(Var((2,), True, 0), rows)
        if obstacle(means):
            return None
        means, variances = c.joined(means), c.joined(variances)
        mean = c.b(Mean((1,), True), means)
        if obstacle(mean):
            return None
        apart = c.b(Sub(), means, mean)
        variance = c.b(Mean((1,), True), c.b(Add(), variances, c.b(Mul(), apart, apart)))
        scale = deviation = c.b(Rsqrt(), c.b(Add(), variance, op.eps))
        if weight is not None:
            scale = c.b(Mul(), deviation, c.wide(c.tall(weight)))
        normed = self.norms[before] = Normed(c, x, mean, scale, bias)
        made = [c.like(normed.whole(), x)]
        if op.stats:
            unbiased = op.momentum * c.size / max(c.size - 1, 1)
            updates = (running_mean, mean, op.momentum), (running_var, variance, unbiased)
            for old, new, weighed in updates:
                kept = c.b(Mul(), c.wide(old), 1 - op.momentum)
                now = c.b(Mul(), c.flat(new, new), weighed)
                made.append(c.like(c.b(Add(), kept, now), old))
        if isinstance(op, BatchNormSaving):
            made += [c.flat(y, y) for y in (mean, deviation)]
        return made

    def pulled(self, back: Node, before: Node) -> list[Node] | None:
        """The cotangents of image, weight and bias.

        With d = 1 / std and n elements a channel, as in the paper (arXiv:1502.03167, section 3):
        dx = w d (g - sum(g) / n - (x - mean) d^2 sum(g (x - mean)) / n).
        """
        op, (whole, x, *rest) = back.op, back.inputs
        assert isinstance(op, BatchNormBackward)
        c = columns_of(x, DTYPES, back.where)
        if c is None:
            return None
        weight, mean, deviation = optional(rest, op.weight, True, True)
        mean, deviation = c.tall(mean), c.tall(deviation)
        g = c.wide(self.in_parts(c, before.inputs[0], {before}, x, {}))
        apart = c.b(Sub(), c.wide(c.of(x)), mean)
        sums, products = c.b(Sum((2,), True), g), c.b(Sum((2,), True), c.b(Mul(), g, apart))
        if obstacle(sums):
            return None
        total, product = (c.b(Sum((1,), True), c.joined(y)) for y in (sums, products))
        if obstacle(total):
            return None
        along = c.b(Mul(), c.b(Mul(), product, c.b(Mul(), deviation, deviation)), 1 / c.size)
        # One number beside the image instead of two, in the kernel that makes the sums.
        shift = c.b(Sub(), c.b(Mul(), total, 1 / c.size), c.b(Mul(), along, mean))
        scale = deviation if weight is None else c.b(Mul(), deviation, c.wide(c.tall(weight)))
        line = c.b(Add(), c.b(Mul(), c.wide(x), c.beside(along)), c.beside(shift))
        dx = c.b(Mul(), c.b(Sub(), c.wide(whole), line), c.beside(scale))
        like = rest[0]
        return [c.like(dx, x), c.flat(c.b(Mul(), product, deviation), like), c.flat(total, like)]


def elementwise(x: Node) -> bool:
    """Whether a generated kernel computes a value of its operands alone, wherever they lie."""
    return isinstance(x.op, Pointwise) and not x.op.placed and not obstacle(x)
