"""Pool first: relu behind a convolution waits until the max pool that reads it has run.

The largest of what relu gives is relu of the largest, and the pool leaves fewer values. NaN passes
through both in either order.

Declines where something else reads the relu or its operand is no convolution (a generated kernel
then does it for nothing), where the pool makes its input no smaller, and on dilated windows, which
may lie in the padding as a whole: a pool gives -inf there. Exact but for the sign of a zero, where
a convolution underflows to -0.0.
"""

from __future__ import annotations

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.activation import Relu
from lazytorch.ops.conv import Convolution
from lazytorch.ops.library import OneDnnConvolution
from lazytorch.ops.pool import MaxPool
from lazytorch.types import TensorType


def pool_first(graph: Graph) -> Graph:
    """The graph with relu behind the max pools."""
    roots = {*graph.outputs, *graph.effects}
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        found = with_inputs(node, [done[x] for x in node.inputs])
        if smaller(node) and node not in graph.steady:
            source = node.inputs[0]
            if relu_alone(source) and graph.users[source] == [node] and source not in roots:
                b = Builder(node.where)
                swapped = Builder(source.where)(Relu(), b(node.op, *done[source].inputs))
                found = swapped if swapped.type == node.type else found
        done[node] = found
    return graph.replace(done)


def relu_alone(node: Node) -> bool:
    """Whether a node is relu of a convolution."""
    return isinstance(node.op, Relu) and isinstance(
        node.inputs[0].op, Convolution | OneDnnConvolution
    )


def smaller(node: Node) -> bool:
    """Whether a node is a max pool that gives less than it reads, of windows without gaps."""
    if not isinstance(node.op, MaxPool) or any(step != 1 for step in node.op.dilation):
        return False
    x, made = node.inputs[0].type, node.type
    assert isinstance(x, TensorType) and isinstance(made, TensorType)
    return made.numel < x.numel
