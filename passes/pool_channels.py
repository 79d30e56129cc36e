"""Pool channels: max pools on the CPU read channels last, several channels in one vector.

torch's kernel for row-major images compares one element after the other; that takes longer than
laying the image out anew, pooling that and laying out what is left. Values and indices are the
same, NaN and equal elements included.

Declines on images of few channels, which fill no vector, on those that lie channels last already,
and on pools in 1 or 3 dimensions.
"""

from __future__ import annotations

from lazytorch.ir import Builder, Graph, Item, Node, with_inputs
from lazytorch.ops.conv import channels_last, suggests_channels_last
from lazytorch.ops.copies import Clone
from lazytorch.ops.pool import MaxPool, MaxPoolIndices
from lazytorch.types import TensorType, contiguous_strides

FEWEST = 8
"""Channels from which on it pays: the elements of a vector."""


def pool_channels(graph: Graph) -> Graph:
    """The graph with max pools over channels-last images."""
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        found = with_inputs(node, [done[x] for x in node.inputs])
        b = Builder(node.where)
        pool = node.inputs[0] if isinstance(node.op, Item) else node
        if slow(node):
            (x,) = found.inputs
            assert isinstance(x.type, TensorType)
            found = b(node.op, b(Clone(channels_last(x.type.shape)), x))
        if slow(pool) and isinstance(found.type, TensorType):
            found = b(Clone(contiguous_strides(found.type.shape)), found)
        done[node] = found
    return graph.replace(done)


def slow(node: Node) -> bool:
    """Whether a node is a max pool over row-major images of several channels."""
    if not isinstance(node.op, MaxPool | MaxPoolIndices) or len(node.op.kernel) != 2:
        return False
    x = node.inputs[0].type
    assert isinstance(x, TensorType)
    return (
        x.rank == 4
        and x.device.type == "cpu"
        and x.dtype.is_floating_point
        and x.numel > 0
        and x.shape[1] >= FEWEST
        and not suggests_channels_last(x)
    )
