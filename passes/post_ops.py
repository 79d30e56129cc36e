"""Post-ops: oneDNN does what follows a convolution on a packed weight in the same call.

An activation, or the sum with another value, such as a residual. The convolution's result is then
not written to memory and read again, and where nothing reads the other value afterwards, the sum is
written over it. A sum of two convolutions goes into the later one.

Only what oneDNN does as torch does, NaN and infinities included: its relu and its hardsigmoid lose
NaN, its exact gelu makes NaN of infinity. Declines where something else reads the convolution, and
where the sum is not of two values of one type. Safe within the accuracy rule: the same arithmetic,
in 16-bit types rounded once instead of twice.
"""

from __future__ import annotations

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.activation import Hardswish, Silu
from lazytorch.ops.elementary import Sigmoid
from lazytorch.ops.library import Activation, PackedConvolution, PackedConvolutionAdd
from lazytorch.ops.pointwise import Add

ACTIVATIONS: dict[type, Activation] = {Hardswish: "hardswish", Silu: "swish", Sigmoid: "sigmoid"}


def post_ops(graph: Graph) -> Graph:
    """The graph with activations and sums in the convolutions before them."""
    whole = absorbed(graph)
    inside = set(whole.values())
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done or node in inside:
            continue
        source = whole.get(node)
        if source is None:
            done[node] = with_inputs(node, [done[x] for x in node.inputs])
            continue
        other = [done[x] for x in node.inputs if x is not source]
        done[node] = joined(node, source.op, [done[x] for x in source.inputs], other)
    return graph.replace(done)


def absorbed(graph: Graph) -> dict[Node, Node]:
    """For each operation that a convolution can do behind itself: the convolution."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    roots = {*graph.outputs, *graph.effects}
    found: dict[Node, Node] = {}
    for node in graph.nodes:
        if type(node.op) not in ACTIVATIONS and not isinstance(node.op, Add):
            continue
        if any(x.type != node.type for x in node.inputs):
            continue
        sources = [
            x
            for x in dict.fromkeys(node.inputs)
            if isinstance(x.op, PackedConvolution)
            and x.op.activation == "none"
            and graph.users[x] == [node]
            and x not in roots
        ]
        if sources:
            found[node] = max(sources, key=lambda x: position[x])
    return found


def joined(node: Node, convolution: object, operands: list[Node], other: list[Node]) -> Node:
    """The one call for a convolution and the activation or the sum `node` behind it."""
    assert isinstance(convolution, PackedConvolution)
    b, c = Builder(node.where), convolution
    if not other:
        return b(c.with_attributes(activation=ACTIVATIONS[type(node.op)]), *operands)
    x, weight, *bias = operands
    call = PackedConvolutionAdd(c.stride, c.padding, c.dilation, c.groups, c.kernel)
    return b(call, x, weight, *other, *bias)
