"""Node and Graph: the intermediate representation, which knows no operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import is_
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from typing_extensions import override

from lazytorch.errors import LazyTorchError, Where
from lazytorch.op import Attribute as Attribute
from lazytorch.op import Op as Op
from lazytorch.op import Operand as Operand
from lazytorch.op import attribute_key as attribute_key
from lazytorch.types import Number, ScalarType, Type, dtype_name

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True, repr=False, init=False)
class Node:
    """One value: an operation applied to other values. Never edited, always rebuilt."""

    op: Op
    inputs: tuple[Node, ...]
    type: Type
    where: Where | None = None

    def __init__(
        self, op: Op, inputs: tuple[Node, ...], type: Type, where: Where | None = None
    ) -> None:
        # Past the frozen class's own __setattr__: every recorded operation comes by here.
        _set_op(self, op)
        _set_inputs(self, inputs)
        _set_type(self, type)
        _set_where(self, where)

    def __repr__(self) -> str:
        return f"<{self.op.name()}: {self.type}>"


_set_op, _set_inputs, _set_type, _set_where = (
    vars(Node)[name].__set__ for name in ("op", "inputs", "type", "where")
)


class Const(Op):
    """A Python number known when the graph was recorded."""

    value: Number

    @override
    def infer(self) -> ScalarType:
        return ScalarType(type(self.value))

    @override
    def run(self) -> Number:
        return self.value


class Input(Op):
    """A value that the caller provides: an `argument`, or `state` (a parameter, a buffer).

    State changes rarely, so what depends on it alone is computed once, in the prologue.
    """

    label: str
    typed: Any  # a Type; annotated loosely because Type is a union
    role: Literal["argument", "state"] = "argument"

    @override
    def infer(self) -> Type:
        return self.typed


class Item(Op):
    """Element `index` of a tuple."""

    index: int
    view: ClassVar[bool] = True

    @override
    def infer(self, xs: Any) -> Type:
        return xs.items[self.index]

    @override
    def run(self, xs: Sequence[Any]) -> Any:
        return xs[self.index]


class Write(Op):
    """Effect: copy the second operand into the tensor that the first, an input, names."""

    effect: ClassVar[bool] = True

    @override
    def infer(self, target: Any, value: Any) -> Type:
        if target.shape != value.shape or target.dtype != value.dtype:
            raise LazyTorchError(f"write: {value} does not fit {target}")
        return target

    @override
    def run(self, target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return target.copy_(value)


class Builder:
    """Makes nodes: turns numbers into constants, infers the type, names the line in errors."""

    __slots__ = ("where",)

    def __init__(self, where: Where | None = None) -> None:
        self.where = where

    def __call__(self, op: Op, *inputs: Node | Number) -> Node:
        """The node that applies `op` to `inputs`."""
        nodes = tuple([x if isinstance(x, Node) else constant(x) for x in inputs])
        try:
            result = op.infer(*[n.type for n in nodes])
        except LazyTorchError as error:
            if error.where is None:
                error.where = self.where
            if not error.values:
                error.values = {f"operand {i}": n.type for i, n in enumerate(nodes)}
            raise
        return Node(op, nodes, result, self.where)


def constant(value: Number) -> Node:
    """A node that is a Python number."""
    return Node(Const(value), (), ScalarType(value.__class__))


def input(label: str, typed: Type, role: Literal["argument", "state"] = "argument") -> Node:
    """A node that the caller provides."""
    return Node(Input(label, typed, role), (), typed)


@dataclass(frozen=True, slots=True)
class Alias:
    """An output that shares memory in eager: the caller gets a view of `source[index]`.

    `strides` None means the very same object. `offset` counts elements from the source's own
    first element; where `dtype` states that the bytes are read as another dtype, it counts bytes.
    `conj` says that eager's view conjugates what it shows.
    """

    source: Literal["input", "output"]
    index: int
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] | None = None
    offset: int = 0
    dtype: torch.dtype | None = None
    conj: bool = False

    def __str__(self) -> str:
        if self.strides is None:
            return f"{self.source} {self.index}"
        dtype = "" if self.dtype is None else f", dtype={dtype_name(self.dtype)}"
        return (
            f"view of {self.source} {self.index}: shape={self.shape}, strides={self.strides}, "
            f"offset={self.offset}{dtype}{', conj=True' if self.conj else ''}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """Inputs, outputs and effects; the nodes are what these reach, operands first.

    `aliases[k]`, where not None, says that output k shares memory with an input or an earlier
    output; `outputs[k]` is its value all the same. `order`, where stated, is the order in which
    nodes run, as far as they are reached; a rewrite of the graph forgets it. `verified` is set by
    `verify` alone.
    """

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    effects: tuple[Node, ...] = ()
    aliases: tuple[Alias | None, ...] = field(default=())
    order: tuple[Node, ...] = ()
    verified: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.aliases:
            object.__setattr__(self, "aliases", (None,) * len(self.outputs))

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every node once: inputs, then operands before users, writes to inputs last."""
        writes = [e for e in self.effects if isinstance(e.op, Write)]
        others = [e for e in self.effects if not isinstance(e.op, Write)]
        roots = [*self.inputs, *others, *self.outputs, *writes]
        found = postorder(roots)
        if self.order:
            reached = set(found)
            stated = [x for x in self.order if x in reached]
            found = postorder([*self.inputs, *stated, *roots])
        return tuple(found)

    @cached_property
    def users(self) -> dict[Node, list[Node]]:
        """The nodes that read each node, in order, once per use."""
        users: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for x in node.inputs:
                users[x].append(node)
        return users

    @cached_property
    def steady(self) -> frozenset[Node]:
        """Nodes that depend on constants and on state alone, state that the graph does not write.

        Their values change only when a parameter does, so the prologue computes them.
        """
        written = {e.inputs[0] for e in self.effects if isinstance(e.op, Write)}
        steady: set[Node] = set()
        for node in self.nodes:
            if isinstance(node.op, Input):
                if node.op.role == "state" and node not in written:
                    steady.add(node)
            elif not node.op.effect and not node.op.fresh and steady.issuperset(node.inputs):
                steady.add(node)
        return frozenset(steady)

    def map(self, rewrite: Callable[[Node], Node]) -> Graph:
        """Rebuild with `rewrite` applied to every node, operands first; self if nothing changed.

        `rewrite` sees nodes whose operands are rewritten already, so an analysis keyed by this
        graph's nodes may not accompany it. Inputs stay themselves.
        """
        done: dict[Node, Node] = {x: x for x in self.inputs}
        changed: set[Node] = set()
        for node in self.nodes:
            if node in done:
                continue
            kept = changed.isdisjoint(node.inputs)
            given = node if kept else with_inputs(node, [done[x] for x in node.inputs])
            made = done[node] = rewrite(given)
            if made is not node:
                changed.add(node)
        return self.replace(done)

    def replace(self, new: dict[Node, Node]) -> Graph:
        """The graph whose roots are looked up in `new`; self if they are all the same."""
        outputs = tuple(new.get(x, x) for x in self.outputs)
        effects = tuple(new.get(x, x) for x in self.effects)
        if outputs == self.outputs and effects == self.effects:
            return self
        return replace(self, outputs=outputs, effects=effects, order=())

    def to_networkx(self) -> networkx.MultiDiGraph[Any]:
        """A networkx graph: nodes are numbered as printed, with `op`, `type`, `where`, `output`."""
        import networkx

        drawn: networkx.MultiDiGraph[Any] = networkx.MultiDiGraph()
        number = {node: i for i, node in enumerate(self.nodes)}
        for node, i in number.items():
            drawn.add_node(
                i, op=node.op, type=node.type, where=node.where, output=node in self.outputs
            )
            for position, x in enumerate(node.inputs):
                drawn.add_edge(number[x], i, operand=position)
        return drawn

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __str__(self) -> str:
        from lazytorch.text import print_graph

        return print_graph(self)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Structure without source lines: equal for graphs that compute alike."""
        # A number is its value wherever it is read, however many nodes state it.
        computed = [node for node in self.nodes if not isinstance(node.op, Const)]
        number: dict[Node, object] = {node: i for i, node in enumerate(computed)}
        number |= {node: node.op.key for node in self.nodes if isinstance(node.op, Const)}
        return (
            tuple((n.op.key, n.type, tuple(number[x] for x in n.inputs)) for n in computed),
            tuple(number[x] for x in self.inputs),
            tuple(number[x] for x in self.outputs),
            tuple(number[x] for x in self.effects),
            self.aliases,
        )

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Graph) and self.key == other.key)

    def __hash__(self) -> int:
        return hash(self.key)


def with_inputs(node: Node, inputs: Sequence[Node]) -> Node:
    """The node on other operands: itself on the same ones, retyped where their types differ."""
    if all(map(is_, inputs, node.inputs)):
        return node
    same = all([a is b or a.type == b.type for a, b in zip(inputs, node.inputs, strict=True)])
    typed = node.type if same else node.op.infer(*[x.type for x in inputs])
    return Node(node.op, tuple(inputs), typed, node.where)


def postorder(roots: Iterable[Node]) -> list[Node]:
    """Nodes reachable from `roots`, operands first, in order of the roots; no recursion."""
    done: dict[Node, None] = {}
    for root in roots:
        if root in done:
            continue
        stack = [(root, iter(root.inputs))]
        while stack:
            node, operands = stack[-1]
            for x in operands:
                if x in done:
                    continue
                if x.inputs:
                    stack.append((x, iter(x.inputs)))
                    break
                done[x] = None
            else:
                done[node] = None
                stack.pop()
    return list(done)
