"""Reverse mode: cotangents of what a computation reads, from cotangents of what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lazytorch.errors import LazyTorchError
from lazytorch.ir import Const, Input, Item, Node, postorder
from lazytorch.ops.calculus import Calculus
from lazytorch.ops.create import Full
from lazytorch.ops.layout import Detach, Select
from lazytorch.ops.windows import ViewAsReal
from lazytorch.types import TensorType, TupleType, Type, carries

Cotangent = Node | None | list[Node | None]
"""Of a tensor: a node; of a tuple: a list with None where nothing depends on the item."""
Rule = Callable[[Calculus, Node, Cotangent, Sequence[bool]], Sequence[Node | None]]
"""`(s, node, g, needs)`: the cotangents of the node's inputs, None for those that get none; what
is not needed may be None too."""
Hooked = Callable[[Node, Node], Node]
"""`(node, g)`: the cotangent in the place of `g`, the cotangent of `node`."""


def vjp(
    outputs: Sequence[Node],
    cotangents: Sequence[Node | None],
    wrt: Sequence[Node],
    rule: Rule,
    hooked: Hooked | None = None,
) -> list[Node | None]:
    """The cotangent of each of `wrt`, None for what no output depends on.

    `cotangents` has one node for each output, of its shape and dtype, or None. Broadcasting is
    undone here, once for all rules, and a cotangent has the dtype of its value. `hooked` says what
    becomes of the complete cotangent of a node.
    """
    s = Calculus()
    wanted = dict.fromkeys(wrt)
    order = postorder(outputs)
    moving = active(order, wanted)
    found: dict[Node, Node] = {}
    items: dict[Node, list[Node | None]] = {}

    def add(x: Node, g: Node) -> None:
        s.where = x.where
        found[x] = s.joined(found[x], g) if x in found else g

    for out, g in zip(outputs, cotangents, strict=True):
        if g is not None and out in moving:
            add(out, fitted(s, g, out.type))
    for node in reversed(order):
        if node not in moving or (node not in found and node not in items):
            continue
        if hooked is not None and node in found:
            found[node] = hooked(node, found[node])
        if isinstance(node.op, Item):
            (source,) = node.inputs
            assert isinstance(source.type, TupleType)
            parts = items.setdefault(source, [None] * len(source.type.items))
            before = parts[node.op.index]
            parts[node.op.index] = found[node] if before is None else s.add(before, found[node])
            continue
        if not node.inputs:
            continue
        s.where = node.where
        needs = [x in moving for x in node.inputs]
        g = items[node] if node in items else found[node]
        try:
            given = rule(s, node, g, needs)
        except LazyTorchError as error:
            error.where = error.where or node.where
            raise
        for x, need, gx in zip(node.inputs, needs, given, strict=True):
            if need and gx is not None:
                s.where = node.where
                add(x, fitted(s, gx, x.type))
    return [found.get(x) for x in wrt]


def active(order: Sequence[Node], wanted: dict[Node, None]) -> set[Node]:
    """The nodes through which a derivative with respect to `wanted` flows; `order` is theirs."""
    moving: set[Node] = set()
    for node in order:
        if node in wanted or (
            not isinstance(node.op, Detach | Const | Input)
            and carries(node.type)
            and any([x in moving for x in node.inputs])
        ):
            moving.add(node)
    return moving


def fitted(s: Calculus, g: Node, typed: Type) -> Node:
    """A cotangent in the shape and the dtype of its value."""
    assert isinstance(typed, TensorType)
    assert isinstance(g.type, TensorType)
    if g.type.dtype.is_complex and not typed.dtype.is_complex:
        g = real(s, g)
    return s.cast(s.sum_to(g, typed.shape), typed.dtype)


def real(s: Calculus, g: Node) -> Node:
    """The real part: what reaches a real value from complex ones."""
    pairs = s(ViewAsReal(), g)
    assert isinstance(pairs.type, TensorType)
    return s(Select(pairs.type.rank - 1, 0), pairs)


def ones(s: Calculus, x: Node) -> Node:
    """The cotangent of a value that is differentiated itself."""
    return s.full(x, 1.0)


def zeros(s: Calculus, typed: TensorType) -> Node:
    """The cotangent of what nothing depends on."""
    return s(Full(typed.shape, 0.0, typed.dtype, typed.device))
