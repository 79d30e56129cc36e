"""The kernels that a target has for a graph, before there is a program of it."""

from __future__ import annotations

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Graph, Node
from lazytorch.lower.kernel import Generated, Kernel, Target
from lazytorch.lower.steps import Operand
from lazytorch.ops.attention import ScaledDotProductAttention


def prepared(graph: Graph, target: Target, refused: dict[Node, str]) -> dict[Node, Kernel]:
    """The kernels for groups and attentions; why there is none for the others, in `refused`."""
    found: dict[Node, Kernel] = {}
    for node in graph.nodes:
        if isinstance(node.op, Generated):
            try:
                found[node] = target.prepare(node.op, operands_of(node))
            except UnsupportedError as error:
                if not isinstance(node.op, ScaledDotProductAttention):
                    refused[node] = error.message  # else torch has a good kernel
    return found


def operands_of(node: Node) -> tuple[Operand, ...]:
    """The types that a group's kernel reads."""
    return tuple([x.type for x in node.inputs if isinstance(x.type, Operand)])
