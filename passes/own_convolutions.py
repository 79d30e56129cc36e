"""Own convolutions: on the CPU those of each channel, and of single pixels, are generated kernels.

oneDNN takes 25 microseconds to prepare such a call, which is most of what a small image takes, and
leaves what follows to another call; a kernel of ours computes the activation, the residual and
whatever else is elementwise with it. Taps lie with the channels innermost, in float32, weights of
pixels in vectors of 16 channels, which the prologue sees to. Safe within the accuracy rule: the
same products, summed in another order.

Declines on weights that change from call to call, on many results or products (`MOST`), which
oneDNN computes as fast, on types that there is no kernel for, on kernels that are very wide, and
before batch norm in training mode, as `select` does.
"""

from __future__ import annotations

import torch

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.conv import Convolution, channels_last
from lazytorch.ops.copies import Clone, Pad, rerooted
from lazytorch.ops.depthwise import DepthwiseConvolution, is_depthwise
from lazytorch.ops.layout import Permute, Reshape
from lazytorch.ops.norm import BatchNormTrain
from lazytorch.ops.pixel_products import LANES, PixelProducts, is_of_pixels
from lazytorch.ops.pointwise import Cast
from lazytorch.types import TensorType, contiguous_strides


def own_convolutions(graph: Graph) -> Graph:
    """The graph with such convolutions as generated kernels compute them."""
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        found = with_inputs(node, [done[x] for x in node.inputs])
        steady = all(x in graph.steady for x in node.inputs[1:])
        if steady and not any(isinstance(x.op, BatchNormTrain) for x in graph.users[node]):
            if is_depthwise(found):
                found = of_channels(found)
            elif is_of_pixels(found):
                found = of_pixels(found)
        done[node] = found
    return rerooted(graph, done)


def of_channels(node: Node) -> Node:
    """A convolution of each channel on its taps."""
    op, b = node.op, Builder(node.where)
    assert isinstance(op, Convolution)
    x, weight, *bias = node.inputs
    channels, _, *kernel = typed(weight).shape
    taps = b(Permute((1, 2, 0)), b(Reshape((channels, *kernel)), weight))
    taps = wide(b, b(Clone(contiguous_strides(typed(taps).shape)), taps))
    sizes = (op.stride, op.padding, op.dilation)
    return b(DepthwiseConvolution(*sizes), last(b, x), taps, *[wide(b, y) for y in bias])


def of_pixels(node: Node) -> Node:
    """A convolution of single pixels on its packed weight."""
    b = Builder(node.where)
    x, weight, *bias = node.inputs
    out, into, *_ = typed(weight).shape
    vectors = -(-out // LANES)
    matrix = padded(b, b(Reshape((out, into)), weight))
    packed = b(Permute((0, 2, 1)), b(Reshape((vectors, LANES, into)), matrix))
    packed = b(Clone(contiguous_strides(typed(packed).shape)), packed)
    return b(PixelProducts(out), last(b, x), packed, *[padded(b, y) for y in bias])


def last(b: Builder, x: Node) -> Node:
    """An image channels last."""
    strides = channels_last(typed(x).shape)
    return x if typed(x).strides == strides else b(Clone(strides), x)


def padded(b: Builder, x: Node) -> Node:
    """A weight or a bias with zeros behind, to whole vectors of channels."""
    size, *rest = typed(x).shape
    more = -size % LANES
    return b(Pad((0, 0) * len(rest) + (0, more)), x) if more else x


def wide(b: Builder, x: Node) -> Node:
    """A value in float32."""
    return x if typed(x).dtype is torch.float32 else b(Cast(torch.float32), x)


def typed(x: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(x.type, TensorType)
    return x.type
