"""Transient weights: copies for which there is no room are made at every call, right before use.

Folding a norm into a weight and laying it out for a library writes the weight once more. Kept for
all calls, such copies take as much memory as the weights; made when they are read, as much as one
weight. One generated kernel makes them from what the caller holds, and moves less than a norm of
its own behind a convolution, or cuDNN's copies of images that lie otherwise. The smallest copies
are kept, as far as there is `room`.

Declines on copies that are not made of one weight element by element, and on vectors and what is
smaller than the weight, such as a norm's scale: the prologue has these. Exact: the same arithmetic,
at another time.
"""

from __future__ import annotations

from lazytorch.ir import Builder, Graph, Input, Node, with_inputs
from lazytorch.ops.after import After
from lazytorch.ops.base import Pointwise
from lazytorch.ops.copies import Clone
from lazytorch.peak import computed, size
from lazytorch.types import TensorType


def transient_weights(graph: Graph, room: int) -> Graph:
    """The graph that keeps at most `room` bytes of copies of weights."""
    steady = graph.steady
    readers: dict[Node, int] = {}
    for node in graph.nodes:
        if node not in steady:
            for x in dict.fromkeys(node.inputs):
                if computed(x, steady) and copied(x):
                    readers[x] = readers.get(x, 0) + 1
    made = not_kept(readers, room)
    if not made:
        return graph
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        inputs = [done[x] for x in node.inputs]
        if node not in steady and not made.isdisjoint(node.inputs):
            first = next(done[x] for x in node.inputs if x not in steady)
            inputs = [remade(x, numel(x), first) if x in made else done[x] for x in node.inputs]
        done[node] = with_inputs(node, inputs)
    return graph.replace(done)


def not_kept(readers: dict[Node, int], room: int) -> set[Node]:
    """The copies that are made at every call, by how many read each: the others cost the fewest
    bytes for each time that they would be made, and fit."""
    found: set[Node] = set()
    for x in sorted(readers, key=lambda x: size(x) / readers[x]):
        room -= size(x)
        if room < 0:
            found.add(x)
    return found


def copied(x: Node) -> bool:
    """Whether a value is made element by element of an input as large that is no vector."""
    count = numel(x)
    while count and not isinstance(x.op, Input):
        large = [y for y in x.inputs if numel(y) == count]
        if len(large) != 1 or not (isinstance(x.op, Pointwise | Clone) or x.op.view):
            return False
        (x,) = large
    return count > 0 and isinstance(x.type, TensorType) and x.type.rank > 1


def remade(x: Node, count: int, first: Node) -> Node:
    """A copy made when `first` is there; what has fewer than `count` elements stays as it is."""
    if numel(x) < count:
        return x
    if isinstance(x.op, Input):
        return Builder(x.where)(After(), x, first)
    return with_inputs(x, [remade(y, count, first) for y in x.inputs])


def numel(x: Node) -> int:
    """How many elements a value has; 0 where it is no tensor."""
    return x.type.numel if isinstance(x.type, TensorType) else 0
