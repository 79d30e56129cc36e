"""Which values of the forward graph the backward graph is left, and which it computes again.

A minimum cut: what is saved costs its bytes, written once and read once; what is cheap to compute
from saved values (views, elementwise work, which fuses into the kernels that read it) is not saved
where that needs fewer bytes.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from lazytorch.cut import cheapest
from lazytorch.ir import Const, Graph, Input, Item, Node, Op, Write, postorder
from lazytorch.ops.base import Pointwise, View
from lazytorch.ops.create import Arange, Eye, Full
from lazytorch.peak import size
from lazytorch.types import ScalarType, TensorType, TupleType


def saved_values(forward: Graph, asked: Sequence[Node]) -> list[Node]:
    """The values that `asked`, computed after `forward`, is to be left; in the forward's order."""
    before = dict.fromkeys(forward.nodes)
    # What only the backward reads of a tuple: the item is handed over, not the tuple.
    before |= {
        x: None for x in postorder(asked) if isinstance(x.op, Item) and x.inputs[0] in before
    }
    cut = cheapest(crossing(before, asked), cost, operands)
    return [node for node in before if node in cut]


def crossing(before: Container[Node], asked: Sequence[Node]) -> list[Node]:
    """The forward nodes that nodes after it read."""
    found: dict[Node, None] = {}
    for node in postorder(asked):
        if node not in before:
            found.update(dict.fromkeys(x for x in node.inputs if x in before))
    found.update(dict.fromkeys(x for x in asked if x in before))
    return [x for x in found if not isinstance(x.op, Const)]


def operands(node: Node) -> list[Node] | None:
    """What a value is computed again from; None where it is to be read from memory."""
    return [x for x in node.inputs if not isinstance(x.op, Const)] if recomputable(node) else None


def recomputable(node: Node) -> bool:
    """Whether computing a value again is cheaper than reading it from memory."""
    op: Op = node.op
    if op.effect or isinstance(op, Input | Write | Item):
        return False
    if any(isinstance(x.type, TupleType) for x in node.inputs):
        return False
    return isinstance(op, Pointwise | View | Full | Arange | Eye)


def cost(node: Node) -> int | None:
    """Bytes that keeping a value costs, nothing for what is there anyway; None where it cannot be
    handed over."""
    if not isinstance(node.type, TensorType | ScalarType):
        return None
    if isinstance(node.op, Input):
        return 1
    if isinstance(node.op, View):
        return size(node) + 1  # its base is as good, and shares its memory
    return max(1, size(node))
