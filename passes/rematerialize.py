"""Computes values of the forward again in the backward, instead of keeping them so long; or lets
them wait in the host's memory.

Which ones `choose` says, of those that `segments` and `offload` find. What is computed again waits
for the cotangent with which its segment's backward begins (`After`), so that nothing makes it
earlier and no pass takes it for the first computation. Declines on draws and other effects, which
happen once and are kept, and on all that the forward itself reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lazytorch.errors import VerifyError
from lazytorch.ir import Builder, Const, Graph, Input, Node, Write, with_inputs
from lazytorch.ops.after import After
from lazytorch.ops.offload import FromHost, Received, Sent, ToHost
from lazytorch.segments import Again, forward
from lazytorch.types import TensorType

Choose = Callable[[Graph], Sequence[Again]]
"""The choices that are taken for a graph."""

Key = tuple[Node, bool]
"""A node as it was, or as the backward reads it where that is something else."""


def rematerialize(graph: Graph, choose: Choose) -> Graph:
    """The graph in which what is chosen is computed again; itself if nothing is."""
    chosen = [one for one in choose(graph) if one.changes]
    return Repeats(graph, chosen).rebuilt() if chosen else graph


class Repeats:
    """A graph on its way to one with values that are computed again."""

    def __init__(self, graph: Graph, chosen: Sequence[Again]) -> None:
        self.graph = graph
        self.before = set(forward(graph))
        self.token = {x: one.token for one in chosen for x in one.made}
        self.away = {x: one for one in chosen if one.away for x in one.away.values}
        self.done: dict[Key, Node] = {(x, False): x for x in graph.inputs}
        self.later: dict[tuple[Node, Node], Node] = {}  # values that wait for a token

    def rebuilt(self) -> Graph:
        """The graph whose backward reads what is computed again."""
        stack: list[Key] = [(x, False) for x in reversed(self.graph.nodes)]
        waiting: set[Key] = set()
        while stack:
            key = stack[-1]
            missing = [x for x in self.needs(key) if x not in self.done]
            if key in self.done or not missing:
                stack.pop()
            if key in self.done:
                continue
            if not missing:
                self.done[key] = self.made(key)
                continue
            if key in waiting:
                raise VerifyError(f"{key[0].op.name()} is to wait for itself", where=key[0].where)
            waiting.add(key)
            stack += reversed(missing)
        return self.graph.replace({x: self.done[x, False] for x in self.graph.nodes})

    def operands(self, key: Key) -> list[Key]:
        """What a node reads: behind the forward, and where it is computed again itself, what is
        computed again or was away."""
        node, again = key
        behind = again or (node not in self.before and not isinstance(node.op, Write))
        return [(x, behind and (x in self.token or x in self.away)) for x in node.inputs]

    def needs(self, key: Key) -> list[Key]:
        """What must be there before a node is made."""
        node, again = key
        if again and (one := self.away.get(node)):
            assert one.away is not None
            return [(x, False) for x in (node, one.away.gone, one.away.back, one.token)]
        return [*self.operands(key), (self.token[node], False)] if again else self.operands(key)

    def made(self, key: Key) -> Node:
        """The node on its new operands; one that is computed again reads what is kept only when its
        token is there."""
        node, again = key
        if again and node in self.away:
            return received(node, *[self.done[x] for x in self.needs(key)])
        reads = self.operands(key)
        xs = [self.done[x] for x in reads]
        if not again:
            return with_inputs(node, xs)
        kept = [i for i, (x, repeated) in enumerate(reads) if not repeated and waits(x)]
        values = [i for i in kept if not isinstance(node.inputs[i].op, Input)]
        if not values and any(repeated for _, repeated in reads):
            kept = []  # parameters, read beside what waits already
        token = self.done[self.token[node], False]
        for i in values or kept[:1]:
            x = xs[i]
            xs[i] = self.later.setdefault((x, token), Node(After(), (x, token), x.type, x.where))
        return Node(node.op, tuple(xs), node.type, node.where)


def received(node: Node, x: Node, gone: Node, back: Node, token: Node) -> Node:
    """The value `x` of a node, which was in the host's memory."""
    typed, b = node.type, Builder(node.where)
    assert isinstance(typed, TensorType)
    parcel = b(Sent(), b(ToHost(), x), x, gone)
    copy = FromHost(typed.shape, typed.strides, typed.dtype, typed.device)
    return b(Received(), b(copy, parcel, back), parcel, token)


def waits(x: Node) -> bool:
    """Whether a value can be told to wait."""
    return isinstance(x.type, TensorType) and not isinstance(x.op, Const)
