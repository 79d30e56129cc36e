"""Late factors: a number that scales an operand of a product scales the product instead.

Written-out attention scales the query before it is multiplied with the key. As an operand the
scaled query is a copy of its own, which a training step keeps beside the query until the backward
multiplies with it again; what reads the products is arithmetic, in whose kernels a factor is free.
An attention that is one operation has a scale already, and takes in those of its query and key.

Declines where scaling is free already, since arithmetic makes what is scaled; where anything but
products and attentions reads what was scaled, or anything but generated kernels the products; where
a view would copy; on numbers that vary or are far from 1, and in float16, where an unscaled product
may overflow: an attention's scores are float32.
Safe within the accuracy rule: as many roundings as before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch

from lazytorch.ir import Builder, Const, Graph, Node, with_inputs
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.chains import is_copy, memory
from lazytorch.ops.generated import obstacle
from lazytorch.ops.linalg import Bmm, Matmul, Mm
from lazytorch.ops.masks import number
from lazytorch.ops.pointwise import Div, Mul
from lazytorch.types import TensorType

PRODUCTS = Matmul | Mm | Bmm
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

FARTHEST = 2.0**16
"""Factors are at most that, and at least one part in that."""


def late_factors(graph: Graph) -> Graph:
    """The graph that scales products rather than their operands."""
    scaling = {x for x in graph.nodes if scales(graph, x)}
    moved = {x for x in scaling if movable(graph, x, scaling)}
    return Moved(graph, moved).rebuilt() if moved else graph


def scales(graph: Graph, node: Node) -> bool:
    """Whether a node only scales, for products to read, what is in memory anyway."""
    if not isinstance(node.op, Mul | Div) or node in graph.steady:
        return False
    x, by = operands(node)
    factor, made = number(by), node.type
    if factor is None or not isinstance(by.op, Const):
        return False
    if not isinstance(x.type, TensorType) or not isinstance(made, TensorType):
        return False
    alike = x.type.shape == made.shape and x.type.dtype is made.dtype
    near = 1 / FARTHEST <= abs(factor) <= FARTHEST
    return alike and near and made.dtype in DTYPES and obstacle(memory(x)) is not None


def operands(node: Node) -> tuple[Node, Node]:
    """What is scaled, and by what."""
    x, by = node.inputs
    return (by, x) if isinstance(node.op, Mul) and number(by) is None else (x, by)


def movable(graph: Graph, node: Node, scaling: set[Node]) -> bool:
    """Whether a factor can move behind all products that read what it scales."""
    x, found = operands(node)[0], readers(graph, node)
    return bool(found) and all(
        not copied(x, path)
        and (absorbed(node, path, reader) or multiplied(graph, node, reader, scaling))
        for path, reader in found
    )


def absorbed(node: Node, path: Sequence[Node], reader: Node) -> bool:
    """Whether an attention that reads a scaled query or key, or views of it, can scale instead."""
    if type(reader.op) is not ScaledDotProductAttention:
        return False
    lies_alike = operands(node)[0].type == node.type
    return lies_alike and multiplier(node) > 0 and (node, *path)[-1] not in reader.inputs[2:]


def multiplied(graph: Graph, node: Node, reader: Node, scaling: set[Node]) -> bool:
    """Whether all that reads a product of what was scaled can scale in its place."""
    assert isinstance(node.type, TensorType)
    wide = node.type.dtype is not torch.float16
    return wide and isinstance(reader.op, PRODUCTS) and free(graph, reader, scaling)


def free(graph: Graph, product: Node, scaling: set[Node]) -> bool:
    """Whether all that reads a product can scale what it reads, in kernels that run anyway."""
    found = readers(graph, product)
    return bool(found) and all(
        obstacle(reader) is None and reader not in scaling and keeps_type((product, *path)[-1])
        for path, reader in found
    )


def readers(graph: Graph, node: Node) -> list[tuple[tuple[Node, ...], Node]]:
    """What reads a value, or views of it, with the views on the way; none where it is a root."""
    found: list[tuple[tuple[Node, ...], Node]] = []
    stack: list[tuple[Node, ...]] = [()]
    while stack:
        path = stack.pop()
        end = (node, *path)[-1]
        if end in graph.outputs or end in graph.effects:
            return []
        for reader in graph.users[end]:
            if reader.op.view and not is_copy(reader):
                stack.append((*path, reader))
            else:
                found.append((path, reader))
    return found


def copied(x: Node, views: Sequence[Node]) -> bool:
    """Whether some of the views, of `x` instead, would be copies."""
    for view in views:
        x = with_inputs(view, [x])
        if is_copy(x):
            return True
    return False


def keeps_type(x: Node) -> bool:
    """Whether a value lies in memory as before when it is scaled."""
    return Builder()(Mul(), x, 1.0).type == x.type


class Moved:
    """A graph on its way to one in which some factors come later."""

    def __init__(self, graph: Graph, moved: Collection[Node]) -> None:
        self.graph = graph
        self.moved = moved
        self.done: dict[Node, Node] = {x: x for x in graph.inputs}
        self.owed: dict[Node, tuple[Node, ...]] = {}  # what still has to scale a value
        self.paid: dict[Node, Node] = {}

    def rebuilt(self) -> Graph:
        """The graph whose arithmetic scales what it reads of products."""
        for node in self.graph.nodes:
            if node in self.moved:
                x, _ = operands(node)
                self.done[node], self.owed[node] = self.done[x], (node,)
            elif node.op.view or isinstance(node.op, PRODUCTS):
                owed = [y for x in node.inputs for y in self.owed.get(x, ())]
                self.done[node] = with_inputs(node, [self.done[x] for x in node.inputs])
                self.owed[node] = tuple(owed)
            elif type(node.op) is ScaledDotProductAttention:
                self.done[node] = self.attention(node, node.op)
            elif node not in self.done:
                self.done[node] = with_inputs(node, [self.scaled(x) for x in node.inputs])
        return self.graph.replace(self.done)

    def scaled(self, x: Node) -> Node:
        """A value as it was before."""
        if x not in self.paid:
            y = self.done[x]
            for scale in self.owed.get(x, ()):
                y = Builder(scale.where)(scale.op, y, operands(scale)[1])
            self.paid[x] = y
        return self.paid[x]

    def attention(self, node: Node, op: ScaledDotProductAttention) -> Node:
        """An attention whose scale has what its query and key still owe."""
        query, key, *others = node.inputs
        factor = math.prod([multiplier(x) for y in (query, key) for x in self.owed.get(y, ())])
        inputs = [self.done[query], self.done[key], *map(self.scaled, others)]
        if factor != 1:
            assert isinstance(query.type, TensorType)
            own = query.type.shape[-1] ** -0.5 if op.scale is None else op.scale
            op = op.with_attributes(scale=own * factor)
        return Builder(node.where)(op, *inputs)


def multiplier(node: Node) -> float:
    """What a node multiplies with."""
    factor = number(operands(node)[1])
    assert factor is not None
    return 1 / factor if isinstance(node.op, Div) else factor
