"""Matrix products as torch's overloads name them.

`einsum`, `outer`, `tensordot` and `inner` have no importer: torch takes them apart into the views
and products that eager runs.
"""

from __future__ import annotations

from lazytorch.frontend.imports import imports
from lazytorch.ir import Builder, Node
from lazytorch.ops import linalg as ops

Number = int | float | complex


@imports("matmul", "linalg_matmul")
def matmul(b: Builder, self: Node, other: Node) -> Node:
    return b(ops.Matmul(), self, other)


@imports("mm")
def mm(b: Builder, self: Node, mat2: Node) -> Node:
    return b(ops.Mm(), self, mat2)


@imports("bmm")
def bmm(b: Builder, self: Node, mat2: Node) -> Node:
    return b(ops.Bmm(), self, mat2)


@imports("dot")
def dot(b: Builder, self: Node, tensor: Node) -> Node:
    return b(ops.Dot(), self, tensor)


@imports("mv")
def mv(b: Builder, self: Node, vec: Node) -> Node:
    return b(ops.Mv(), self, vec)


@imports("addmm")
def addmm(
    b: Builder, self: Node, mat1: Node, mat2: Node, *, beta: Number = 1, alpha: Number = 1
) -> Node:
    if isinstance(beta, Node) or isinstance(alpha, Node):
        return NotImplemented
    return b(ops.Addmm(beta, alpha), self, mat1, mat2)


@imports("baddbmm")
def baddbmm(
    b: Builder, self: Node, batch1: Node, batch2: Node, *, beta: Number = 1, alpha: Number = 1
) -> Node:
    if isinstance(beta, Node) or isinstance(alpha, Node):
        return NotImplemented
    return b(ops.Baddbmm(beta, alpha), self, batch1, batch2)


@imports("linear")
def linear(b: Builder, input: Node, weight: Node, bias: Node | None = None) -> Node:
    return b(ops.Linear(), input, weight, *(() if bias is None else (bias,)))
