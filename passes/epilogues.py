"""Epilogues: the activation that follows a linear layer is done in cuBLASLt's product.

relu, and gelu. cuBLASLt has gelu's tanh form alone; where the model asks for the exact one it is
used in 16-bit types only, whose rounding (5e-4 and 4e-3 of a value) is as large as the difference
between the forms (at most 5e-4). `explain` lists it as a linear_activation.

Declines on another reader of the product, without a bias for every feature, on exact gelu in
float32 and float64, and off the GPU (`fits`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.activation import Gelu, Relu
from lazytorch.ops.cublas import LinearActivation
from lazytorch.ops.layout import Reshape
from lazytorch.ops.linalg import Linear
from lazytorch.types import TensorType

Fits = Callable[[TensorType], bool]


def epilogues(graph: Graph, fits: Fits) -> Graph:
    """The graph with activations in the products; `fits` says of which input cuBLASLt does it."""
    roots = {*graph.outputs, *graph.effects}
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        found = with_inputs(node, [done[x] for x in node.inputs])
        name = activation(node)
        if name is not None and node not in graph.steady:
            source = node.inputs[0]
            through = [source]
            if isinstance(source.op, Reshape):  # of rows that were put together for the product
                source = source.inputs[0]
                through.append(source)
            alone = all(len(graph.users[x]) == 1 and x not in roots for x in through)
            if alone and suits(source, fits) and found.type == node.type:
                b = Builder(node.where)
                product = b(LinearActivation(name), *done[source].inputs)
                shape = typed(node).shape
                found = product if product.type == node.type else b(Reshape(shape), product)
        done[node] = found
    return graph.replace(done)


def activation(node: Node) -> Literal["relu", "gelu"] | None:
    """What cuBLASLt calls an operation that it can do behind a product."""
    typed = node.type
    if isinstance(node.op, Relu):
        return "relu"
    if isinstance(node.op, Gelu) and isinstance(typed, TensorType):
        same = node.op.approximate == "tanh" or typed.dtype.itemsize == 2
        return "gelu" if same else None
    return None


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type


def suits(node: Node, fits: Fits) -> bool:
    """Whether a node is a linear layer with a bias for every feature."""
    if not isinstance(node.op, Linear) or len(node.inputs) != 3:
        return False
    x, weight, bias = [typed(y) for y in node.inputs]
    return weight.rank == 2 and bias.shape == weight.shape[:1] and x.numel > 0 and fits(x)
