"""One run for a value and for what its derivative needs: an operation becomes its saving form.

A derivative reads, say, the statistics of a batch norm from a form of the operation that gives them
after its own results (`Op.saving`). Where a graph computes that form as well as the operation, on
the same operands, one run is enough. Declines where the results would be of another type, where the
form is not there, and on effects: two draws are two draws.
"""

from __future__ import annotations

from lazytorch.ir import Builder, Graph, Item, Node, Op, with_inputs
from lazytorch.types import TupleType


def share_saved(graph: Graph) -> Graph:
    """Take the results of operations from their saving forms, where these are computed too."""
    there = {(node.op, node.inputs) for node in graph.nodes}
    pairs: dict[Node, Op] = {}
    for node in graph.nodes:
        op = None if node.op.effect else node.op.saving(*[x.type for x in node.inputs])
        if op is not None and (op, node.inputs) in there:
            pairs[node] = op
    if not pairs:
        return graph
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    forms: dict[tuple[Op, tuple[Node, ...]], Node] = {}
    wanted = set(pairs.values())
    for node in graph.nodes:
        if node in done:
            continue
        new = with_inputs(node, [done[x] for x in node.inputs])
        if node.op in wanted:
            new = forms.setdefault((new.op, new.inputs), new)
        elif node in pairs:
            made = Builder(node.where)(pairs[node], *new.inputs)
            new = taken(new, forms.setdefault((made.op, made.inputs), made))
        done[node] = new
    return graph.replace(done)


def taken(node: Node, form: Node) -> Node:
    """What gives the results of `node`, from its saving form; itself where a type would change."""
    assert isinstance(form.type, TupleType)
    if isinstance(node.type, TupleType):
        same = form.type.items[: len(node.type.items)] == node.type.items
        return form if same else node
    return Builder(node.where)(Item(0), form) if form.type.items[0] == node.type else node
