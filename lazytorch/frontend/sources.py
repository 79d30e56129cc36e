"""What a recording says besides graphs: where inputs come from, cuts, and the result's leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.frontend import trees
from lazytorch.frontend.places import Slot
from lazytorch.frontend.watch import Change
from lazytorch.ir import Graph, Input, Node, postorder
from lazytorch.ops.aten import value_type
from lazytorch.ops.number import Arithmetic
from lazytorch.types import TensorType


@dataclass(frozen=True, slots=True)
class Argument:
    """Leaf `index` of the call's arguments."""

    index: int


@dataclass(frozen=True, slots=True)
class State:
    """A parameter, a buffer, a tensor in a closure or a global: looked up again at every call."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor that no place was found for: held by reference, read at every call."""

    tensor: torch.Tensor


@dataclass(frozen=True, slots=True)
class Grad:
    """The `.grad` of another source's tensor: looked up again at every call."""

    of: Argument | State | Held


@dataclass(frozen=True, slots=True)
class Storage:
    """The whole storage of another source, flat: several tensors share it."""

    of: Argument | State | Held | Grad


@dataclass(frozen=True, slots=True)
class Live:
    """Output `index` of piece `piece`: a value that was alive when the recording was cut."""

    piece: int
    index: int


Source = Argument | State | Held | Grad | Storage | Live


@dataclass(frozen=True, slots=True)
class Beside:
    """A place that is no input's source, where a call must find what the recording found: the
    tensor of some input or, of the type `typed`, one on its memory, `distance` bytes behind it."""

    source: Argument | State | Held | Grad
    typed: TensorType | None = None
    distance: int = 0

    def holds(self, tensor: object, of: torch.Tensor) -> bool:
        """Whether the place has such a tensor, if the input's is `of`."""
        if self.typed is None or not isinstance(tensor, torch.Tensor):
            return tensor is of
        return (
            tensor.untyped_storage()._cdata == of.untyped_storage()._cdata
            and tensor.storage_offset() * tensor.itemsize
            == of.storage_offset() * of.itemsize + self.distance
        )


def tensor_of(source: Argument | State | Held, leaves: Sequence[Any]) -> torch.Tensor:
    """The tensor that a call finds at an argument's or a place's."""
    if isinstance(source, Held):
        return source.tensor
    if isinstance(source, Argument):
        return leaves[source.index]
    return source.slot.store[source.slot.name]


@dataclass(frozen=True, slots=True)
class Assumed:
    """What Python asked of the numbers among the arguments, and what it was told.

    `graph` has the `arguments` (leaves of the call's arguments) as inputs. With `exact`, it is a
    number itself whose value was needed, not just how it compares.
    """

    graph: Graph
    arguments: tuple[int, ...]
    value: Any
    exact: bool
    where: str


def assumption(node: Node, value: Any, sources: Mapping[Node, Source], where: str) -> Assumed:
    """That `node`, computed from arguments alone, is `value`."""
    inputs = tuple([x for x in postorder([node]) if isinstance(x.op, Input)])
    arguments = [source.index for x in inputs if isinstance(source := sources[x], Argument)]
    exact = isinstance(node.op, Arithmetic) and node.op.function == "float"
    return Assumed(Graph(inputs, (node,)), tuple(arguments), value, exact, where)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of the result: an output of the last piece, or a constant.

    `ends` says that gradients end there: a tensor without history, made by the function, that
    requires grad. `apart` is a view of what has a history that has none itself.
    """

    output: int | None
    value: Any = None
    requires_grad: bool = False
    ends: bool = False
    apart: bool = False


@dataclass(frozen=True)
class Piece:
    """A graph between two cuts with the sources of its inputs."""

    graph: Graph
    sources: tuple[Source, ...]
    cut: Cut | None = None
    beside: tuple[tuple[int, Beside], ...] = ()  # by the inputs that they are beside


def addresses(
    piece: Piece, recorded: Recorded | None, promised: bool
) -> tuple[frozenset[int], frozenset[int]]:
    """The inputs of a piece that stay in place, if that is promised: memory of the arguments; and
    the state that every call replaces, which never stays."""
    memory = [s.of if isinstance(s, Storage) else s for s in piece.sources]
    stay = frozenset(i for i, s in enumerate(memory) if promised and isinstance(s, Argument))
    replaced = () if recorded is None else recorded.replaced
    places = {(id(slot.store), slot.name) for slot in replaced}
    states = [(i, s.slot) for i, s in enumerate(memory) if isinstance(s, State)]
    return stay, frozenset(i for i, slot in states if (id(slot.store), slot.name) in places)


@dataclass(frozen=True)
class Cut:
    """Where a recording was cut, and how its value decides what comes next.

    A number is looked at: output 0 as `kind`, or all of its elements as a `list`. Or `call` is a
    function that runs on the piece's first `operands` outputs, eagerly; then `value` describes what
    it returned, and its tensors take the operands' place among the outputs. `live` says which cells
    (by order of creation) the further outputs belong to.
    """

    where: str
    live: tuple[int, ...]
    kind: type = bool
    call: Callable[..., Any] | None = None
    operands: int = 1
    value: Any = None

    def resolve(self, outputs: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
        """The value that the piece's outputs give, and the outputs with the call's results."""
        if self.call is None:
            first = outputs[0]
            if self.kind is list:
                return hashable(first.tolist()), (*outputs,)
            return self.kind(first.item() if isinstance(first, torch.Tensor) else first), (
                *outputs,
            )
        given = outputs[: self.operands]
        tensors = [x for x in given if isinstance(x, torch.Tensor)]
        versions = [x._version for x in tensors]
        leaves, spec = trees.flatten(self.call(*given))
        if [x._version for x in tensors] != versions:
            raise UnsupportedError(
                "a function kept eager wrote into a tensor that a compiled function gave it",
                {"at": self.where},
                hint="let it work on a clone and return the result",
            )
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        parts = tuple(value_type(x) if isinstance(x, torch.Tensor) else x for x in leaves)
        return (spec, parts), (*tensors, *outputs[self.operands :])


def hashable(values: Any) -> Any:
    """Lists as tuples, so that they can be looked up."""
    return tuple(map(hashable, values)) if isinstance(values, list) else values


def listed(values: Any) -> Any:
    """Tuples as the lists that they were."""
    return list(map(listed, values)) if isinstance(values, tuple) else values


@dataclass(frozen=True)
class Relied:
    """What a recording found of the gradient of a tensor: None or its type, and its hooks."""

    source: Argument | State | Held
    grad: TensorType | None
    requires_grad: bool
    hooks: tuple[Any, ...]

    @staticmethod
    def of(
        source: Argument | State | Held, tensor: torch.Tensor, grad: torch.Tensor | None
    ) -> Relied:
        """What there is to find of a tensor with this gradient."""
        typed = None
        if grad is not None:
            shape, strides = tuple(grad.shape), tuple(grad.stride())
            typed = TensorType(shape, grad.dtype, grad.device, strides)
        flag = grad is not None and grad.requires_grad
        return Relied(source, typed, flag, hooks_of(tensor))

    def holds(self, leaves: Sequence[Any]) -> bool:
        """Whether a call finds the same."""
        tensor = tensor_of(self.source, leaves)
        grad = tensor.grad
        if grad is None and self.grad is None:  # most tensors, at most calls
            return hooks_of(tensor) == self.hooks
        return Relied.of(self.source, tensor, grad) == self


def hooks_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """The functions that torch's engine would call for a tensor, in order."""
    before, after = tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)
    if not before and not after:
        return ()
    return tuple([hook for hooks in (before, after) if hooks for hook in hooks.values()])


@dataclass
class Recorded:
    """The last piece of a recording, what the function returned, what it changed in Python.

    If it `fills` lists or other containers among its arguments, these follow in the result.
    `assumed` is what the recording, all its pieces, took for granted of numbers; `failure` why
    there are none in the graph, where the function cannot work with them.

    `grads` are the tensors whose `.grad` is another one afterwards; what it is then comes next in
    the result. `relied` is what the recording took for granted of gradients. `replaced` are the
    places of tensors that hold others afterwards (`self.mean = ...`), which come last.
    """

    piece: Piece
    leaves: list[Leaf]
    spec: trees.Spec
    notes: list[str] = field(default_factory=list[str])
    cuts: int = 0
    fills: bool = False
    changes: list[Change] = field(default_factory=list[Change])
    assumed: list[Assumed] = field(default_factory=list[Assumed])
    failure: str = ""
    grads: tuple[Argument | State | Held, ...] = ()
    relied: tuple[Relied, ...] = ()
    replaced: tuple[Slot, ...] = ()
    recorder: Any = None  # where the function registered hooks, which are recorded in it


OnCut = Callable[[Piece], Any]
"""Runs a new piece up to its cut and returns the value that decides what comes next."""
