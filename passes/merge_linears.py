"""Merge linears: several linear layers of one input become one product, cut apart afterwards.

Q, K and V, or gate and up: one large product fills a GPU better than three small ones, and reads
the input once. The joined weight is made once, in the prologue; the parts are views of the result.

Declines where weights change from call to call (they would be joined at each), where dtypes or the
presence of a bias differ, on vectors, and where only one reads the input. Safe within the accuracy
rule: the same products, which a library may sum in another order.
"""

from __future__ import annotations

from itertools import accumulate

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.copies import Cat, rerooted
from lazytorch.ops.layout import Slice
from lazytorch.ops.linalg import Linear
from lazytorch.types import TensorType


def merge_linears(graph: Graph) -> Graph:
    """The graph with linears of one input joined."""
    whole = {node: group for group in groups(graph) for node in group}
    if not whole:
        return graph
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    # What the weights are computed from comes first: a group needs all of them at its first member.
    for node in sorted(graph.nodes, key=lambda x: x not in graph.steady):
        if node in done:
            continue
        if node in whole:
            done |= joined(whole[node], done)
        else:
            done[node] = with_inputs(node, [done[x] for x in node.inputs])
    return rerooted(graph, done)


def groups(graph: Graph) -> list[list[Node]]:
    """Linears that can be joined, each list in the graph's order."""
    found: dict[tuple[Node, int], list[Node]] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Linear) or node in graph.steady:
            continue
        x, *parameters = node.inputs
        wide = shape_of(parameters[0])[0]
        shapes = [shape_of(y) for y in parameters]
        if shapes in ([(wide, shape_of(x)[-1])], [(wide, shape_of(x)[-1]), (wide,)]) and all(
            y in graph.steady for y in parameters
        ):
            found.setdefault((x, len(parameters)), []).append(node)
    return [group for group in found.values() if len(group) > 1]


def joined(group: list[Node], done: dict[Node, Node]) -> dict[Node, Node]:
    """What each member becomes: its columns of the one product."""
    b = Builder(group[0].where)
    operands = [[done[x] for x in node.inputs] for node in group]
    parameters = [b(Cat(0), *column) for column in list(zip(*operands, strict=True))[1:]]
    product = b(Linear(), operands[0][0], *parameters)
    ends = list(accumulate(width(node) for node in group))
    dim = len(shape_of(product)) - 1
    return {
        node: Builder(node.where)(Slice(dim, end - width(node), end), product)
        for node, end in zip(group, ends, strict=True)
    }


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type.shape


def width(node: Node) -> int:
    """How many features a linear gives."""
    return shape_of(node)[-1]
