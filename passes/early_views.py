"""Early views: arithmetic that only a reduction across reads is done the way the reduction goes.

A reduction over the first dimensions reads rows that lie beside each other, through views of what
it reduces. Arithmetic in front of these views would be a kernel of its own, which writes what the
reduction then reads; done on views of its operands it joins the reduction. What others read too is
computed once more where its operands are no more bytes than its result, written and read.

Declines where an operand cannot be viewed so without a copy, and where more bytes would move. Not
among a GPU's passes: steps of BERT, GPT-2 and ResNet-50 take the same time with it on an H200.
Exact: arithmetic looks at each element alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from lazytorch.grouping import LARGEST
from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.base import Pointwise, Rowwise
from lazytorch.ops.generated import obstacle
from lazytorch.ops.layout import Expand, Permute, Reshape, view_strides
from lazytorch.peak import size
from lazytorch.recompute import cheap
from lazytorch.types import TensorType

Views = Sequence[Node]
"""Nodes whose views lead from a value to what a reduction reads."""


def early_views(graph: Graph) -> Graph:
    """The graph whose reductions across read arithmetic on views."""
    found = Early(graph)
    for node in graph.nodes:
        if node not in found.done:
            given = with_inputs(node, [found.done[x] for x in node.inputs])
            found.done[node] = found.moved(node, given) or given
    return graph.replace(found.done)


class Early:
    """A graph, and what its nodes have become."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.roots = {*graph.outputs, *graph.effects}
        self.done: dict[Node, Node] = {x: x for x in graph.inputs}

    def moved(self, node: Node, given: Node) -> Node | None:
        """A reduction of arithmetic on views; None where it is none, or nothing is gained."""
        if not isinstance(node.op, Rowwise) or obstacle(node):
            return None
        views: list[Node] = []
        x = node.inputs[0]
        while isinstance(x.op, Permute | Reshape) and self.alone(x):
            views.insert(0, x)
            x = x.inputs[0]
        if not any(isinstance(view.op, Permute) for view in views):
            return None
        move = Move(self, x, views)
        moved = move.viewed(x) if self.arithmetic(x) and self.alone(x) else None
        if moved is None or move.costs() > 0:
            return None
        made = with_inputs(node, [moved, *given.inputs[1:]])
        return made if made.type == node.type and not obstacle(made) else None

    def alone(self, x: Node) -> bool:
        """Whether one operation reads a value, and nobody else."""
        return x not in self.roots and len(self.graph.users[x]) == 1

    def arithmetic(self, x: Node) -> bool:
        """Whether a generated kernel computes a value element by element."""
        return isinstance(x.op, Pointwise) and x not in self.graph.steady and not obstacle(x)

    def virtual(self, x: Node) -> bool:
        """Whether a value may be in no memory: kernels alone make and read it."""
        return (
            self.arithmetic(x)
            and x not in self.roots
            and all(isinstance(user.op, Pointwise | Rowwise) for user in self.graph.users[x])
        )


class Move:
    """One value on its way behind the views of what it is computed from."""

    def __init__(self, early: Early, root: Node, views: Views) -> None:
        self.early = early
        self.root = root
        self.views = views
        self.made: dict[Node, Node | None] = {}
        self.computed: set[Node] = set()
        self.read: set[Node] = set()

    def viewed(self, x: Node) -> Node | None:
        """A value as the reduction sees it; None where that takes a copy."""
        if x not in self.made:
            again = self.early.virtual(x) and cheap(x)  # else it is in memory, to be read there
            own = x is self.root or self.early.alone(x) or again
            if self.early.arithmetic(x) and own and len(self.made) < LARGEST:
                self.made[x] = self.again(x)
            else:
                self.read.add(x)
                self.made[x] = self.through(self.early.done[x])
        return self.made[x]

    def again(self, x: Node) -> Node | None:
        """The arithmetic of a value, on views of its operands."""
        self.computed.add(x)
        typed = x.type
        assert isinstance(typed, TensorType)
        operands: list[Node] = []
        for y in x.inputs:
            found: Node | None = self.early.done[y]
            if isinstance(y.type, TensorType) and y.type.rank:  # else it is there for every place
                if y.type.shape == typed.shape:
                    found = self.viewed(y)
                else:
                    self.read.add(y)
                    found = self.through(Builder(x.where)(Expand(typed.shape), self.early.done[y]))
            if found is None:
                return None
            operands.append(found)
        made = Builder(x.where)(x.op, *operands)
        assert isinstance(made.type, TensorType)
        return made if made.type.dtype is typed.dtype else None

    def through(self, x: Node) -> Node | None:
        """The views of a value that is in memory; None where one of them would copy."""
        for view in self.views:
            typed = x.type
            assert isinstance(typed, TensorType)
            if isinstance(view.op, Reshape):
                assert isinstance(view.type, TensorType)
                if view_strides(typed.shape, typed.strides, view.type.shape) is None:
                    return None
            x = Builder(view.where)(view.op, x)
        return x

    def costs(self) -> int:
        """Bytes that move more than before: each operand is read, and written where it was in no
        memory; what the views showed is neither written nor read any more."""
        bytes_moved = -2 * size(self.root)
        users = self.early.graph.users
        for x in self.read:
            if not self.computed.issuperset(users[x]):
                bytes_moved += size(x) * (2 if self.early.virtual(x) else 1)
        return bytes_moved
