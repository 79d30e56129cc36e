"""Lazy use: work is deferred until someone looks, then the pending graph is run as a whole."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from typing_extensions import override

from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.frontend.alias import Cell, chain
from lazytorch.frontend.modes import RecordingMode, paused
from lazytorch.frontend.recorder import Recorder
from lazytorch.frontend.refuse import refuse_unusual
from lazytorch.frontend.tensor import LazyTensor, make
from lazytorch.ir import Graph, Input, Node, input, postorder
from lazytorch.ops.aten import value_type
from lazytorch.report import Event, Report
from lazytorch.types import TensorType, Type

Execute = Callable[[Graph, Sequence[Any]], tuple[Any, ...]]

OPERATIONS = 20_000  # pending operations at which everything alive is computed
BYTES = 4 << 30  # bytes of pending results, likewise


class Bound:
    """A real value that stands behind an input node, and its version when it came in."""

    __slots__ = ("value", "version")

    def __init__(self, value: Any) -> None:
        self.value = value
        tensor = isinstance(value, torch.Tensor) and not value.is_inference()
        self.version = value._version if tensor else 0

    @property
    def changed(self) -> bool:
        """Whether the tensor was written since."""
        tensor = isinstance(self.value, torch.Tensor) and not self.value.is_inference()
        return tensor and self.value._version != self.version


class Pending(Recorder):
    """The deferred work of one thread: bounded, computed when looked at."""

    kind = LazyTensor

    def __init__(self, execute: Execute) -> None:
        super().__init__()
        self.execute = execute
        self.mode = RecordingMode(self)
        self.bound: weakref.WeakKeyDictionary[Node, Bound] = weakref.WeakKeyDictionary()
        self.owners: weakref.WeakKeyDictionary[Node, weakref.ref[Cell]] = (
            weakref.WeakKeyDictionary()
        )
        self.operations = 0
        self.bytes = 0

    # How values come in.

    def hold(self, value: Any, typed: Type) -> Node:
        """An input node with a value behind it."""
        node = input("x", typed)
        self.bound[node] = Bound(value)
        return node

    def lift(self, tensor: torch.Tensor) -> LazyTensor:
        """A stand-in for a real tensor: it is read when the work is done, and must not change
        until then."""
        refuse_unusual(tensor, self.b.where)
        typed = value_type(tensor)
        assert isinstance(typed, TensorType)
        cell = Cell(self.hold(tensor, typed), int(tensor.storage_offset()))
        return make(self.kind, self, cell, None, typed, cell.offset, tensor.requires_grad)

    @override
    def bind(self, tensor: torch.Tensor, typed: TensorType) -> Node:
        return self.hold(tensor, typed)

    @override
    def bind_storage(self, tensor: torch.Tensor) -> Node:
        raise NotImplementedError("lazy use lifts every tensor alone")

    @override
    def is_shared(self, storage: int) -> bool:
        return False

    @override
    def overlap(self, tensor: torch.Tensor) -> NoReturn:
        raise NotImplementedError("lazy use lifts every tensor alone")

    def stored(self, target: torch.Tensor, x: LazyTensor) -> None:
        """A lazy value was written into a real tensor, which everybody may read: do it now."""
        if target is not x:
            value = self.force(x)
            with paused(), torch.no_grad():
                target.copy_(value)

    def literal(self, tensor: torch.Tensor) -> LazyTensor:
        """A tensor made of Python numbers."""
        return self.lift(tensor)

    def effect(self, node: Node) -> Node:
        """A random draw happens at once, so that it keeps its place among eager's own draws."""
        values = self.values(node.inputs, "a random draw or another effect")
        with paused():
            result = node.op.run(*values)
        return self.hold(result, node.type)

    def observed(self, op: Any, operands: list[Node]) -> Node:
        """An operation whose result's size depends on values runs at once."""
        values = self.values(operands, f"the size of {op.overload} depends on values")
        with paused():
            result = op.run(*values)
        return self.hold(result, value_type(result))

    def eager(self, call: Callable[..., Any], operands: list[Node], what: str) -> Any:
        """A function kept eager runs at once."""
        values = self.values(operands, what)
        with paused():
            return call(*values)

    @contextmanager
    def resumed(self) -> Generator[None]:
        """Torch code that runs inside the handling of one call needs no mode in lazy use."""
        yield

    # Gradients are torch's own in lazy use: results carry no flag of ours.

    @override
    def fresh(self, node: Node, differentiable: bool) -> LazyTensor:
        x = super().fresh(node, False)
        self.owners[node] = weakref.ref(x.cell)
        self.operations += 1
        self.bytes += x.typed.nbytes
        if self.operations > OPERATIONS or self.bytes > BYTES:
            self.flush_all()
        return x

    @override
    def view(self, x: LazyTensor, steps: Any, differentiable: bool) -> LazyTensor:
        return super().view(x, steps, False)

    @override
    def detached(self, node: Node) -> Node:
        return node

    # How values get out.

    @override
    def force(self, x: LazyTensor) -> torch.Tensor:
        return self.real(self.values([self.read_base(x)], "its value was asked for")[0], x)

    def eval(self, xs: Sequence[LazyTensor]) -> list[torch.Tensor]:
        """Compute several at once."""
        bases = self.values([self.read_base(x) for x in xs], "lt.eval")
        return [self.real(base, x) for base, x in zip(bases, xs, strict=True)]

    def read_base(self, x: LazyTensor) -> Node:
        """The node of the whole storage that `x` is on."""
        node = x.cell.value
        if node not in self.bound:
            self.owners[node] = weakref.ref(x.cell)
        return node

    def real(self, base: torch.Tensor, x: LazyTensor) -> torch.Tensor:
        """`x` as a window on its real storage."""
        with paused():
            for one in chain(x.window):
                base = one.step.run(base)
        return base

    def values(self, nodes: Sequence[Node], reason: str) -> list[Any]:
        """The values of nodes; what lazy tensors still hold of the work on the way is kept."""
        wanted = [n for n in dict.fromkeys(nodes) if n not in self.bound]
        if wanted:
            self.run(wanted, reason)
        return [self.bound[n].value for n in nodes]

    def run(self, wanted: list[Node], reason: str) -> None:
        """Compute nodes and everything alive among what they are computed from."""
        started = time.perf_counter()
        reached = postorder(wanted)
        cells: dict[Node, Cell] = {}
        for node in reached:
            ref = self.owners.get(node)
            cell = ref() if ref is not None else None
            if cell is not None and cell.value is node:
                cells[node] = cell
        outputs = list(dict.fromkeys([*wanted, *cells]))
        outputs = [n for n in outputs if n not in self.bound]
        graph, given = self.closed(reached, outputs)
        with paused(), torch.no_grad():
            results = self.execute(graph, given)
        for node, value in zip(outputs, results, strict=True):
            self.bound[node] = Bound(value)
            if node in cells:
                self.settle(cells[node], node, value)
        self.operations = self.bytes = 0
        where = str(self.here() or "outside any user code")
        seconds = time.perf_counter() - started
        Report.add(Event("flush", where, f"{reason} ({len(reached)} operations)", seconds))

    def settle(self, cell: Cell, node: Node, value: Any) -> None:
        """A cell's value is real now: forget how it was computed."""
        cell.value = self.hold(value, node.type)
        cell.version += 1

    def closed(self, reached: list[Node], outputs: list[Node]) -> tuple[Graph, list[Any]]:
        """The pending graph with one input for each distinct real value, and those values."""
        inputs: dict[int, Node] = {}
        given: list[Any] = []
        renamed: dict[Node, Node] = {}
        for node in reached:
            bound = self.bound.get(node)
            if bound is None:
                if isinstance(node.op, Input):
                    raise LazyTorchError("a lazy value lost the tensor behind it")
                renamed[node] = rebuilt(node, renamed)
                continue
            if bound.changed:
                raise UnsupportedError(
                    "a tensor was modified in place while deferred work still had to read it",
                    {"tensor": node.type},
                    node.where,
                    "call lt.eval on what depends on it before writing to it",
                )
            key = id(bound.value)
            if key not in inputs:
                inputs[key] = input(f"x{len(inputs)}", node.type)
                given.append(bound.value)
            renamed[node] = inputs[key]
        graph = Graph(tuple(inputs.values()), tuple(renamed[n] for n in outputs))
        return graph, given

    def flush_all(self) -> None:
        """Compute everything that is alive: the bound on pending work was reached."""
        alive = [
            cell.value
            for ref in list(self.owners.values())
            if (cell := ref()) is not None and cell.value not in self.bound
        ]
        if alive:
            self.run(list(dict.fromkeys(alive)), "the bound on pending work was reached")
        self.operations = self.bytes = 0

    @override
    def number(self, x: LazyTensor, kind: type) -> Any:
        return kind(self.force(x).item())

    @override
    def item(self, x: LazyTensor) -> Any:
        return self.force(x).item()

    @override
    def describe(self, x: LazyTensor) -> str:
        return repr(self.force(x))


def rebuilt(node: Node, renamed: dict[Node, Node]) -> Node:
    """The node on renamed operands."""
    return Node(node.op, tuple(renamed[x] for x in node.inputs), node.type, node.where)
