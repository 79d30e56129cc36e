"""What a kernel computes, step by step: every operation at the places where its value is needed.

A kernel visits the elements of one shape. An operation of a group may be needed at an element's own
index, or, behind one that chooses where to read (a join, a window), at others: `At` says how they
follow from the element's index, and where they lie inside what is read. Operands are read from
memory, each at every place that it is needed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Graph, Input, Node
from lazytorch.ops.affine import Affine, Place
from lazytorch.ops.base import Pointwise, Rowwise
from lazytorch.types import Number, ScalarType, Shape, Strides, TensorType

Operand = TensorType | ScalarType
"""What a kernel reads: a tensor, or a Python float, a run-time argument of type double."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Index `dim` of the element is at least `low` and less than `high`, where these are stated."""

    dim: int
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True)
class At:
    """The index `scales[d] * i + shifts[d]` in dimension d, for index i of the kernel's element.

    Only where `bounds` hold is there such an element; elsewhere a load gives `fill`, if that is
    stated.
    """

    scales: tuple[int, ...]
    shifts: tuple[int, ...]
    bounds: tuple[Bound, ...] = ()
    fill: Number | None = None


@dataclass(eq=False, slots=True)
class Step:
    """An operation at a place. `inside` has, for each place that it reads, what must hold there."""

    node: Node
    at: At
    operands: tuple[Step, ...]
    inside: tuple[tuple[Bound, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Steps:
    """All steps of a kernel, what it loads first and operands before users; and its outputs'."""

    all: list[Step]
    outputs: list[Step]

    def inputs(self) -> list[Node]:
        """The body's input that each load reads, numbers included."""
        return [step.node for step in self.all if isinstance(step.node.op, Input)]

    def places(self) -> list[Step]:
        """The steps whose arithmetic takes the place of the element."""
        return [step for step in self.all if placed_in_memory(step.node)]


@dataclass(frozen=True, slots=True)
class Read:
    """A load: of the tensor number `operand`, with strides by the dimensions of the kernel's shape,
    from `offset` elements behind its first one, where `bounds` hold; elsewhere `fill`.

    Of no tensor (`operand` is None), it is the place itself that is wanted."""

    operand: int | None
    strides: Strides
    offset: int = 0
    bounds: tuple[Bound, ...] = ()
    fill: Number | None = None


def steps(body: Graph, shape: Shape) -> Steps:
    """The steps that compute a group's outputs over `shape`.

    UnsupportedError where a whole row would be needed at another place than its own.
    """
    known: dict[tuple[Node, At], Step] = {}
    own = At((1,) * len(shape), (0,) * len(shape))
    outputs = [(x, narrowed(x, own, own)) for x in body.outputs]
    stack = list(reversed(outputs))  # no recursion: a chain may be longer than Python's stack
    while stack:
        node, at = stack[-1]
        if (node, at) in known:
            stack.pop()
            continue
        inside: tuple[tuple[Bound, ...], ...] = ()
        if isinstance(node.op, Affine):
            there = [(x, through(at, place, x, shape)) for x, place in placed(node)]
            inside = tuple([inner.bounds for _, inner in there])
            operands = [(x, narrowed(x, joined(at, inner, node.op, x), own)) for x, inner in there]
        else:
            operands = [(x, narrowed(x, at, own)) for x in node.inputs]
            if placed_in_memory(node):  # of nothing but numbers, which are there anyway
                operands = [(x, replace(there, bounds=(), fill=None)) for x, there in operands]
        if missing := [x for x in operands if x not in known]:
            stack += reversed(missing)
            continue
        known[node, at] = Step(node, at, tuple([known[x] for x in operands]), inside)
    order = {x: i for i, x in enumerate(body.inputs)}
    found = list(known.values())
    loads = sorted([s for s in found if s.node in order], key=lambda s: order[s.node])
    return Steps([*loads, *[s for s in found if s.node not in order]], [known[x] for x in outputs])


def narrowed(node: Node, at: At, own: At) -> At:
    """The one way to say where a node is needed: index 0 where it has one element only.

    `own` is the element's own index.
    """
    typed = node.type
    if not isinstance(typed, TensorType):
        return own
    if isinstance(node.op, Rowwise):
        x = node.inputs[0].type
        assert isinstance(x, TensorType)
        if narrow(at, x.shape).scales[:-1] != narrow(own, x.shape).scales[:-1] or at.bounds:
            raise UnsupportedError(f"{node.op.name()} is needed at another place", where=node.where)
        return own
    return narrow(at, typed.shape)


def narrow(at: At, shape: Shape) -> At:
    """`at` with index 0 in the dimensions in which `shape` has one element, or none at all."""
    missing = len(at.scales) - len(shape)
    alone = [d < missing or shape[d - missing] == 1 for d in range(len(at.scales))]
    if not any(alone):
        return at
    scales = tuple([0 if one else s for one, s in zip(alone, at.scales, strict=True)])
    shifts = tuple([0 if one else s for one, s in zip(alone, at.shifts, strict=True)])
    return At(scales, shifts, at.bounds, at.fill)


def placed(node: Node) -> list[tuple[Node, Place]]:
    """The operands of an operation that chooses where to read, each with its place."""
    assert isinstance(node.op, Affine)
    types = [x.type for x in node.inputs if isinstance(x.type, TensorType)]
    return [(node.inputs[place.operand], place) for place in node.op.places(*types)]


def through(at: At, place: Place, x: Node, shape: Shape) -> At:
    """Where an operand is read at a place of an operation that is needed `at`.

    Its bounds are what the operand's own size demands, as far as `shape` does not grant it.
    """
    assert isinstance(x.type, TensorType)
    missing = len(shape) - x.type.rank
    scales, shifts = list(at.scales), list(at.shifts)
    bounds: list[Bound] = []
    for d, size in enumerate(x.type.shape):
        dim = missing + d
        scale = scales[dim] = place.scales[d] * at.scales[dim]
        shift = shifts[dim] = place.scales[d] * at.shifts[dim] + place.shifts[d]
        if scale == 0:
            low, high = (0, shape[dim]) if 0 <= shift < size else (0, 0)
        elif scale > 0:
            low, high = -(shift // scale), (size - 1 - shift) // scale + 1
        else:
            low, high = -((size - 1 - shift) // -scale), shift // -scale + 1
        low = low if low > 0 else None
        high = max(high, 0) if high < shape[dim] else None
        if low is not None or high is not None:
            bounds.append(Bound(dim, low, high))
    return At(tuple(scales), tuple(shifts), tuple(bounds))


def joined(at: At, there: At, op: Affine, x: Node) -> At:
    """`there`, where the bounds of `at` hold too; what `op` fills with is loaded where `x` is not.

    Where the bounds of `at` do not hold, nobody asks for the value.
    """
    bounds = tuple(dict.fromkeys((*at.bounds, *there.bounds)))
    fill = op.fill if there.bounds and isinstance(x.op, Input) else None
    return At(there.scales, there.shifts, bounds, fill)


def reads(found: Steps, body: Graph, operands: Sequence[Operand]) -> list[Read]:
    """The loads of a kernel that is given `operands`, in the order of its steps, and behind them
    the places that are wanted."""
    numbers: dict[Node, tuple[int, TensorType]] = {}
    for x, typed in zip(body.inputs, operands, strict=True):
        if isinstance(typed, TensorType):
            numbers[x] = (len(numbers), typed)
    loads = [load(s.at, *numbers[s.node]) for s in found.all if s.node in numbers]
    return [*loads, *[place(step) for step in found.places()]]


def placed_in_memory(node: Node) -> bool:
    """Whether a node's arithmetic takes the places of its elements."""
    return isinstance(node.op, Pointwise) and node.op.placed


def place(step: Step) -> Read:
    """Where an element of a step's result lies in its memory."""
    assert isinstance(step.node.type, TensorType)
    return load(step.at, None, step.node.type)


def load(at: At, operand: int | None, typed: TensorType) -> Read:
    """The load of an operand at a place."""
    own = (0,) * (len(at.scales) - typed.rank) + typed.strides
    strides = tuple([a * b for a, b in zip(own, at.scales, strict=True)])
    offset = sum(a * b for a, b in zip(own, at.shifts, strict=True))
    return Read(operand, strides, offset, at.bounds, at.fill)
