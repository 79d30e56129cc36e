"""Patches: a convolution whose windows do not overlap is a product of patches and the weight.

The windows of such a convolution, with a stride as large as its kernel, are the patches that vision
transformers begin with. cuDNN is slow on them where the channels are few: its fast kernels want 16
bytes of channels. One copy puts every patch into a row, and a linear layer does the rest. Rows and
columns of the image behind the last whole patch are not read.

Declines on padded, dilated, grouped, transposed and unbatched convolutions, where windows overlap
or leave gaps, on kernels of one element, on channels of which cuDNN takes 16 bytes at once, on a
weight whose patches no view shows, on empty tensors, and off the GPU (`fits`). Safe within the
accuracy rule: the same products, summed in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.conv import Convolution
from lazytorch.ops.copies import rerooted
from lazytorch.ops.layout import Permute, Reshape, Slice, view_strides
from lazytorch.ops.linalg import Linear
from lazytorch.types import TensorType

Fits = Callable[[TensorType], bool]


def patches(graph: Graph, fits: Fits) -> Graph:
    """The graph with products for such convolutions; `fits` says of which input."""
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node not in done:
            found = with_inputs(node, [done[x] for x in node.inputs])
            done[node] = product(found) if suits(found, fits) else found
    return rerooted(graph, done)


def suits(node: Node, fits: Fits) -> bool:
    """Whether a node is a convolution of patches that cuDNN is slow on."""
    op = node.op
    if not isinstance(op, Convolution) or op.transposed or op.groups != 1:
        return False
    x, weight = typed(node.inputs[0]), typed(node.inputs[1])
    kernel = weight.shape[2:]
    return (
        x.rank == weight.rank
        and op.stride == kernel
        and not any(op.padding)
        and all(d == 1 for d in op.dilation)
        and prod(kernel) > 1
        and x.numel > 0
        and weight.numel > 0
        and x.shape[1] * x.dtype.itemsize % 16 != 0
        and view_strides(weight.shape, weight.strides, matrix(weight)) is not None
        and fits(x)
    )


def product(node: Node) -> Node:
    """The convolution as a linear layer on patches."""
    b = Builder(node.where)
    x, weight, *bias = node.inputs
    kernel, counts = typed(weight).shape[2:], typed(node).shape[2:]
    for dim, (size, count) in enumerate(zip(kernel, counts, strict=True), 2):
        if typed(x).shape[dim] != size * count:
            x = b(Slice(dim, 0, size * count), x)
    images, channels = typed(x).shape[:2]
    pairs = [n for pair in zip(counts, kernel, strict=True) for n in pair]
    x = b(Reshape((images, channels, *pairs)), x)
    outer, inner = range(2, 2 + len(pairs), 2), range(3, 3 + len(pairs), 2)
    x = b(Permute((0, *outer, 1, *inner)), x)
    x = b(Reshape((images * prod(counts), channels * prod(kernel))), x)
    y = b(Linear(), x, b(Reshape(matrix(typed(weight))), weight), *bias)
    y = b(Reshape((images, *counts, typed(y).shape[1])), y)
    return b(Permute((0, len(counts) + 1, *range(1, len(counts) + 1))), y)


def matrix(weight: TensorType) -> tuple[int, int]:
    """The shape of a weight with a row for every result channel."""
    return weight.shape[0], prod(weight.shape[1:])


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type
