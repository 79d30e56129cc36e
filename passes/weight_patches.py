"""Weight patches: a large weight's gradient, on a small image, is a product of patches.

The gradient of a convolution's weight sums, over every place of the result, the cotangent there
times the patch of the image that was read for it. oneDNN computes it in a layout of its own and
then lays it out anew; where the weight is far larger than the image, that takes longer than the
arithmetic. A product with the patches, a column for each place, leaves the gradient as it belongs.

Declines on weights of less than `FEWEST` elements or `TIMES` image and result, for which patches
take longer to make than they save, on kernels of size 1, on dilated, grouped and transposed
convolutions, on weights that are not row-major, on empty tensors, in other dtypes than float32 and
elsewhere than on the CPU. Safe within the accuracy rule: the same products, summed
in another order. Padding is multiplied, as by some of oneDNN's kernels: a cotangent that is not
finite makes NaN there too.
"""

from __future__ import annotations

from math import prod

import torch

from lazytorch.ir import Builder, Graph, Item, Node, with_inputs
from lazytorch.ops.aten import Aten
from lazytorch.ops.copies import Clone, Pad, rerooted
from lazytorch.ops.layout import Permute, Reshape
from lazytorch.ops.linalg import Mm
from lazytorch.ops.windows import Unfold
from lazytorch.types import TensorType, TupleType, contiguous_strides

BACKWARD = "aten.convolution_backward.default"
"""Operands: the cotangent, the input, the weight; results: the cotangents of input and weight, and
the bias's. The last argument says which of them are wanted."""

FEWEST = 2**20
"""Elements of a weight that is laid out anew from memory: smaller ones stay in a cache."""

TIMES = 16
"""How many times as large as image and result a weight is whose layout costs most of the call."""


def weight_patches(graph: Graph) -> Graph:
    """The graph with products for the gradients of such weights."""
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        operands = [done[x] for x in node.inputs]
        match node:
            case Node(op=Item(index=1), inputs=(made,)) if suits(made):
                g, x, weight = [done[y] for y in made.inputs]
                found = product(made, g, x, weight)
            case Node(op=Aten() as op) if suits(node):
                first, _, last = op.args[10]  # type: ignore[misc]  # the mask, a tuple of three
                rest = Aten(op.overload, (*op.args[:10], (first, False, last)), op.kwargs)
                found = Builder(node.where)(rest, *operands)
            case _:
                found = with_inputs(node, operands)
        done[node] = found
    return rerooted(graph, done)


def suits(node: Node) -> bool:
    """Whether a node is a convolution's derivative whose weight is the large part of it."""
    op = node.op
    if not isinstance(op, Aten) or op.overload != BACKWARD or len(node.inputs) != 3:
        return False
    g, x, weight = [y.type for y in node.inputs]
    made = node.type.items[1] if isinstance(node.type, TupleType) else None
    _, _, dilation, transposed, _, groups, mask = op.args[4:11]
    return (
        isinstance(g, TensorType)
        and isinstance(x, TensorType)
        and isinstance(weight, TensorType)
        and isinstance(made, TensorType)
        and mask[1] is True  # type: ignore[index]
        and transposed is False
        and groups == 1
        and set(dilation) == {1}  # type: ignore[arg-type]
        and x.device.type == "cpu"
        and all(y.dtype is torch.float32 for y in (g, x, weight))
        and x.rank == g.rank == weight.rank == 4
        and made.is_contiguous
        and prod(weight.shape[2:]) > 1
        and places(g) > 0
        and weight.numel >= FEWEST
        and weight.numel >= TIMES * max(x.numel, g.numel)
    )


def places(g: TensorType) -> int:
    """Elements of one channel, those of all images together."""
    return g.shape[0] * prod(g.shape[2:])


def product(node: Node, g: Node, x: Node, weight: Node) -> Node:
    """The weight's gradient from the cotangent and the image."""
    op, b = node.op, Builder(node.where)
    assert isinstance(op, Aten) and isinstance(g.type, TensorType)
    assert isinstance(x.type, TensorType) and isinstance(weight.type, TensorType)
    stride, padding = [both(y) for y in op.args[4:6]]
    out, into, *kernel = weight.type.shape
    sizes = x.type.shape
    x = b(Permute((1, 2, 3, 0)), x)  # images innermost: what is copied lies in runs
    x = b(Clone(contiguous_strides((*sizes[1:], sizes[0]))), x)
    if any(padding):
        x = b(Pad((0, 0, padding[1], padding[1], padding[0], padding[0])), x)
    for dim in (0, 1):
        x = b(Unfold(1 + dim, kernel[dim], stride[dim]), x)
    count = places(g.type)
    patches = b(Reshape((into * prod(kernel), count)), b(Permute((0, 4, 5, 1, 2, 3)), x))
    columns = b(Reshape((out, count)), b(Permute((1, 2, 3, 0)), g))
    return b(Reshape(weight.type.shape), b(Mm(), columns, b(Permute((1, 0)), patches)))


def both(sizes: object) -> tuple[int, int]:
    """A size for each of two dimensions, which may be given once."""
    assert isinstance(sizes, tuple)
    first, *rest = sizes
    return first, rest[0] if rest else first
