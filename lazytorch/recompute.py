"""Which values a group of elementwise operations stores for later ones, and which those compute
again.

A value that is stored is written once and read by each later group. Computing it again costs no
memory traffic where the later group reads its operands anyway, or where they are in memory anyway
(a product's result, an input) and no larger: a kernel's arithmetic is nearly free beside its bytes.
A minimum cut over the group's bytes decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from lazytorch.cut import cheapest
from lazytorch.grouping import Kind
from lazytorch.ir import Graph, Node, with_inputs
from lazytorch.ops.activation import Activation
from lazytorch.ops.base import Pointwise
from lazytorch.ops.elementary import Elementary, Reciprocal, Sqrt
from lazytorch.ops.generated import elsewhere
from lazytorch.ops.pointwise import Pow
from lazytorch.peak import size
from lazytorch.types import TensorType


def recomputed(
    graph: Graph, kinds: dict[Node, Kind], level: dict[Node, int]
) -> tuple[Graph, dict[Node, Kind], dict[Node, int]]:
    """The graph in which later groups compute again what is cheaper so, with the kinds and the
    levels of its nodes; the graph itself where nothing is."""
    again = Boundaries(graph, kinds, level).again()
    if not again:
        return graph, kinds, level
    new: dict[Node, Node] = {x: x for x in graph.inputs}
    copies: dict[tuple[Node, int], Node] = {}
    found: dict[Node, Kind] = {}
    place: dict[Node, int] = {}

    def at(x: Node, reader: Node, later: int) -> Node:
        """What a reader at level `later` reads for `x`."""
        if x not in again or kinds.get(reader) is not kinds[x] or level[x] == later:
            return new[x]
        made = copies.get((x, later))
        if made is None:
            operands = [at(y, x, later) for y in x.inputs]
            made = copies[x, later] = Node(x.op, tuple(operands), x.type, x.where)
            found[made], place[made] = kinds[x], later
        return made

    for node in graph.nodes:
        if node in new:
            continue
        if node in kinds and not elsewhere(node):
            operands = [at(x, node, level[node]) for x in node.inputs]
        else:
            operands = [new[x] for x in node.inputs]
        made = new[node] = with_inputs(node, operands)
        if node in kinds:
            found[made], place[made] = kinds[node], level[node]
    rebuilt = graph.replace(new)
    alive = [x for x in rebuilt.nodes if x in found]
    return rebuilt, {x: found[x] for x in alive}, {x: place[x] for x in alive}


class Boundaries:
    """The values that cross from one level of a kind to later ones."""

    def __init__(self, graph: Graph, kinds: dict[Node, Kind], level: dict[Node, int]) -> None:
        self.graph = graph
        self.kinds = kinds
        self.level = level
        self.roots = {*graph.outputs, *graph.effects}
        self.missing: set[Node] = set()  # what later groups will not find in memory

    def again(self) -> set[Node]:
        """The values that later groups compute again."""
        members: dict[tuple[Kind, int], list[Node]] = {}
        for node, kind in self.kinds.items():
            members.setdefault((kind, self.level[node]), []).append(node)
        for key in sorted(members, key=lambda key: key[1]):
            self.decide(members[key])
        return self.missing

    def decide(self, group: Sequence[Node]) -> None:
        """Keep or compute again what later groups read of this one."""
        kind = self.kinds[group[0]]
        later = {x: self.later(x, kind) for x in group}
        needed = [x for x in group if later[x]]
        if all(self.operands(x) is None for x in needed):
            return
        operands = {x: self.operands(x) for x in group}
        wanted: dict[Node, set[int]] = {}  # by which levels, directly or for what they compute
        for node in reversed(group):
            wanted.setdefault(node, set()).update(later[node])
            for x in operands[node] or ():
                wanted.setdefault(x, set()).update(wanted[node])

        def cost(x: Node) -> int:
            """Bytes moved for keeping a value; a little less for one that must be written first,
            so that of two equal choices the kernels' stay as they are."""
            if x not in operands or self.stored(x):
                return 1 + 10 * len(wanted[x] - self.later(x, kind)) * size(x)
            return 1 + (10 * len(wanted[x]) + 9) * size(x)

        below = operands[needed[0]]
        if len(needed) == 1 and below is not None and all(operands.get(x) is None for x in below):
            kept = set(needed) if cost(needed[0]) <= sum(map(cost, below)) else set(below)
        else:
            kept = cheapest(needed, cost, operands.get)
        stack = [x for x in needed if x not in kept]
        while stack:
            node = stack.pop()
            if node not in self.missing:
                self.missing.add(node)
                stack += [x for x in operands[node] or () if x not in kept]

    def operands(self, node: Node) -> list[Node] | None:
        """What a later group would read to compute a value again; None where it cannot, or need
        not since the value is in memory."""
        if not cheap(node) or self.stored(node) or any(x in self.missing for x in node.inputs):
            return None  # chains across many groups would be computed over and over
        return [x for x in node.inputs if isinstance(x.type, TensorType)]

    def stored(self, node: Node) -> bool:
        """Whether a value of a group is in memory whatever later groups do."""
        return node in self.roots or any(
            self.kinds.get(user) is not self.kinds[node] or elsewhere(user)
            for user in self.graph.users[node]
        )

    def later(self, node: Node, kind: Kind) -> set[int]:
        """The levels other than its own at which operations of a kind read a value."""
        return {
            self.level[user]
            for user in self.graph.users[node]
            if self.kinds.get(user) is kind
            and not elsewhere(user)
            and self.level[user] != self.level.get(node)
        }


def cheap(node: Node) -> bool:
    """Whether an operation's arithmetic costs less than the memory traffic of its result."""
    op, typed = node.op, node.type
    if not isinstance(op, Pointwise) or op.effect or not isinstance(typed, TensorType):
        return False
    if typed.device.type == "cuda":
        return True
    slow = isinstance(op, Elementary | Activation | Pow) and not isinstance(op, Sqrt | Reciprocal)
    return not slow
