"""Channels last: 2-d convolutions and their derivatives on a GPU where weights change.

cuDNN's kernels for tensor cores read channels innermost; given other tensors they are wrapped in
transposes, and torch's batch norm is slower on these by a factor. Inputs and weights of
convolutions are laid out so; what follows takes its layout from there. Gradients of weights come
back in the layout of the weights. A derivative copies what the caller holds once more: kept from
the forward, copies of all weights would be alive at the peak.

Declines on transposed, 1-d and 3-d convolutions, on weights that stay (`cudnn` has those), on empty
tensors, and where tensor cores are not used (`fits`). Safe within the accuracy rule: the same sums,
in another order.
"""

from __future__ import annotations

from collections.abc import Callable

from lazytorch.ir import Builder, Graph, Input, Item, Node, with_inputs
from lazytorch.ops.after import After
from lazytorch.ops.aten import Aten
from lazytorch.ops.conv import Convolution, channels_last, suggests_channels_last
from lazytorch.ops.copies import Clone, rerooted
from lazytorch.ops.foreach import alike
from lazytorch.ops.layout import Reshape
from lazytorch.types import Strides, TensorType

Fits = Callable[[TensorType], bool]

BACKWARD = "aten.convolution_backward.default"
"""Operands: the cotangent, the input, the weight; results: the cotangents of input and weight, and
the bias's."""


def channels_last_training(graph: Graph, fits: Fits) -> Graph:
    """The graph with channels innermost; `fits` says of which input a convolution gains by it."""
    chosen = {x for x in graph.nodes if suits(x, graph, fits)}
    if not chosen:
        return graph
    made: dict[Node, Node] = {}
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        operands = [done[x] for x in node.inputs]
        if node in chosen:
            if isinstance(node.op, Aten):
                g = laid_out(operands[0], made)
                operands = [g, *[again(x, g) or laid_out(x, made) for x in operands[1:]]]
            else:
                operands[:2] = [laid_out(x, made) for x in operands[:2]]
        found = with_inputs(node, operands)
        if isinstance(node.op, Item) and node.op.index and node.inputs[0] in chosen:
            found = restored(found, node)
        done[node] = found
    return rerooted(graph, done)


def suits(node: Node, graph: Graph, fits: Fits) -> bool:
    """Whether a node is a convolution, or its derivative, that gains."""
    op = node.op
    if isinstance(op, Aten):
        if op.overload != BACKWARD or len(node.inputs) != 3:
            return False
        x, weight = node.inputs[1:]
        transposed = op.args[7]
    elif isinstance(op, Convolution):
        x, weight = node.inputs[:2]
        transposed = op.transposed
    else:
        return False
    typed = x.type
    return (
        isinstance(typed, TensorType)
        and typed.rank == 4
        and typed.numel > 0
        and transposed is False
        and weight not in graph.steady
        and fits(typed)
    )


def laid_out(x: Node, made: dict[Node, Node]) -> Node:
    """`x` with its channels innermost."""
    t = x.type
    assert isinstance(t, TensorType)
    strides = channels_last(t.shape)
    if t.strides == strides or suggests_channels_last(t):
        return x
    if x not in made:
        made[x] = relaid(x, strides)
    return made[x]


def again(x: Node, g: Node) -> Node | None:
    """What a derivative reads of a weight or an image that the caller holds: a copy of its own,
    made when the cotangent `g` is there, so that the forward's does not live that long. None where
    that is no copy of such."""
    if not isinstance(x.op, Input):
        return None
    later = laid_out(Node(After(), (x, g), x.type, x.where), {})
    return later if isinstance(later.op, Clone) else None


def restored(found: Node, before: Node) -> Node:
    """A result in the layout that it had."""
    if found.type == before.type:
        return found
    assert isinstance(before.type, TensorType)
    return relaid(found, before.type.strides)


def relaid(x: Node, strides: Strides) -> Node:
    """The same elements with other strides: a view where these differ for sizes of 1 alone, as the
    weights' of 1x1 convolutions do."""
    t = x.type
    assert isinstance(t, TensorType)
    same = alike(t, t.with_strides(strides))
    return Builder(x.where)(Reshape(t.shape, strides) if same else Clone(strides), x)
