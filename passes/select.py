"""Select: torch's best kernel for an operation on this device.

On the CPU, oneDNN and MKL lay a weight out anew at every call; on a weight that is packed once, in
the prologue, they are faster. That takes a copy of the weight, so `budget` says how many bytes the
copies may take (None: any). Where it does not suffice for all, spatial convolutions go first, then
whatever uses each weight most often.

A convolution whose weight stays as it is runs on channels-last activations, or on row-major ones
where the weight is the larger of the two: reordering the weight then costs most, and that is
cheapest from row-major to row-major. A kernel of size 1 is a matrix product in either layout, which
leaves its weight alone. Outputs are brought back to the strides that eager gives. Linear layers in
float32 on weights as they are go to oneDNN where its products are the faster (`cpu.products`). So
do a training step's, whose weights change, and what flows back to their inputs, unless they are
small; not what flows to weights, a product whose left operand is transposed, which MKL does faster.

Where any bytes may be copied, convolutions that a generated kernel computes better stay as they
are, for `own_convolutions`.

Declines to pack where the weight changes from call to call (it would be at each), for transposed
and 1-d convolutions, for linear layers that are small, of a vector, or of one row in float32, for
empty inputs, for dtypes that the libraries do not pack here, and before batch norm in training
mode, whose statistics torch sums less accurately over channels-last activations. Safe within the
accuracy rule: the same products, summed in another order.
"""

from __future__ import annotations

from math import prod

import torch

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.conv import Convolution, channels_last
from lazytorch.ops.copies import Clone, rerooted
from lazytorch.ops.depthwise import is_depthwise
from lazytorch.ops.layout import Expand, Permute, Reshape, Slice, transposed
from lazytorch.ops.library import (
    Libraries,
    Library,
    OneDnnLinear,
    PackedConvolution,
    PackedLinear,
    PackedLinearWeight,
    PackedWeight,
)
from lazytorch.ops.linalg import Addmm, Baddbmm, Bmm, Linear, Mm
from lazytorch.ops.norm import BatchNormTrain
from lazytorch.ops.pixel_products import is_of_pixels
from lazytorch.types import OpaqueType, TensorType, contiguous_strides

SMALLEST = 2**16
"""Elements of a linear layer's weight from which packing pays: smaller ones stay in the cache, and
MKL sets 7.5 MiB of address space aside for each."""

FEWEST = 2**23
"""Multiplications from which oneDNN's product on a weight that changes makes up for its call, which
takes some 15 microseconds longer than MKL's."""


def select(graph: Graph, cpu: Libraries, budget: int | None = None) -> Graph:
    """The graph on the libraries that are here, with at most `budget` bytes of packed weights."""
    granted = grants(graph, cpu, budget)
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        found = with_inputs(node, [done[x] for x in node.inputs])
        if node in granted:
            found = packed(found, cpu)
        elif convolves(node, graph, cpu) and not (budget is None and own(node)):
            found = unpacked(found, cpu)
        elif cpu.products == "onednn" and (
            (multiplies(node, graph, cpu) and is_float32(node)) or large(node)
        ):
            x, weight, bias = linear_operands(found)
            if apart(typed(weight)):
                found = Builder(node.where)(OneDnnLinear(), x, weight, *bias)
        done[node] = found
    return rerooted(graph, done)


def grants(graph: Graph, cpu: Libraries, budget: int | None) -> set[Node]:
    """The operations that get a packed weight: the most useful ones that `budget` allows."""
    found = [x for x in graph.nodes if convolves(x, graph, cpu) or multiplies(x, graph, cpu)]
    if budget is None:
        return {x for x in found if not own(x)}
    left = budget - sum(map(nbytes, graph.nodes))
    granted: set[Node] = set()
    for node in sorted(found, key=usefulness, reverse=True):
        if (size := nbytes(packing(node, cpu))) <= left:
            granted.add(node)
            left -= size
    return granted


def usefulness(node: Node) -> tuple[bool, int]:
    """What a packed byte saves: more in a spatial kernel, more if it is used more often."""
    if not isinstance(node.op, Convolution):
        return False, rows(linear_operands(node)[0])
    weight = typed(node.inputs[1])
    return prod(weight.shape[2:]) > 1, typed(node).numel // weight.shape[0]


def convolves(node: Node, graph: Graph, cpu: Libraries) -> bool:
    """Whether a node is a convolution that oneDNN could do on a packed weight."""
    if not isinstance(node.op, Convolution) or node.op.transposed:
        return False
    x, weight = typed(node.inputs[0]), typed(node.inputs[1])
    return (
        x.rank == weight.rank == 4
        and x.numel > 0
        and x.device.type == "cpu"
        and x.dtype in cpu.onednn
        and all(y in graph.steady for y in node.inputs[1:])
        and not any(isinstance(user.op, BatchNormTrain) for user in graph.users[node])
    )


def own(node: Node) -> bool:
    """Whether a generated kernel does better at a convolution than oneDNN."""
    return is_depthwise(node) or is_of_pixels(node)


def multiplies(node: Node, graph: Graph, cpu: Libraries) -> bool:
    """Whether a node is a linear layer that could run on a packed weight.

    One row reads the weight once: in float32 it takes as long if that is packed, in 16 bits 1.2
    times as long if it is not.
    """
    if isinstance(node.op, Mm) or not is_linear(node):
        return False
    x, weight, _ = linear_operands(node)
    image = typed(x)
    return (
        typed(weight).numel >= SMALLEST
        and image.rank > 1
        and image.numel >= image.shape[-1] * (1 if image.dtype.itemsize == 2 else 2) > 0
        and image.device.type == "cpu"
        and library(image.dtype, cpu) is not None
        and all(y in graph.steady for y in node.inputs if y is not x)
    )


def large(node: Node) -> bool:
    """Whether oneDNN's product is the faster even if it is given a weight that changes."""
    if not is_linear(node) or not is_float32(node) or typed(node).device.type != "cpu":
        return False
    x, weight, _ = linear_operands(node)
    kernel = typed(weight)
    if kernel.numel < SMALLEST or not typed(x).is_contiguous:
        return False
    return rows(x) > 1 and kernel.is_dense and typed(x).numel * kernel.shape[0] >= FEWEST


def is_linear(node: Node) -> bool:
    """Whether a node is a product with a matrix, plus a bias for each column if any."""
    match node.op:
        case Mm():
            return True
        case Linear():
            _, weight, *bias = node.inputs
            out = typed(weight).shape[:1]
        case Addmm(beta=1, alpha=1):
            bias, weight = [node.inputs[0]], node.inputs[2]
            out = typed(weight).shape[1:]
        case _:
            return False
    return typed(weight).rank == 2 and all(typed(y).shape == out for y in bias)


def library(dtype: torch.dtype, cpu: Libraries) -> Library | None:
    """Which library does products of this dtype on packed weights."""
    if dtype is torch.float32 and cpu.products == "mkl":
        return "mkl" if cpu.mkl else None
    return "onednn" if dtype in cpu.onednn else None


def packing(node: Node, cpu: Libraries) -> Node:
    """The packed weight of an operation, which the prologue computes."""
    op, b = node.op, Builder(node.where)
    if isinstance(op, Convolution):
        return b(PackedWeight(op, typed(node.inputs[0]).shape, cpu.threads), node.inputs[1])
    x, weight, _ = linear_operands(node)
    chosen = library(typed(x).dtype, cpu)
    assert chosen is not None
    return b(PackedLinearWeight(chosen, rows(x), cpu.threads), weight)


def packed(node: Node, cpu: Libraries) -> Node:
    """The operation on a packed weight."""
    op, b, pack = node.op, Builder(node.where), packing(node, cpu)
    if isinstance(op, Convolution):
        x, weight, *bias = node.inputs
        shape = typed(weight).shape
        convolution = PackedConvolution(op.stride, op.padding, op.dilation, op.groups, shape)
        return b(convolution, x, pack, *bias)
    assert isinstance(pack.op, PackedLinearWeight)
    x, _, bias = linear_operands(node)
    return b(PackedLinear(pack.op.library, rows(x)), x, pack, pack.inputs[0], *bias)


def linear_operands(node: Node) -> tuple[Node, Node, list[Node]]:
    """Input, weight (out, in) and, if there is one, bias of a linear layer."""
    if isinstance(node.op, Addmm | Mm):
        *base, x, right = node.inputs
        return x, transposed(right), base
    x, weight, *bias = node.inputs
    return x, weight, bias


def apart(matrix: TensorType) -> bool:
    """Whether no two rows or columns share memory, but for repeats: oneDNN takes no others."""
    (m, n), (far, near) = matrix.shape, matrix.strides
    return not far or not near or far > (n - 1) * near or near > (m - 1) * far


def rows(x: Node) -> int:
    """How many rows a linear layer's input has in all."""
    return typed(x).numel // typed(x).shape[-1]


def nbytes(node: Node) -> int:
    """Bytes of a packed weight; nothing else counts."""
    return node.type.nbytes if isinstance(node.type, OpaqueType) else 0


def unpacked(node: Node, cpu: Libraries) -> Node:
    """The convolution on its weight as it is."""
    op, b = node.op, Builder(node.where)
    assert isinstance(op, Convolution)
    x, weight, *bias = node.inputs
    image, kernel = typed(x), typed(weight)
    row_major = kernel.is_contiguous and kernel.numel > image.numel
    product = (
        kernel.shape[2:] == (1, 1)
        and op.padding == (0, 0)
        and op.groups == 1
        and cpu.mkl
        and image.dtype is torch.float32
    )
    if product and op.stride != (1, 1):
        for i, step in enumerate(op.stride):
            x = b(Slice(2 + i, 0, image.shape[2 + i], step), x)
        image = typed(x)
    if not (image.is_contiguous if row_major else innermost(image)):
        wanted = contiguous_strides if row_major else channels_last
        x = b(Clone(wanted(image.shape)), x)
    if not product:
        return node if x is node.inputs[0] else b(op, x, weight, *bias)
    out, into = kernel.shape[:2]
    n, _, height, width = image.shape
    matrix = b(Reshape((out, into)), weight)
    if not row_major:
        onednn = cpu.products == "onednn" and apart(typed(matrix))
        linear = OneDnnLinear() if onednn else Linear()
        product = b(linear, b(Permute((0, 2, 3, 1)), x), matrix, *bias)
        return b(Permute((0, 3, 1, 2)), product)
    left, right = b(Expand((n, out, into)), matrix), b(Reshape((n, into, height * width)), x)
    if bias:
        base = b(Expand((n, out, height * width)), b(Reshape((out, 1)), *bias))
        product = b(Baddbmm(), base, left, right)
    else:
        product = b(Bmm(), left, right)
    return b(Reshape((n, out, height, width)), product)


def innermost(image: TensorType) -> bool:
    """Whether the channels are innermost in memory, without holes."""
    n, c, h, w = image.strides
    return TensorType(
        tuple(image.shape[i] for i in (0, 2, 3, 1)), image.dtype, image.device, (n, h, w, c)
    ).is_contiguous


def is_float32(node: Node) -> bool:
    """Whether a value is in float32."""
    return typed(node).dtype is torch.float32


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type
