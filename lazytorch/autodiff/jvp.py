"""Forward mode: tangents of what a computation gives, from tangents of what it reads.

An operation with a rule of its own is pushed by two reverse passes through it alone: the reverse
pass is linear in its cotangents, and the reverse pass of that map, by its cotangents, is the
forward one; of an elementwise operation the first is it already. Any other is pushed by torch's
formula for forward mode, which needs no derivative of a derivative, and where torch has none, by
reverse passes too.
"""

from __future__ import annotations

from collections.abc import Sequence

from lazytorch.autodiff.derive import laid_out
from lazytorch.autodiff.devices import placed
from lazytorch.autodiff.forward import Pushed, by_formula
from lazytorch.autodiff.rules import own, rule
from lazytorch.autodiff.vjp import active, fitted, vjp, zeros
from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.ir import Const, Graph, Item, Node, Op, constant, input, postorder
from lazytorch.ops.base import Pointwise
from lazytorch.ops.calculus import Calculus, tensor
from lazytorch.ops.custom import Custom
from lazytorch.types import TupleType, Type, carries


def jvp(
    outputs: Sequence[Node], tangents: Sequence[Node | None], wrt: Sequence[Node]
) -> list[Node | None]:
    """The tangent of each output, None for what depends on no variable that moves."""
    s = Calculus()
    found: dict[Node, Node | None] = dict(zip(wrt, tangents, strict=True))
    parts: dict[Node, list[Node | None]] = {}  # of what gives several results
    order = postorder(outputs)
    moving = active(order, {x: None for x, t in found.items() if t is not None})
    for node in order:
        if node in found or node not in moving:
            continue
        if isinstance(node.op, Item):
            found[node] = parts[node.inputs[0]][node.op.index] if node.inputs[0] in parts else None
            continue
        along = [found.get(x) for x in node.inputs]
        s.where = node.where
        try:
            if any([x in parts for x in node.inputs]):
                raise UnsupportedError(f"forward mode through {node.op.name()} of several results")
            moved = pushed(s, node, along) if any(along) else []
        except LazyTorchError as error:
            error.where = error.where or node.where
            raise
        if isinstance(node.type, TupleType):
            parts[node] = moved or [None] * len(node.type.items)
        else:
            found[node] = moved[0] if moved else None
    return [found.get(x) for x in outputs]


def pushed(s: Calculus, node: Node, along: Sequence[Node | None]) -> list[Node | None]:
    """The tangents of a node's results, from those of its inputs."""
    given = tuple([x.op if isinstance(x.op, Const) else x.type for x in node.inputs])
    made, recorded = known_rule(node.op, given, tuple([t is not None for t in along]))
    known: dict[Node, Node] = dict(zip(made.operands, node.inputs, strict=True))
    for stand_in, t in zip(made.tangents, along, strict=True):
        if stand_in is not None and t is not None:
            known[stand_in] = laid_out(s, t, stand_in)
    for i, result in enumerate(made.results):
        if result is not None and result not in known:
            known[result] = s(Item(i), node) if isinstance(node.type, TupleType) else node
    wanted = [x for x in made.moved if x is not None]
    for x in Graph((), tuple(wanted)).nodes:
        if x not in known:
            op = placed(x.op, node) if recorded else x.op
            known[x] = s(op, *[known[y] for y in x.inputs])
    types = node.type.items if isinstance(node.type, TupleType) else [node.type]
    return [
        None if x is None else fitted(s, known[x], typed)
        for x, typed in zip(made.moved, types, strict=True)
    ]


def known_rule(
    op: Op, given: tuple[Type | Const, ...], moves: tuple[bool, ...]
) -> tuple[Pushed, bool]:
    """A rule for an operation on operands of such types, and whether it was recorded from torch."""
    local = alone(op, given)
    if isinstance(op, Custom):  # a user's backward, of which torch's formula knows nothing
        return twice(local, moves), False
    if own(local) and not op.pushed_by_torch:
        way = elementwise if isinstance(op, Pointwise) else twice
        return way(local, moves), False
    try:
        return by_formula(op, given, moves), True
    except LazyTorchError as error:
        try:
            return twice(local, moves), False
        except LazyTorchError:
            raise error from None


def alone(op: Op, given: tuple[Type | Const, ...]) -> Node:
    """An operation on operands that nothing is known of but their types."""
    operands = [
        constant(x.value) if isinstance(x, Const) else input(f"x{i}", x)
        for i, x in enumerate(given)
    ]
    return Calculus()(op, *operands)


def elementwise(node: Node, moves: Sequence[bool]) -> Pushed:
    """The rule of what computes each element alone: its derivative is its own transpose, so that
    the reverse pass is the forward one too."""
    s = Calculus()
    out = tensor(node)
    tangents = directions(node, moves)
    total: Node | None = None
    for i, t in enumerate(tangents):
        if t is None:
            continue
        g = s.expand(s.cast(t, out.dtype), out.shape)
        part = node.op.vjp(s, g, node, *node.inputs)[i]
        if part is not None:
            part = s.cast(part, out.dtype)
            total = part if total is None else s.add(total, part)
    moved = None if total is None else s.expand(total, out.shape)
    return Pushed(node.inputs, tangents, (node,), (moved,))


def directions(node: Node, moves: Sequence[bool]) -> tuple[Node | None, ...]:
    """Stand-ins for the tangents of a node's operands."""
    pairs = enumerate(zip(node.inputs, moves, strict=True))
    return tuple([input(f"t{i}", x.type) if move else None for i, (x, move) in pairs])


def twice(node: Node, moves: Sequence[bool]) -> Pushed:
    """The rule by two reverse passes."""
    s = Calculus()
    results = [node]
    if isinstance(node.type, TupleType):
        results = [s(Item(i), node) for i in range(len(node.type.items))]
    moving = [i for i, y in enumerate(results) if carries(y.type)]
    seeds = [input(f"u{i}", results[i].type) for i in moving]
    tangents = directions(node, moves)
    wrt = [x for x, move in zip(node.inputs, moves, strict=True) if move]
    pulled = vjp([results[i] for i in moving], seeds, wrt, rule)
    along = [t for t in tangents if t is not None]
    pairs = [(g, t) for g, t in zip(pulled, along, strict=True) if g is not None]
    found = vjp([g for g, _ in pairs], [t for _, t in pairs], seeds, rule)
    moved: list[Node | None] = [None] * len(results)
    for i, x in zip(moving, without(found, seeds), strict=True):
        moved[i] = x
    return Pushed(node.inputs, tangents, tuple(results), tuple(moved))


def without(found: Sequence[Node | None], seeds: Sequence[Node]) -> list[Node | None]:
    """The nodes with zeros for the seeds, on whose values they do not depend."""
    order = postorder([x for x in found if x is not None])
    new: dict[Node, Node] = {}
    for node in order:
        if node in seeds:
            new[node] = zeros(Calculus(node.where), tensor(node))
        elif any([x in new for x in node.inputs]):
            inputs = tuple([new.get(x, x) for x in node.inputs])
            new[node] = Node(node.op, inputs, node.type, node.where)
    return [None if x is None else new.get(x, x) for x in found]
