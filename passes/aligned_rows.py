"""Aligned rows: what a matrix product reads is laid out so that every row begins on a boundary.

The gradient of a language model's logits has as many columns as its vocabulary has words, often an
odd number. Rows that do not begin on a 16-byte boundary keep cuBLAS from its fast kernels, by a
factor of several. What is computed gets rows with a gap behind each: the kernel that makes it
writes them there, or a copy does, which costs a small part of what the product gains.

Declines on inputs and on what the prologue computes (`pad_features` has those), on vectors and
batches of matrices, on rows that are aligned, on small products, and where tensor cores are not
used (`fits`). Safe within the accuracy rule: the same products, which a library may sum in another
order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.copies import Clone
from lazytorch.ops.layout import Permute
from lazytorch.ops.linalg import Addmm, Linear, Matmul, Mm
from lazytorch.types import TensorType

Fits = Callable[[TensorType], bool]

BOUNDARY = 16  # bytes
SMALLEST = 2**28
"""Multiplications from which it pays to write an operand once more."""


def aligned_rows(graph: Graph, fits: Fits, smallest: int = SMALLEST) -> Graph:
    """The graph whose large products read aligned rows; `fits` says of which operands."""
    made: dict[Node, Node] = {}

    def aligned(x: Node) -> Node:
        if isinstance(x.op, Permute):
            return with_inputs(x, [aligned(x.inputs[0])])
        t = x.type
        if x.op.view or not x.inputs or not isinstance(t, TensorType) or t.rank < 2:
            return x
        step = BOUNDARY // t.dtype.itemsize
        if not t.is_contiguous or t.shape[-1] % step == 0:
            return x
        if x not in made:
            row = -(-t.shape[-1] // step) * step
            strides = [row]
            for size in reversed(t.shape[1:-1]):
                strides.append(strides[-1] * size)
            made[x] = Builder(x.where)(Clone((*reversed(strides), 1)), x)
        return made[x]

    def rewrite(node: Node) -> Node:
        if not isinstance(node.op, Addmm | Linear | Matmul | Mm):
            return node
        operands = node.inputs[-2:] if isinstance(node.op, Addmm) else node.inputs[:2]
        left, right = [x.type for x in operands]
        assert isinstance(left, TensorType) and isinstance(right, TensorType)
        columns = right.shape[0 if isinstance(node.op, Linear) else -1]
        if right.rank != 2 or left.rank < 2 or not fits(left):
            return node
        if math.prod(left.shape) * columns < smallest:
            return node
        new = {x: aligned(x) for x in operands if x not in steady}
        return with_inputs(node, [new.get(x, x) for x in node.inputs])

    steady = graph.steady
    return graph.map(rewrite)
