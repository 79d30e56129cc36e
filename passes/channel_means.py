"""Channel means: on the CPU one mean for each channel, where channels lie last, is a kernel's.

torch goes over the image once for each dimension, or makes float32 of 16 bits first; a generated
kernel adds up rows of channels that lie beside each other. The same arithmetic, summed in another
order.

Declines on pools to more than one mean, on images that lie otherwise or are small, and on types
that torch is as fast at.
"""

from __future__ import annotations

from lazytorch.ir import Builder, Graph, Node
from lazytorch.ops.conv import channels_last
from lazytorch.ops.generated import obstacle
from lazytorch.ops.layout import Permute, Reshape
from lazytorch.ops.pool import AdaptiveAvgPool
from lazytorch.ops.reduce import Mean
from lazytorch.types import TensorType

FEWEST = {2: 1 << 14, 4: 1 << 17}
"""Elements, by their bytes, from which on it pays."""


def channel_means(graph: Graph) -> Graph:
    """The graph with such pools as means of rows."""
    return graph.map(averaged)


def averaged(node: Node) -> Node:
    """A pool as means of rows; the node itself where it is none."""
    if not isinstance(node.op, AdaptiveAvgPool) or any(size != 1 for size in node.op.size):
        return node
    (x,) = node.inputs
    assert isinstance(x.type, TensorType)
    if x.type.rank != 4 or x.type.device.type != "cpu":
        return node
    few = x.type.numel < FEWEST.get(x.type.dtype.itemsize, x.type.numel + 1)
    if few or x.type.strides != channels_last(x.type.shape):
        return node
    b, (count, channels, height, width) = Builder(node.where), x.type.shape
    means = b(Mean((2,), True), b(Reshape((count, channels, height * width)), x))
    if obstacle(means):
        return node
    found = b(Permute((0, 3, 1, 2)), b(Reshape((count, 1, 1, channels)), means))
    return found if found.type == node.type else node
