"""Pool offsets: the derivative of a max pool keeps a byte for each result instead of eight.

torch's derivative reads the index of each largest element in its image, in 64 bits. Which element
of its window that is fits in a byte; a kernel finds it with the result, and the indices follow from
it when the backward gets there: they wait for the cotangent. That is a step more, so it is done
where a budget asks for less.

Declines where nothing is chosen, where indices are read by anything else than derivatives of
pools, on pools whose windows no generated kernel reads, and where the indices would lie otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lazytorch.ir import Builder, Graph, Item, Node, with_inputs
from lazytorch.ops.after import After
from lazytorch.ops.aten import Aten
from lazytorch.ops.create import Arange
from lazytorch.ops.layout import Reshape
from lazytorch.ops.pointwise import Add, Cast, FloorDivide, Mul, Sub
from lazytorch.ops.pool import MaxPool, MaxPoolIndices, MaxPoolOffsets
from lazytorch.types import TensorType

BACKWARD = "aten.max_pool2d_with_indices_backward.default"


def pool_offsets(
    graph: Graph, fits: Callable[[TensorType], bool], choose: Callable[[Graph], Sequence[object]]
) -> Graph:
    """The graph in which pools of images that `fits` takes keep offsets, if anything is chosen."""
    pools = {x for x in graph.nodes if isinstance(x.op, MaxPoolIndices) and keeps(graph, x, fits)}
    if not pools or not choose(graph):
        return graph
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        pool = node.inputs[0] if isinstance(node.op, Item) else None
        if pool in pools and isinstance(node.op, Item):
            assert pool is not None
            (x,) = pool.inputs
            done[node] = kept(pool, done[x]) if node.op.index else values(pool, done[x])
            continue
        operands = [done[x] for x in node.inputs]
        for i, x in enumerate(node.inputs):
            if isinstance(x.op, Item) and x.op.index and x.inputs[0] in pools:
                operands[i] = indices(x.inputs[0], operands[i], operands[0])
        done[node] = node if node in pools else with_inputs(node, operands)
    return graph.replace(done)


def keeps(graph: Graph, pool: Node, fits: Callable[[TensorType], bool]) -> bool:
    """Whether a pool's indices can be found from offsets, and derivatives alone read them."""
    (x,) = pool.inputs
    items = [y for y in graph.users[pool] if isinstance(y.op, Item) and y.op.index]
    assert isinstance(x.type, TensorType)
    if not items or not fits(x.type) or not offsets(pool).readable(x.type):
        return False
    if any(y in graph.outputs for y in items):
        return False
    readers = [z for y in items for z in graph.users[y]]
    if not all(isinstance(z.op, Aten) and z.op.overload == BACKWARD for z in readers):
        return False
    found = [indices(pool, kept(pool, x), z.inputs[0]) for z in readers]
    return bool(readers) and all(y.type == items[0].type for y in found)


def offsets(pool: Node) -> MaxPoolOffsets:
    """The operation that finds a pool's offsets."""
    return MaxPoolOffsets(**dict(pool.op.attributes()))


def values(pool: Node, x: Node) -> Node:
    """The pool's results."""
    return Builder(pool.where)(MaxPool(**dict(pool.op.attributes())), x)


def kept(pool: Node, x: Node) -> Node:
    """The offsets, in a byte each."""
    b = Builder(pool.where)
    return b(Cast(torch.uint8), b(offsets(pool), x))


def indices(pool: Node, found: Node, cotangent: Node) -> Node:
    """The indices in the image, once a cotangent is there."""
    op, b = pool.op, Builder(pool.where)
    assert isinstance(op, MaxPoolIndices) and isinstance(found.type, TensorType)
    image = pool.inputs[0].type
    assert isinstance(image, TensorType)
    at = b(Cast(torch.int32), b(After(), found, cotangent))
    row = b(FloorDivide(), at, op.kernel[1])
    inside = (row, b(Sub(), at, b(Mul(), row, op.kernel[1])))
    places: list[Node] = []
    for d, (offset, shape) in enumerate(zip(inside, ((-1, 1), (-1,)), strict=True)):
        size, step, begin = found.type.shape[d - 2], op.stride[d], -op.padding[d]
        line = b(Arange(begin, begin + size * step, step, torch.int32, image.device))
        line = b(Reshape(tuple([size if n < 0 else n for n in shape])), line)
        places.append(b(Add(), b(Mul(), offset, op.dilation[d]), line))
    index = b(Add(), b(Mul(), places[0], image.shape[-1]), places[1])
    return b(Cast(torch.int64), index)
