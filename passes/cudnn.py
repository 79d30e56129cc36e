"""cuDNN: 2-d convolutions on a GPU, channels last, with bias, residual and relu in one call.

relu(convolution + bias) and relu(convolution + bias + residual) become one call each, where
nothing else reads what lies between. Another convolution runs without its bias, which becomes an
addition that fuses with whatever activation follows. Weights are laid out channels last once, in
the prologue; activations stay channels last up to the outputs, which get eager's strides.

Declines on transposed, grouped, 1-d and 3-d convolutions, on weights that change from call to
call, on empty tensors, and where tensor cores are not used (`fits`): nothing is gained there. Safe
within the accuracy rule: the sum is rounded once instead of after every step.
"""

from __future__ import annotations

from collections.abc import Callable

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.activation import Relu
from lazytorch.ops.conv import Convolution, channels_last
from lazytorch.ops.copies import Clone, rerooted
from lazytorch.ops.create import Full
from lazytorch.ops.cudnn import CudnnConvolution, CudnnConvolutionRelu
from lazytorch.ops.layout import Reshape
from lazytorch.ops.pointwise import Add
from lazytorch.types import Strides, TensorType

Fits = Callable[[TensorType], bool]


def cudnn(graph: Graph, fits: Fits) -> Graph:
    """The graph on cuDNN's convolutions; `fits` says of which input a convolution gains by it."""
    whole = absorbed(graph, fits)
    inside = {x for found in whole.values() for x in found[:-1]}
    biased: dict[Node, tuple[Node, Node]] = {}
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done or node in inside:
            continue
        if node in whole:
            done[node] = fused(node, whole[node], done, biased)
            continue
        found = with_inputs(node, [done[x] for x in node.inputs])
        done[node] = plain(found, biased) if suits(node, graph, fits) else found
    return rerooted(graph, done)


def absorbed(graph: Graph, fits: Fits) -> dict[Node, tuple[Node, ...]]:
    """For each relu that a convolution can do: the convolution, the addition if any, the relu."""
    found: dict[Node, tuple[Node, ...]] = {}
    taken: set[Node] = set()
    roots = {*graph.outputs, *graph.effects}

    def alone(x: Node) -> bool:
        return len(graph.users[x]) == 1 and x not in roots and x not in taken

    for node in graph.nodes:
        if not isinstance(node.op, Relu) or not alone(node.inputs[0]):
            continue
        below = node.inputs[0]
        if suits(below, graph, fits):
            found[node] = (below, node)
        elif isinstance(below.op, Add) and below.inputs[0].type == below.inputs[1].type:
            source = next((x for x in below.inputs if suits(x, graph, fits) and alone(x)), None)
            if source is not None and below.type == source.type:
                found[node] = (source, below, node)
        taken.update(found.get(node, ()))
    return found


def suits(node: Node, graph: Graph, fits: Fits) -> bool:
    """Whether a node is a convolution for cuDNN."""
    op = node.op
    if not isinstance(op, Convolution) or op.transposed or op.groups != 1:
        return False
    x, weight = node.inputs[0].type, node.inputs[1].type
    return (
        isinstance(x, TensorType)
        and isinstance(weight, TensorType)
        and x.rank == weight.rank == 4
        and x.numel > 0
        and weight.numel > 0
        and fits(x)
        and all(y in graph.steady for y in node.inputs[1:])
    )


def plain(node: Node, biased: dict[Node, tuple[Node, Node]]) -> Node:
    """The convolution without its bias, and the addition of the bias, which `biased` remembers."""
    op = node.op
    assert isinstance(op, Convolution) and isinstance(node.type, TensorType)
    b = Builder(node.where)
    x, weight, *bias = node.inputs
    y = b(CudnnConvolution(op.stride, op.padding, op.dilation), x, laid_out(b, weight))
    if not bias:
        return y
    total = b(Add(), y, b(Reshape((1, node.type.shape[1], 1, 1)), bias[0]))
    biased[total] = (y, bias[0])
    return total


def fused(
    node: Node,
    found: tuple[Node, ...],
    done: dict[Node, Node],
    biased: dict[Node, tuple[Node, Node]],
) -> Node:
    """The one call for a convolution, what may be added to it, and the relu `node`."""
    source = found[0]
    op, typed = source.op, source.type
    assert isinstance(op, Convolution) and isinstance(typed, TensorType)
    b = Builder(node.where)
    x, weight, *bias = [done[y] for y in source.inputs]
    if not bias:
        bias = [b(Full((typed.shape[1],), 0, typed.dtype, typed.device))]
    rest = [done[y] for y in found[1].inputs if y is not source] if len(found) == 3 else []
    if rest and rest[0] in biased:  # a convolution too: one call adds both biases
        product, other = biased[rest[0]]
        bias = [b(Add(), bias[0], other)]
        rest = [product]
    call = CudnnConvolutionRelu(op.stride, op.padding, op.dilation)
    return b(call, x, laid_out(b, weight), *bias, *rest)


def laid_out(b: Builder, weight: Node) -> Node:
    """The weight channels last."""
    assert isinstance(weight.type, TensorType)
    wanted: Strides = channels_last(weight.type.shape)
    return weight if weight.type.strides == wanted else b(Clone(wanted), weight)
