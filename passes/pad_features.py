"""Pad features: a linear layer gets so many outputs that every row of its result is aligned.

A language model's head has as many outputs as its vocabulary has words, often an odd number. Rows
that do not begin on a 16-byte boundary keep cuBLAS from its fast kernels, by a factor of several.
The weight, and the bias, get rows of zeros once, in the prologue; the additional columns of the
product are cut off by a slice, which costs nothing.

Declines where rows are aligned already, on weights that change from call to call (they would be
padded at each), on vectors, on small products, which take as long to launch, and where tensor cores
are not used (`fits`). Safe within the accuracy rule: the same products, which a library may sum in
another order.
"""

from __future__ import annotations

from collections.abc import Callable

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.copies import Pad, rerooted
from lazytorch.ops.layout import Slice
from lazytorch.ops.linalg import Linear
from lazytorch.types import TensorType

Fits = Callable[[TensorType], bool]

BOUNDARY = 16  # bytes
TILE = 64
"""Columns that a kernel computes at once, at least: many features are padded to whole tiles."""
MANY = 1024
SMALLEST = 2**24
"""Multiplications from which padding pays: fewer take a GPU some microseconds in any kernel."""


def pad_features(graph: Graph, fits: Fits, smallest: int = SMALLEST) -> Graph:
    """The graph with aligned rows; `fits` says of which input, `smallest` how large a product."""
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        found = with_inputs(node, [done[x] for x in node.inputs])
        done[node] = padded(found) if suits(node, graph, fits, smallest) else found
    return rerooted(graph, done)


def suits(node: Node, graph: Graph, fits: Fits, smallest: int) -> bool:
    """Whether a node is a linear layer that gains by aligned rows."""
    if not isinstance(node.op, Linear) or node in graph.steady:
        return False
    x, weight, *bias = [typed(y) for y in node.inputs]
    return (
        weight.rank == 2
        and x.rank > 1
        and all(y.shape == weight.shape[:1] for y in bias)
        and weight.shape[0] * x.dtype.itemsize % BOUNDARY != 0
        and x.numel * weight.shape[0] >= smallest
        and all(y in graph.steady for y in node.inputs[1:])
        and fits(x)
    )


def padded(node: Node) -> Node:
    """The layer with more outputs, of which those that were asked for are shown."""
    b = Builder(node.where)
    x, weight, *bias = node.inputs
    features = typed(weight).shape[0]
    step = TILE if features >= MANY else BOUNDARY // typed(x).dtype.itemsize
    more = -features % step
    wide = [b(Pad((0, 0, 0, more)), weight), *(b(Pad((0, more)), y) for y in bias)]
    y = b(Linear(), x, *wide)
    return b(Slice(typed(y).rank - 1, 0, features), y)


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type
