"""The recorder: turns torch calls on lazy tensors into nodes, for lazy and for compiled use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import torch
from typing_extensions import override

from lazytorch.errors import LazyTorchError, UnsupportedError, Where
from lazytorch.frontend import dispatch, geometry
from lazytorch.frontend.alias import Cell, Window, detached
from lazytorch.frontend.place import Place, place
from lazytorch.frontend.refuse import refuse_unusual
from lazytorch.frontend.tensor import LazyTensor, Traced, make
from lazytorch.frontend.values import items, refuse_varying
from lazytorch.frontend.where import Lines
from lazytorch.ir import Builder, Node, Op
from lazytorch.ops.aten import Aten
from lazytorch.ops.base import Pointwise, View
from lazytorch.ops.copies import last_element, overlaps
from lazytorch.ops.layout import AsStrided, Detach, Kept
from lazytorch.types import NOTHING, ScalarType, TensorType, TupleType, tensor_type


class RecordingBuilder(Builder):
    """A Builder that tells its recorder of every effect."""

    __slots__ = ("recorder",)

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    @override
    def __call__(self, op: Op, *inputs: Any) -> Node:
        refuse_varying(op)
        node = Builder.__call__(self, op, *inputs)
        return self.recorder.effect(node) if op.effect else node


class Recorder:
    """What both uses share; they say how real tensors come in and how values get out."""

    kind: type[LazyTensor] = LazyTensor
    undoes = False
    """Whether what is recorded may have to be undone: then nothing may be replaced."""

    def __init__(self) -> None:
        self.b = RecordingBuilder(self)
        self.lines = Lines()
        self.module = ""
        self.shadows: dict[int, LazyTensor] = {}
        self.kept: list[torch.Tensor] = []  # so that no id in `shadows` is given away
        # The cells of real tensors, by storage: parts of one that no write joins have their own.
        self.storages: dict[int, list[tuple[Cell, torch.Tensor]]] = {}
        self.crossing: dict[Cell, torch.Tensor] = {}  # cells whose memory others show, too

    # What the two uses differ in.

    def bind(self, tensor: torch.Tensor, typed: TensorType) -> Node:
        """An input node for a real tensor."""
        raise NotImplementedError

    def bind_storage(self, tensor: torch.Tensor) -> Node:
        """An input node for the whole storage of a real tensor, as a flat tensor."""
        raise NotImplementedError

    def joined(self, cell: Cell, first: torch.Tensor, tensor: torch.Tensor) -> None:
        """A tensor came in on a cell that `first` brought."""

    def overlap(self, tensor: torch.Tensor) -> NoReturn:
        """Memory turned out to be shared after tensors on it came in alone."""
        raise NotImplementedError

    def is_shared(self, storage: int) -> bool:
        """Whether tensors of different geometry on this storage are expected."""
        raise NotImplementedError

    def effect(self, node: Node) -> Node:
        """An effect was built: keep it in order."""
        raise NotImplementedError

    def stored(self, target: torch.Tensor, x: LazyTensor) -> None:
        """A value was written through `target`, for which `x` stands."""
        raise NotImplementedError

    def eager(self, call: Callable[..., Any], operands: list[Node], what: str) -> Any:
        """What a function that must see real values returns."""
        raise NotImplementedError

    def observed(self, op: Aten, operands: list[Node]) -> Any:
        """The result of an operation whose size depends on values."""
        raise NotImplementedError

    def literal(self, tensor: torch.Tensor) -> LazyTensor:
        """A tensor made of Python numbers."""
        raise NotImplementedError

    def resumed(self) -> AbstractContextManager[None]:
        """The recording mode again, for torch code that runs while one call is handled."""
        raise NotImplementedError

    def force(self, x: LazyTensor) -> torch.Tensor:
        """The value of `x`."""
        raise NotImplementedError

    def number(self, x: LazyTensor, kind: type) -> Any:
        """The value of a one-element tensor as a Python number."""
        raise NotImplementedError

    def item(self, x: LazyTensor) -> Any:
        """`x.item()`."""
        raise NotImplementedError

    def tolist(self, x: LazyTensor) -> Any:
        """`x.tolist()`."""
        return self.force(x).tolist()

    def describe(self, x: LazyTensor) -> str:
        """`repr(x)`."""
        raise NotImplementedError

    def leaf(self, x: LazyTensor) -> None:
        """`x` requires grad from now on, without a history."""

    def retain(self, x: LazyTensor) -> None:
        """`x.retain_grad()`."""
        raise NotImplementedError

    def hook(self, x: LazyTensor, hook: Any) -> Any:
        """`x.register_hook(hook)`."""
        raise NotImplementedError

    # Recording.

    def here(self) -> Where | None:
        """The user's line."""
        return self.lines.here(self.module)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record one call of an overload and return lazy results."""
        self.b.where = self.lines.here(self.module)
        return dispatch.handler(func)(self, func, args, kwargs)

    def elementwise(self, op: Pointwise, args: tuple[Any, ...]) -> LazyTensor | None:
        """A short way for elementwise operations, where a recorder has one."""
        return None

    def operator(self, op: Pointwise, args: tuple[Any, ...]) -> LazyTensor | None:
        """The short way, for Python's own operators."""
        self.b.where = self.lines.here(self.module)
        return self.elementwise(op, args)

    def lift(self, tensor: torch.Tensor) -> LazyTensor:
        """The lazy tensor that stands for a real one; one per tensor."""
        found = self.shadows.get(id(tensor))
        if found is not None:
            return found
        refuse_unusual(tensor, self.b.where)
        typed = TensorType(tuple(tensor.shape), tensor.dtype, tensor.device, tuple(tensor.stride()))
        key = tensor.untyped_storage()._cdata
        cell = self.cell_of(tensor, typed)
        window: Window | None = None
        if self.is_shared(key):
            if tensor.dtype is not cell.typed.dtype:
                raise UnsupportedError(
                    "two tensors share memory with different dtypes",
                    {"one": cell.typed, "other": typed},
                    self.b.where,
                )
            step = AsStrided(typed.shape, typed.strides, int(tensor.storage_offset()))
            window = Window(None, step, typed)
        cell.shared = True  # with code outside
        at = int(tensor.storage_offset())
        shadow = make(self.kind, self, cell, window, typed, at, tensor.requires_grad)
        if isinstance(shadow, Traced):
            shadow.behind, shadow.leaf = tensor, tensor.requires_grad and tensor.is_leaf
        self.shadows[id(tensor)] = shadow
        self.kept.append(tensor)
        return shadow

    def cell_of(self, tensor: torch.Tensor, typed: TensorType) -> Cell:
        """The cell of a real tensor's memory.

        What is only read may lie across others: each has an input, and a gradient, of its own.
        """
        key = tensor.untyped_storage()._cdata
        found = self.storages.setdefault(key, [])
        shared = self.is_shared(key)
        crossing: list[Cell] = []
        for cell, first in found:
            apart = first.requires_grad or tensor.requires_grad
            if shared or (not apart and same_geometry(first, tensor)):
                self.joined(cell, first, tensor)
                return cell
            if crosses(first, tensor):
                if not apart or cell.version:
                    self.overlap(tensor)
                crossing.append(cell)
        if shared:
            made = Cell(self.bind_storage(tensor))
        else:
            made = Cell(self.bind(tensor, typed), int(tensor.storage_offset()))
        found.append((made, tensor))
        if crossing:
            self.crossing.update(dict.fromkeys([*crossing, made], tensor))
        return made

    def outer_cells(self) -> list[Cell]:
        """The cells of real tensors."""
        return [cell for some in self.storages.values() for cell, _ in some]

    def versions(self) -> dict[Cell, int]:
        """How often each real tensor's memory was written."""
        return {cell: cell.version for cell in self.outer_cells()}

    def written_since(self, versions: Mapping[Cell, int]) -> bool:
        """Whether a real tensor was written since it was asked for the `versions`."""
        return any(count > versions.get(cell, 0) for cell, count in self.versions().items())

    def lazy(self, tensor: torch.Tensor) -> LazyTensor:
        """A lazy tensor as it is, a real one lifted."""
        return tensor if isinstance(tensor, LazyTensor) else self.lift(tensor)

    def read(self, x: LazyTensor) -> Node:
        """The node that holds the present value of `x`."""
        return x.cell.value if x.window is None else x.cell.read(self.b, x.window)

    def write(self, x: LazyTensor, value: Node) -> None:
        """Store a fitted value through `x`; every tensor on its memory sees it, and keeps the
        history that it has where autograd does not see the write. Refuses a cell that is an
        expanded tensor: its value has an element for each time that a place is shown."""
        cell, before = x.cell, x.cell.value
        if overlaps(cell.typed):
            raise LazyTorchError(
                "a write to a part of a tensor, more than one element of which lies at one place",
                {"tensor": cell.typed},
                self.b.where,
                "write to a clone",
            )
        if cell in self.crossing:
            self.overlap(self.crossing[cell])
        cell.write(self.b, x.window, value)
        seen = torch.is_grad_enabled() and not detached(x.window)
        if x.window is not None and cell.carries and not seen:
            cell.value = self.b(Kept(), before, cell.value)

    def operand(self, value: Any) -> Any:
        """An argument as importers take it: tensors become nodes, also inside lists."""
        if isinstance(value, torch.Tensor):
            return self.read(self.lazy(value))
        if value.__class__ is list or value.__class__ is tuple:
            return [self.operand(v) for v in value]
        if isinstance(value, torch.SymFloat):
            return value.node.value
        return value

    def wrap(self, value: Any, differentiable: bool) -> Any:
        """Lazy tensors for the nodes of a result; a node of a tuple type is taken apart."""
        if value.__class__ is Node:
            typed = value.type
            if typed.__class__ is TensorType:
                return self.fresh(value, differentiable)
            if isinstance(typed, TupleType):
                return tuple(self.wrap(item, differentiable) for item in items(self.b, value))
            if isinstance(typed, ScalarType):
                return self.scalar(value)
            if typed == NOTHING:
                return None
        if isinstance(value, tuple | list):
            return type(value)(self.wrap(v, differentiable) for v in value)
        return value

    def scalar(self, node: Node) -> Any:
        """A number that is a value of the graph."""
        raise UnsupportedError(f"{node.op.name()} returns a number", where=self.b.where)

    def fresh(self, node: Node, differentiable: bool) -> LazyTensor:
        """A tensor on a storage of its own."""
        typed = node.type
        assert isinstance(typed, TensorType)
        if differentiable and not (typed.dtype.is_floating_point or typed.dtype.is_complex):
            differentiable = False
        return make(self.kind, self, Cell(node), None, typed, 0, differentiable)

    def view(self, x: LazyTensor, steps: Sequence[View], differentiable: bool) -> LazyTensor:
        """A window on the memory of `x`; one that no_grad keeps without the history of `x` is in
        eager what gradients end at."""
        ends = isinstance(x, Traced) and x.requires_grad and not differentiable
        if any(isinstance(step, Detach) for step in steps):
            ends = False
        to = place(x).through((Detach(), *steps) if ends else steps)
        x.cell.shared = True
        made = self.at(to, differentiable)
        if ends:
            made.requires_grad_()
        return made

    def at(self, place: Place, differentiable: bool) -> LazyTensor:
        """A tensor on a place."""
        return make(self.kind, self, *place, differentiable)

    def set_data(self, x: LazyTensor, value: object) -> None:
        """`x.data = value`."""
        geometry.set_data(self, x, value)

    def outside(self, x: LazyTensor) -> bool:
        """Whether `x` stands for a tensor that code outside holds."""
        return any(shadow is x for shadow in self.shadows.values())

    def detached(self, node: Node) -> Node:
        """A result made under no_grad from something differentiable: no gradient goes through."""
        return self.b(Detach(), node)


def same_geometry(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors on one storage show the same elements in the same way."""
    return (
        a.dtype is b.dtype
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.storage_offset() == b.storage_offset()
    )


def crosses(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the spans of two tensors on one storage have bytes in common."""
    (a_first, a_end), (b_first, b_end) = span(a), span(b)
    return max(a_first, b_first) < min(a_end, b_end)


def span(tensor: torch.Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its storage, and the one behind its last."""
    first = int(tensor.storage_offset())
    end = first + last_element(tuple(tensor.shape), tuple(tensor.stride())) + 1
    return first * tensor.itemsize, end * tensor.itemsize


def whole_storage(tensor: torch.Tensor) -> torch.Tensor:
    """All elements of the tensor's storage, flat."""
    size = tensor.untyped_storage().nbytes() // tensor.dtype.itemsize
    return tensor.detach().as_strided((size,), (1,), 0)


def storage_type(tensor: torch.Tensor) -> TensorType:
    """Type of `whole_storage`."""
    size = tensor.untyped_storage().nbytes() // tensor.dtype.itemsize
    return tensor_type((size,), tensor.dtype, tensor.device)
