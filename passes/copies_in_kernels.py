"""Copies in kernels: elements that are copied into another order are written in it at once.

Behind arithmetic on heads, say, the heads are often put side by side: a permuted view, and a
reshape that copies it. A clone of the arithmetic's own shape has the same elements in the same
order of memory, and its kernel writes it.

Declines where the innermost elements would no longer lie side by side, and where no generated
kernel makes them or clones them. Exact: the same elements elsewhere in memory.
"""

from __future__ import annotations

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.base import Pointwise
from lazytorch.ops.chains import is_copy
from lazytorch.ops.copies import Clone, rerooted
from lazytorch.ops.generated import obstacle
from lazytorch.ops.layout import Permute, Reshape
from lazytorch.types import Strides, TensorType, contiguous_strides


def copies_in_kernels(graph: Graph) -> Graph:
    """The graph whose elementwise results are cloned where they are made."""
    clones = {x: op for x in graph.nodes if x not in graph.steady and (op := clone(x))}
    if not clones:
        return graph
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in clones:
            view = node.inputs[0]
            made = Builder(node.where)(clones[node], done[view.inputs[0]])
            done[node] = with_inputs(node, [with_inputs(view, [made])])
        elif node not in done:
            done[node] = with_inputs(node, [done[x] for x in node.inputs])
    return rerooted(graph, done)


def clone(node: Node) -> Clone | None:
    """For a copy of what a generated kernel makes, permuted: the clone that it could be a view of,
    if a kernel can write that."""
    if not isinstance(node.op, Reshape) or not is_copy(node):
        return None
    view = node.inputs[0]
    if not isinstance(view.op, Permute):
        return None
    source, perm = view.inputs[0], view.op.perm
    in_runs = typed(source).strides[-1] == 1 and perm[-1] == len(perm) - 1
    if not in_runs or not isinstance(source.op, Pointwise) or obstacle(source) is not None:
        return None
    op = Clone(inverse(contiguous_strides(typed(view).shape), perm))
    return op if obstacle(Builder()(op, source)) is None else None


def inverse(strides: Strides, perm: tuple[int, ...]) -> Strides:
    """The strides before a permutation that leaves it with these."""
    found = [0] * len(perm)
    for place, p in enumerate(perm):
        found[p] = strides[place]
    return tuple(found)


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type
