"""Select: torch's best kernel for an operation on this device.

On the CPU a 2-d convolution whose weight is a parameter runs by oneDNN on a weight that is packed
once, in the prologue; that is where most of the gain over eager lies, because eager reorders every
weight at every call. Its result is channels last, and so is what follows; outputs are brought back
to the strides that eager gives.

Declines where the weight changes from call to call (it would be packed at each), for transposed
and 1-d convolutions, for empty inputs, and for dtypes that oneDNN does not pack here. Safe within
the accuracy rule: the same products, summed in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.conv import Convolution
from lazytorch.ops.copies import Clone
from lazytorch.ops.library import PackedConvolution, PackedWeight
from lazytorch.types import TensorType

Packs = Callable[[torch.dtype], bool]


def select(graph: Graph, packs: Packs, threads: int) -> Graph:
    """The graph on packed convolutions; `packs` says for which dtypes, `threads` for how many."""
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        found = with_inputs(node, [done[x] for x in node.inputs])
        if suits(node, graph, packs):
            found = packed(found, threads)
        done[node] = found
    outputs: list[Node] = []
    for x, alias in zip(graph.outputs, graph.aliases, strict=True):
        y = done[x]
        if alias is None and isinstance(x.type, TensorType) and y.type != x.type:
            y = Builder(y.where)(Clone(x.type.strides), y)
        outputs.append(y)
    effects: list[Node] = []
    for e in graph.effects:
        effects.append(done[e])
    if tuple(outputs) == graph.outputs and tuple(effects) == graph.effects:
        return graph
    return replace(graph, outputs=tuple(outputs), effects=tuple(effects))


def suits(node: Node, graph: Graph, packs: Packs) -> bool:
    """Whether a node is a convolution that oneDNN should do on a packed weight."""
    if not isinstance(node.op, Convolution) or node.op.transposed:
        return False
    x, weight = node.inputs[0].type, node.inputs[1].type
    return (
        isinstance(x, TensorType)
        and isinstance(weight, TensorType)
        and x.rank == weight.rank == 4
        and x.numel > 0
        and x.device.type == "cpu"
        and packs(x.dtype)
        and all(y in graph.steady for y in node.inputs[1:])
    )


def packed(node: Node, threads: int) -> Node:
    """The convolution on a packed weight."""
    op, x, weight = node.op, node.inputs[0].type, node.inputs[1].type
    assert isinstance(op, Convolution)
    assert isinstance(x, TensorType) and isinstance(weight, TensorType)
    b = Builder(node.where)
    pack = b(PackedWeight(op, x.shape, threads), node.inputs[1])
    convolution = PackedConvolution(op.stride, op.padding, op.dilation, op.groups, weight.shape)
    return b(convolution, node.inputs[0], pack, *node.inputs[2:])
