"""Common subexpression elimination: equal operations on the same values become one.

Declines on effects: two random draws are two draws, in order. Safe because a value is never
written after it was made, so who else reads it does not matter.
"""

from __future__ import annotations

from lazytorch.ir import Graph, Node, Op


def cse(graph: Graph) -> Graph:
    """Merge nodes whose operation (with its attributes) and operands are the same."""
    first: dict[tuple[Op, tuple[Node, ...]], Node] = {}

    def merged(node: Node) -> Node:
        if node.op.effect:
            return node
        found = first.setdefault((node.op, node.inputs), node)
        # Types can differ where a rule reads torch's default dtype, which may change in between.
        return found if found.type == node.type else node

    return graph.map(merged)
