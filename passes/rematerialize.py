"""Computes values of the forward again in the backward, instead of keeping them so long.

Which ones `choose` says, of those that `segments` finds. What is computed again waits for the cotangent with which its segment's backward begins (`After`), so that nothing makes
it earlier, and no pass takes it for the first computation. Declines on draws and other effects,
which are kept, and so happen once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lazytorch.ir import Const, Graph, Input, Node, Write, with_inputs
from lazytorch.ops.after import After
from lazytorch.segments import Again, forward
from lazytorch.types import TensorType

Choose = Callable[[Graph], Sequence[Again]]
"""The choices that are taken for a graph."""

Key = tuple[Node, bool]
"""A node, and whether it is the one that is computed again."""


def rematerialize(graph: Graph, choose: Choose) -> Graph:
    """The graph in which what is chosen is computed again; itself if nothing is."""
    chosen = choose(graph)
    if not chosen:
        return graph
    token = {x: one.token for one in chosen for x in one.made}
    before = set(forward(graph))
    done: dict[Key, Node] = {(x, False): x for x in graph.inputs}

    def operands(key: Key) -> list[Key]:
        node, again = key
        reads = again or (node not in before and not isinstance(node.op, Write))
        return [(x, reads and x in token) for x in node.inputs]

    def waits(key: Key) -> bool:
        """Whether a repeated node itself must be told to wait: none of its operands was."""
        return key[1]

    later: dict[tuple[Node, Node], Node] = {}
    roots = [(x, False) for x in graph.nodes]
    stack = list(reversed(roots))
    while stack:
        key = stack[-1]
        if key in done:
            stack.pop()
            continue
        node, again = key
        reads = operands(key)
        missing = [x for x in reads if x not in done]
        if again and (token[node], False) not in done:
            missing.append((token[node], False))
        if missing:
            stack += reversed(missing)
            continue
        xs = [done[x] for x in reads]
        if waits(key):
            at = done[token[node], False]
            bound = [i for i, (x, repeated) in enumerate(reads) if gated(x) and not repeated]
            held = [i for i in bound if not isinstance(node.inputs[i].op, Input)] or bound[:1]
            for i in held:
                x = xs[i]
                xs[i] = later.setdefault((x, at), Node(After(), (x, at), x.type, x.where))
        done[key] = (
            with_inputs(node, xs) if not again else Node(node.op, tuple(xs), node.type, node.where)
        )
    return graph.replace({x: done[x, False] for x in graph.nodes})


def gated(x: Node) -> bool:
    """Whether a value can be made to wait."""
    return isinstance(x.type, TensorType) and not isinstance(x.op, Const)
