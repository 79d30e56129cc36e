"""Row products: on the CPU a matrix times one vector is a kernel's.

Such a product reads its matrix once, which takes all of its time: a generated kernel reads as fast
as the memory gives, where torch's products take up to twice as long (benchmarks/small_layers.py),
from the third-level cache and from memory. What follows it element by element, a bias and an
activation, joins it: those are done on the kernel's columns, one number for each row of the matrix.

Declines on matrices whose rows lie neither in one piece nor beside each other, on small ones, and
on what runs once, in the prologue. In 16-bit types a packed weight is faster and was chosen before.
The same products, summed in another order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.base import Pointwise
from lazytorch.ops.generated import obstacle
from lazytorch.ops.layout import Permute, Reshape, transposed, view_strides
from lazytorch.ops.linalg import Addmm, Linear, Matmul, Mm, Mv, RowDots
from lazytorch.types import Shape, TensorType

FEWEST = 1 << 10
"""Elements of the matrix from which on it pays."""

ROWS = {torch.bfloat16: 1 << 22, torch.float16: 1 << 62}
"""The same where its rows lie in one piece: in 16 bits torch's dots are quick in the cache, and in
float16 everywhere."""


def row_products(graph: Graph) -> Graph:
    """The graph with products of one vector as sums along rows."""
    found = Columns(graph)
    for node in graph.nodes:
        if node not in found.done:
            found.add(node)
    return graph.replace(found.done)


@dataclass(frozen=True)
class Product:
    """The rows of `matrix` times `vector`, plus a bias if any."""

    matrix: Node
    vector: Node
    bias: tuple[Node, ...] = ()


class Columns:
    """A graph, what its nodes have become, and which of them there are as a column as well."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.done: dict[Node, Node] = {x: x for x in graph.inputs}
        self.columns: dict[Node, Node] = {}

    def add(self, node: Node) -> None:
        """Decide what a node becomes."""
        made = with_inputs(node, [self.done[x] for x in node.inputs])
        column = None
        if node not in self.graph.steady and isinstance(node.type, TensorType):
            found = product(made)
            column = (multiplied(made, found) if found else None) or self.follows(node)
        shown = column and shown_as(column, node)
        if column and shown:
            self.columns[node] = column
        self.done[node] = shown or made

    def follows(self, node: Node) -> Node | None:
        """As a column what is computed of columns: a view, or arithmetic."""
        if not any(x in self.columns for x in node.inputs):
            return None
        if isinstance(node.op, Permute | Reshape):
            (x,) = node.inputs
            turned = isinstance(node.op, Permute) and sum(n > 1 for n in typed(x).shape) > 1
            return None if turned else self.columns[x]
        if not isinstance(node.op, Pointwise) or obstacle(node):
            return None
        operands = [self.column(x, typed(node).numel) for x in node.inputs]
        if any(x is None for x in operands):
            return None
        made = Builder(node.where)(node.op, *[x for x in operands if x is not None])
        return made if typed(made).dtype is typed(node).dtype else None

    def column(self, x: Node, count: int) -> Node | None:
        """An operand as a column of so many numbers; a single number as one."""
        if x in self.columns and typed(x).numel == count:
            return self.columns[x]
        if not isinstance(x.type, TensorType):
            return self.done[x]
        return as_column(self.done[x], count)


def product(node: Node) -> Product | None:
    """What a node multiplies; None where that is more than one vector."""
    match node.op:
        case Linear():
            x, weight, *bias = node.inputs
        case Mm() | Matmul() | Mv():
            (x, right), bias = node.inputs, []
            weight = transposed(right) if typed(right).rank == 2 else right
        case Addmm(beta=1, alpha=1):
            base, x, right = node.inputs
            weight, bias = transposed(right), [base]
        case _:
            return None
    left, right = typed(x), typed(weight)
    if left.device.type != "cpu" or left.rank < 1 or right.rank not in (1, 2) or not left.numel:
        return None
    size = left.shape[-1]
    if left.numel == size and right.rank == 2:
        return Product(weight, x, tuple(bias))
    if right.numel == size:
        return Product(x, weight, tuple(bias))
    return None


def multiplied(node: Node, found: Product) -> Node | None:
    """A product as a column; None where the matrix is small or lies otherwise."""
    matrix, size = typed(found.matrix), typed(found.matrix).shape[-1]
    count = matrix.numel // size
    flat = view_strides(matrix.shape, matrix.strides, (count, size))
    if flat is None or matrix.numel < (FEWEST if flat[1] != 1 else ROWS.get(matrix.dtype, FEWEST)):
        return None
    base = [as_column(x, count) for x in found.bias]
    if None in base:
        return None
    rows, vector = shaped(found.matrix, (count, size)), shaped(found.vector, (size,))
    made = Builder(node.where)(RowDots(), rows, vector, *[x for x in base if x is not None])
    return None if obstacle(made) else made


def as_column(x: Node, count: int) -> Node | None:
    """The `count` numbers of a tensor one below the other, or its only one; None of others."""
    numel = typed(x).numel
    return shaped(x, (numel, 1)) if numel in (1, count) else None


def shaped(x: Node, shape: Shape) -> Node:
    """A value under another shape, whatever shape it was given before."""
    while typed(x).shape != shape and isinstance(x.op, Reshape):
        (x,) = x.inputs
    return x if typed(x).shape == shape else Builder(x.where)(Reshape(shape), x)


def shown_as(column: Node, node: Node) -> Node | None:
    """A column as what was there; None where that lies otherwise in memory."""
    b, like = Builder(node.where), typed(node)
    for reshape in (Reshape(like.shape), Reshape(like.shape, like.strides)):
        found = b(reshape, column)
        if found.type == like:
            return found
    return None


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type
