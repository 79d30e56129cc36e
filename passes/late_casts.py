"""Late casts: what is cast to a wider dtype and then only viewed is viewed first.

A product's 16-bit result is often cast and brought into another shape before arithmetic reads it.
Between a product and a view the cast is a kernel of its own, which writes the wider values; behind
the view it fuses with the arithmetic.

Declines where anything but views of all its elements reads the wider values, where they are no
wider, and where a view would be of another type. Exact: a cast looks at each element alone.
"""

from __future__ import annotations

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.layout import Permute, Reshape
from lazytorch.ops.pointwise import Cast
from lazytorch.types import TensorType

VIEWS = Reshape | Permute


def late_casts(graph: Graph) -> Graph:
    """The graph that casts behind views."""
    roots = {*graph.outputs, *graph.effects}
    early: set[Node] = set()
    for x in graph.nodes:
        if widens(x) or (isinstance(x.op, VIEWS) and x.inputs[0] in early):
            users = graph.users[x]
            if users and x not in roots and all(isinstance(user.op, VIEWS) for user in users):
                early.add(x)
    if not early:
        return graph
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        found = with_inputs(node, [done[x] for x in node.inputs])
        if node.inputs and node.inputs[0] in early:
            cast = found.inputs[0]
            if widens(cast):
                view = Builder(node.where)(node.op, cast.inputs[0])
                late = Builder(cast.where)(cast.op, view)
                found = late if late.type == found.type else found
        done[node] = found
    return graph.replace(done)


def widens(node: Node) -> bool:
    """Whether a node is a cast to a dtype of more bytes."""
    if not isinstance(node.op, Cast):
        return False
    before, after = node.inputs[0].type, node.type
    assert isinstance(before, TensorType) and isinstance(after, TensorType)
    return before.dtype.itemsize < after.dtype.itemsize
