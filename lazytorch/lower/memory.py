"""Which results may be written over an operand."""

from __future__ import annotations

from lazytorch.ir import Graph, Node
from lazytorch.ops.aten import Aten
from lazytorch.straight import root
from lazytorch.types import TensorType


def overwriting(graph: Graph) -> set[Node]:
    """The nodes that may write their result over an operand, run in the graph's order.

    Fresh memory costs more than the arithmetic on the CPU, where the kernel clears it page by page,
    and is room that the peak does not need on a GPU. Declines
    where anything reads the operand's memory afterwards, through a view or as an output, where the
    node reads it twice, where the result is of another type, and where the memory is not the
    program's own: an input's, a literal's, a view's, or what an overload of torch's returned.
    """
    order = graph.nodes
    last = {root(x): i for i, node in enumerate(order) for x in node.inputs}
    written = [x for effect in graph.effects for x in effect.inputs]  # when all else is done
    kept = {root(x) for x in (*graph.outputs, *graph.effects, *written)}
    found: set[Node] = set()
    for i, node in enumerate(order):
        if node.op.overwrites is None:
            continue
        target = node.inputs[node.op.overwrites]
        if (
            target.type == node.type
            and isinstance(target.type, TensorType)
            and target.type.is_dense
            and target.inputs
            and not target.op.view
            and not target.op.effect
            and not isinstance(target.op, Aten)
            and target not in kept
            and last[target] == i
            and sum(root(x) is target for x in node.inputs) == 1
        ):
            found.add(node)
    return found
