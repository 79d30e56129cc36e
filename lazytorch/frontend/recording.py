"""One recording of a function for compiled use: inputs by source, outputs with eager's aliasing."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn, cast

import torch
from typing_extensions import override

from lazytorch.data import Data
from lazytorch.errors import CutError, LazyTorchError, UnsupportedError
from lazytorch.frontend import trees
from lazytorch.frontend.alias import Cell
from lazytorch.frontend.drawn import Drawn
from lazytorch.frontend.elementwise import Inferred, record_elementwise
from lazytorch.frontend.finish import piece
from lazytorch.frontend.grads import Grads
from lazytorch.frontend.modes import RecordingMode, paused
from lazytorch.frontend.number import Number, Varying
from lazytorch.frontend.recorder import Recorder, span, storage_type
from lazytorch.frontend.sources import (
    Argument,
    Assumed,
    Beside,
    Cut,
    Grad,
    Held,
    Live,
    OnCut,
    Source,
    State,
    Storage,
    listed,
)
from lazytorch.frontend.tensor import LazyTensor, Traced
from lazytorch.ir import Node, input
from lazytorch.ops.aten import Aten, value_type
from lazytorch.ops.base import Pointwise
from lazytorch.ops.certain import certain
from lazytorch.ops.create import Literal as TensorLiteral
from lazytorch.ops.number import ToNumber
from lazytorch.types import ScalarType, TensorType, Type, carries

FEW = 64
"""Elements of a tensor that may decide as a list how Python goes on."""


class Restart(BaseException):
    """Two tensors turned out to share a storage: record again, knowing it."""

    def __init__(self, storage: int) -> None:
        super().__init__(storage)
        self.storage = storage


class Recording(Recorder):
    """Records a function once; `known` are the cuts already answered on this path.

    With `numbers`, the float that `item()` gives is a value of the graph.
    """

    kind = Traced

    def __init__(
        self,
        sources: dict[int, tuple[Source, str]],
        ties: dict[int, list[State]],
        shared: set[int],
        known: tuple[Cut, ...] = (),
        on_cut: OnCut | None = None,
        fullgraph: bool = False,
        numbers: bool = True,
        grads: Grads | None = None,
    ) -> None:
        super().__init__()
        self.mode = RecordingMode(self)
        self.origins = sources
        self.ties = ties
        self.beside: dict[int, Beside] = {}
        self.shared = shared
        self.known = known
        self.on_cut = on_cut
        self.fullgraph = fullgraph
        self.sources: dict[Node, Source] = {}
        self.labels: set[str] = set()
        self.effects: list[Node] = []
        self.numbers = numbers
        self.grads = grads or Grads({}, (), False)
        self.has_numbers = False
        self.assumed: list[Assumed] = []
        self.finished = False
        self.cells: list[weakref.ref[Cell | Varying]] = []
        self.cuts = 0
        self.deriving = 0  # how many derivatives are being taken of what is recorded now
        self.notes: list[str] = []
        self.inferred = Inferred()
        self.drawn: list[Drawn] = []

    # How real tensors come in.

    def new_input(self, label: str, typed: Type, source: Source) -> Node:
        """An input node with a label that is unique and readable in a graph's text."""
        label = re.sub(r"[^\w.\[\]]", "_", label) or "x"
        label = f"x{label}" if label.isdigit() else label
        unique, count = label, 1
        while unique in self.labels:
            unique, count = f"{label}_{count}", count + 1
        self.labels.add(unique)
        of = source.of if isinstance(source, Storage) else source
        node = input(unique, typed, "argument" if isinstance(of, Argument | Live) else "state")
        self.sources[node] = source
        return node

    def number_argument(self, index: int, label: str, value: float) -> Number:
        """The stand-in for a float argument that varies."""
        node = self.new_input(label, ScalarType(float), Argument(index))
        return Number(self.varying(node, value))

    def varying(self, node: Node, known: float | None) -> Varying:
        """A number's value; what was read from a tensor is kept over a cut."""
        self.has_numbers = True
        made = Varying(self, node, known)
        if made.from_tensor:
            self.cells.append(weakref.ref(made))
        return made

    def origin(self, tensor: torch.Tensor) -> tuple[Argument | State | Held | Grad, str]:
        """Where a real tensor is found at the next call."""
        found = self.origins.get(id(tensor))
        if found is not None and isinstance(found[0], Grad):
            self.grads.used = True
        if found is None:
            label = f"held{len(self.sources)}"
            self.notes.append(
                f"%{label} ({tuple(tensor.shape)}) is held by reference: no attribute, closure "
                f"or global of the function holds it (first read at {self.b.where})"
            )
            held = Held(tensor)
            self.grads.meet(tensor, held, label, self.origins)
            return held, label
        return cast("tuple[Argument | State | Held | Grad, str]", found)

    @override
    def bind(self, tensor: torch.Tensor, typed: TensorType) -> Node:
        source, label = self.origin(tensor)
        return self.new_input(label, typed, source)

    @override
    def bind_storage(self, tensor: torch.Tensor) -> Node:
        source, label = self.origin(tensor)
        return self.new_input(f"{label}.storage", storage_type(tensor), Storage(source))

    @override
    def joined(self, cell: Cell, first: torch.Tensor, tensor: torch.Tensor) -> None:
        source, _ = self.origin(tensor)
        typed = value_type(tensor)
        assert isinstance(typed, TensorType)
        distance = span(tensor)[0] - span(first)[0]
        self.beside[id(tensor)] = Beside(source, typed, distance)

    def places_beside(self) -> list[tuple[Node, Beside]]:
        """Where there must be the tensors of inputs, or others on their memory, besides where
        the inputs themselves are found."""
        found: list[tuple[Node, Beside]] = []
        for tensor, x in zip(self.kept, self.shadows.values(), strict=True):
            beside = self.beside.get(id(tensor))
            if beside is not None:
                found.append((x.cell.initial, beside))
            for tie in self.ties.get(id(tensor), ()):
                one = Beside(tie) if beside is None else replace(beside, source=tie)
                found.append((x.cell.initial, one))
        return found

    @override
    def is_shared(self, storage: int) -> bool:
        return storage in self.shared

    @override
    def overlap(self, tensor: torch.Tensor) -> NoReturn:
        raise Restart(tensor.untyped_storage()._cdata)

    @override
    def effect(self, node: Node) -> Node:
        self.effects.append(node)
        return node

    @override
    def fresh(self, node: Node, differentiable: bool) -> LazyTensor:
        x = super().fresh(node, differentiable)
        if not node.inputs:
            self.grads.made.append(weakref.ref(x))
        self.cells.append(weakref.ref(x.cell))
        return x

    @override
    def elementwise(self, op: Pointwise, args: tuple[Any, ...]) -> LazyTensor | None:
        return record_elementwise(self, op, args)

    def literal(self, tensor: torch.Tensor) -> LazyTensor:
        """A constant made of Python numbers in the function; among stand-ins it has its values."""
        with paused():
            data = Data(tensor.clone())
        return self.fresh(self.b(TensorLiteral(data)), False)

    @contextmanager
    def resumed(self) -> Any:
        """The mode again, for torch code that runs inside the handling of one call."""
        with self.mode:
            yield

    def stored(self, target: torch.Tensor, x: LazyTensor) -> None:
        """Real tensors are written when the program ends."""

    # What derivatives of the function pass by.

    @override
    def leaf(self, x: LazyTensor) -> None:
        self.grads.leaves.append((x, self.read(x)))

    @override
    def retain(self, x: LazyTensor) -> None:
        self.grads.retained.append(x)

    @override
    def hook(self, x: LazyTensor, hook: Any) -> Any:
        if not x.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        return self.grads.hook(self.read(x), hook)

    @override
    def observed(self, op: Aten, operands: list[Node]) -> Any:
        what = f"the size of {op.overload}'s result depends on values"
        if self.deriving and not self.fullgraph and any([carries(x.type) for x in operands]):
            typed = trees.unflatten(*self.cut(operands, bool, op.type_of_run).value)
            return self.b(op.with_attributes(observed=typed), *operands)
        result = self.eager(op.run, operands, what)
        if isinstance(result, tuple | list):
            return [self.read(x) for x in result]
        return self.read(result)

    # How values get out.

    @override
    def force(self, x: LazyTensor) -> torch.Tensor:
        raise UnsupportedError(
            "a compiled function cannot hand a tensor's values to other code while it is recorded",
            {"tensor": x.typed},
            self.here(),
            "mark the function that needs the values lt.disable, or do it outside",
        )

    @override
    def describe(self, x: LazyTensor) -> str:
        return f"<traced {x.typed}>"

    @override
    def item(self, x: LazyTensor) -> Any:
        kind = x.typed.dtype
        if kind is torch.bool or kind.is_complex:
            return self.number(x, bool if kind is torch.bool else complex)
        if kind.is_floating_point and self.numbers and x.typed.numel == 1:
            value = self.read(x)
            if not isinstance(value.op, TensorLiteral):
                return Number(self.varying(self.b(ToNumber(), value), None))
        return self.number(x, float if kind.is_floating_point else int)

    def number(self, x: LazyTensor, kind: type) -> Any:
        """The value: if it is not certain, what was recorded so far is run, and the recording
        cut."""
        if x.typed.numel != 1:
            raise LazyTorchError(
                "Boolean value of Tensor with more than one value is ambiguous"
                if kind is bool
                else "only one element tensors can be converted to Python scalars",
                {"tensor": x.typed},
                self.here(),
            )
        value = self.read(x)
        if isinstance(value.op, TensorLiteral):
            return kind(value.op.data.tensor.item())
        answer = certain(value)
        return self.decided(value, kind) if answer is None else kind(answer)

    @override
    def tolist(self, x: LazyTensor) -> Any:
        """All elements decide, at one cut, if they are few."""
        value = self.read(x)
        if isinstance(value.op, TensorLiteral):
            return value.op.data.tensor.tolist()
        if x.typed.numel > FEW or x.typed.dtype.is_complex:
            return super().tolist(x)
        return listed(self.decided(value, list))

    def decided(self, value: Node, kind: type) -> Any:
        """Cut here, and go on knowing what a tensor's element or a number is."""
        if self.fullgraph:
            raise CutError(
                f"fullgraph=True, but the recording would be cut: {kind.__name__}() of a tensor "
                "decides how Python goes on",
                {"value": value.type},
                self.here(),
                "use torch.where, or leave fullgraph=False",
            )
        return self.cut([value], kind, None).value

    def eager(self, call: Callable[..., Any], operands: list[Node], what: str) -> Any:
        """Cut here: run `call` eagerly on the operands' values, at every call of the function."""
        if self.fullgraph:
            said = f"fullgraph=True, but the recording would be cut: {what}"
            raise CutError(said, where=self.here())
        if self.deriving and any([carries(x.type) for x in operands]):
            said = f"a derivative cannot pass what runs outside the graph: {what}"
            raise UnsupportedError(said, where=self.here())
        position = self.cuts
        spec, parts = self.cut(operands, bool, call).value
        results: list[Any] = []
        for part in parts:
            if isinstance(part, TensorType):
                index = sum(isinstance(x, Node) for x in results)
                label = f"result{position}_{index}"
                results.append(self.new_input(label, part, Live(position, index)))
            else:
                results.append(part)
        return trees.unflatten(spec, [self.wrap(x, False) for x in results])

    def cut(self, nodes: list[Node], kind: type, call: Callable[..., Any] | None) -> Cut:
        """End the piece in `nodes`, and go on knowing what came of them."""
        if self.deriving and (self.effects or any([x.version for x in self.outer_cells()])):
            what = "a derivative of what looks at a value after a random draw or a write"
            raise UnsupportedError(what, where=self.here(), hint="use torch.where")
        if call is not None and self.grads.changed():
            raise UnsupportedError(
                "a function kept eager would see gradients that are only recorded",
                where=self.here(),
                hint="call it before backward(), or after the compiled function",
            )
        position = self.cuts
        self.cuts += 1
        if position < len(self.known):
            cut = self.known[position]
        else:
            cut = self.new_cut(nodes, kind, call)
        if not self.deriving:  # a derivative needs what came before: the next piece computes it too
            self.rebase(position, cut)
        return cut

    def new_cut(self, nodes: list[Node], kind: type, call: Callable[..., Any] | None) -> Cut:
        """Run the piece up to here."""
        if self.on_cut is None:
            raise CutError(
                "one straight graph cannot follow a value that decides how Python goes on",
                where=self.here(),
                hint="lt.compile can; lt.trace shows a function without such places",
            )
        live: list[int] = []
        values: list[Node] = []
        for i, ref in enumerate(() if self.deriving else self.cells):
            cell = ref()
            if cell is not None and not isinstance(cell.value.op, TensorLiteral):
                live.append(i)
                values.append(cell.value)
        cut = Cut(str(self.here()), tuple(live), kind, call, len(nodes))
        outputs = [*nodes, *values]
        with paused():
            value = self.on_cut(piece(self, outputs, [None] * len(outputs), cut))
        return replace(cut, value=value)

    def rebase(self, piece: int, cut: Cut) -> None:
        """Go on from the values that piece `piece` left behind."""
        self.effects.clear()
        for cell in self.outer_cells():
            if cell.version:
                cell.value = cell.initial  # the piece wrote it back: read it anew
                cell.version += 1
        first = 1 if cut.call is None else sum(isinstance(x, TensorType) for x in cut.value[1])
        place = {index: first + i for i, index in enumerate(cut.live)}
        for i, ref in enumerate(self.cells):
            cell = ref()
            if cell is None or isinstance(cell.value.op, TensorLiteral):
                continue
            if i not in place:
                raise UnsupportedError(
                    "the function took another way than when it was first recorded",
                    {"cut": cut.where},
                    hint="its Python control flow must depend on its arguments and modules alone",
                )
            source = Live(piece, place[i])
            cell.value = self.new_input(f"live{piece}_{place[i]}", cell.typed, source)
            cell.version += 1
