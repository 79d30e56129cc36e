"""Pad features: a linear layer gets so many outputs that every row of its result is aligned.

A language model's head has as many outputs as its vocabulary has words, often an odd number. Rows
that do not begin on a 16-byte boundary keep cuBLAS from its fast kernels, by a factor of several.
The weight, and the bias, get rows of zeros; the additional columns of the product are cut off by a
slice, which costs nothing. Weights that stay (`steady`) are padded once, in the prologue; those
that change, in training, at each call, where rows of the input are many: what else reads such a
weight reads the larger one without its zeros, so that none is kept twice.

Declines where rows are aligned already, on vectors, on small products, which take as long to
launch, and where tensor cores are not used (`fits`). Safe within the accuracy rule: the same
products, which a library may sum in another order.
"""

from __future__ import annotations

from collections.abc import Callable

from lazytorch.ir import Builder, Graph, Input, Node, with_inputs
from lazytorch.ops.alignment import missing
from lazytorch.ops.copies import Pad, rerooted
from lazytorch.ops.layout import Slice
from lazytorch.ops.linalg import Linear
from lazytorch.types import TensorType

Fits = Callable[[TensorType], bool]

ROWS = 256
"""Rows of the input from which padding a weight costs little beside the product."""
SMALLEST = 2**24
"""Multiplications from which padding pays: fewer take a GPU some microseconds in any kernel."""


def pad_features(graph: Graph, fits: Fits, smallest: int = SMALLEST, steady: bool = True) -> Graph:
    """The graph with aligned rows; `fits` says of which input, `smallest` how large a product."""
    chosen = {x for x in graph.nodes if suits(x, graph, fits, smallest, steady)}
    if not chosen:
        return graph
    shared = set() if steady else {node.inputs[1] for node in chosen}
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    wide: dict[Node, Node] = {}
    for node in graph.nodes:
        found = done.get(node) or with_inputs(node, [done[x] for x in node.inputs])
        done[node] = found
        if node in chosen:
            done[node] = padded(found, wide.get(node.inputs[1]))
        elif node in shared:
            wide[node] = widened(found)
            if not isinstance(node.op, Input):  # which is in memory anyway
                done[node] = Builder(node.where)(Slice(0, 0, typed(found).shape[0]), wide[node])
    return rerooted(graph, done)


def suits(node: Node, graph: Graph, fits: Fits, smallest: int, steady: bool) -> bool:
    """Whether a node is a linear layer that gains by aligned rows."""
    if not isinstance(node.op, Linear) or node in graph.steady:
        return False
    x, weight, *bias = [typed(y) for y in node.inputs]
    return (
        weight.rank == 2
        and x.rank > 1
        and all(y.shape == weight.shape[:1] for y in bias)
        and missing(weight.shape[0], x) > 0
        and x.numel * weight.shape[0] >= smallest
        and (node.inputs[1] in graph.steady) is steady
        and (not steady or all(y in graph.steady for y in node.inputs[2:]))
        and (steady or (x.numel >= ROWS * x.shape[-1] and weight.is_contiguous))
        and fits(x)
    )


def padded(node: Node, wide: Node | None = None) -> Node:
    """The layer with more outputs, of which those that were asked for are shown; `wide` is its
    weight with more rows, if that is there already."""
    b = Builder(node.where)
    x, weight, *bias = node.inputs
    more = missing(typed(weight).shape[0], typed(x))
    wide = widened(weight) if wide is None else wide
    y = b(Linear(), x, wide, *[b(Pad((0, more)), y) for y in bias])
    return b(Slice(typed(y).rank - 1, 0, typed(weight).shape[0]), y)


def widened(weight: Node) -> Node:
    """A weight with more rows, of zeros."""
    more = missing(typed(weight).shape[0], typed(weight))
    return Builder(weight.where)(Pad((0, 0, 0, more)), weight)


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type
