"""Depthwise: on the CPU convolutions of each channel with a kernel of its own are generated ones.

oneDNN takes 25 microseconds to prepare such a call, which is most of what a small image takes, and
leaves what follows to another call; a kernel of ours computes the activation, the residual and
whatever else is elementwise with it. Its taps lie with the channels innermost, in float32, which
the prologue sees to. Safe within the accuracy rule: the same products, summed in another order.

Declines on weights that change from call to call, on many results (`MOST`), which oneDNN computes
as fast, on double and half precision, and on kernels that are very wide.
"""

from __future__ import annotations

import torch

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.conv import Convolution, channels_last
from lazytorch.ops.copies import Clone, rerooted
from lazytorch.ops.depthwise import DepthwiseConvolution, is_depthwise
from lazytorch.ops.layout import Permute, Reshape
from lazytorch.ops.pointwise import Cast
from lazytorch.types import TensorType, contiguous_strides


def depthwise(graph: Graph) -> Graph:
    """The graph with such convolutions as generated kernels compute them."""
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node not in done:
            found = with_inputs(node, [done[x] for x in node.inputs])
            steady = all(x in graph.steady for x in node.inputs[1:])
            done[node] = generated(found) if steady and is_depthwise(found) else found
    return rerooted(graph, done)


def generated(node: Node) -> Node:
    """A convolution on its taps."""
    op, b = node.op, Builder(node.where)
    assert isinstance(op, Convolution)
    x, weight, *bias = node.inputs
    assert isinstance(x.type, TensorType) and isinstance(weight.type, TensorType)
    if x.type.strides != channels_last(x.type.shape):
        x = b(Clone(channels_last(x.type.shape)), x)
    channels, _, *kernel = weight.type.shape
    taps = b(Permute((1, 2, 0)), b(Reshape((channels, *kernel)), weight))
    assert isinstance(taps.type, TensorType)
    taps = wide(b, b(Clone(contiguous_strides(taps.type.shape)), taps))
    sizes = (op.stride, op.padding, op.dilation)
    return b(DepthwiseConvolution(*sizes), x, taps, *[wide(b, y) for y in bias])


def wide(b: Builder, x: Node) -> Node:
    """A value in float32."""
    assert isinstance(x.type, TensorType)
    return x if x.type.dtype is torch.float32 else b(Cast(torch.float32), x)
