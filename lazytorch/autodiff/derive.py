"""Derivative rules recorded from torch's own formulas, once for each signature.

The operation's torch kernel is called on lazy stand-ins that require grad, above autograd, and
torch's engine is asked for the gradient: what its formulas do is recorded as operations, which
have rules themselves. Whatever the formulas read of the operation's own results is taken from
those results, so random and expensive operations are not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from typing_extensions import override

from lazytorch.autodiff.devices import CPU, on, placed, relocated
from lazytorch.data import Data
from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.frontend.alias import Cell
from lazytorch.frontend.modes import RecordingMode, paused
from lazytorch.frontend.number import Number, Varying
from lazytorch.frontend.place import Place
from lazytorch.frontend.recorder import Recorder
from lazytorch.frontend.tensor import LazyTensor, make
from lazytorch.ir import Const, Graph, Item, Node, Op, constant, input
from lazytorch.ops.aten import Aten
from lazytorch.ops.aten_backward import AtenBackward
from lazytorch.ops.calculus import Calculus
from lazytorch.ops.copies import Clone
from lazytorch.ops.create import Literal
from lazytorch.ops.custom import once
from lazytorch.ops.layout import Detach
from lazytorch.ops.writes import Put
from lazytorch.types import ScalarType, TensorType, TupleType, Type

if TYPE_CHECKING:
    from lazytorch.frontend.recording import Recording

INCLUDED = torch._C._dispatch_tls_local_include_set()
EXCLUDED = torch._C._dispatch_tls_local_exclude_set()


class OpaqueError(UnsupportedError):
    """What torch's formula does cannot be in a graph; torch's engine can still do it."""


class ValueNeededError(OpaqueError):
    """torch's formula looks at a value in Python or in C++."""


class ConstantError(UnsupportedError):
    """torch takes an operand for a constant (running statistics, a sum of weights)."""


class Deriving(Recorder):
    """Records the kernel of one operation and its gradient, with torch's autograd above it."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.finished = False
        self.op = op
        self.made: list[LazyTensor] = []
        self.mode = RecordingMode(self)

    def refused(self, what: str) -> NoReturn:
        """Why there is no graph of the derivative."""
        raise UnsupportedError(f"the derivative of {described(self.op)} {what}")

    def opaque(self, what: str) -> NoReturn:
        """Why only torch's engine has the derivative."""
        raise OpaqueError(f"the derivative of {described(self.op)} {what}")

    @override
    def bind(self, tensor: torch.Tensor, typed: TensorType) -> Node:
        return self.b(Literal(Data(tensor.clone())))

    @override
    def is_shared(self, storage: int) -> bool:
        return False

    @override
    def effect(self, node: Node) -> Node:
        return node

    @override
    def stored(self, target: torch.Tensor, x: LazyTensor) -> None:
        if target is not x:
            self.refused("writes to a tensor of torch's own")

    @override
    def literal(self, tensor: torch.Tensor) -> LazyTensor:
        return self.fresh(self.b(Literal(Data(tensor.clone()))), False)

    @override
    @contextmanager
    def resumed(self) -> Generator[None]:
        with self.mode:
            yield

    @override
    def eager(self, call: Callable[..., Any], operands: list[Node], what: str) -> Any:
        self.opaque(f"needs values: {what}")

    @override
    def observed(self, op: Aten, operands: list[Node]) -> Any:
        if isinstance(self.op, Aten) and op == self.op.with_attributes(observed=None):
            return self.b(self.op, *operands)
        self.opaque(f"needs values: the size of {op.overload}'s result")

    @override
    def force(self, x: LazyTensor) -> NoReturn:
        self.opaque("needs values")

    @override
    def number(self, x: LazyTensor, kind: type) -> NoReturn:
        self.item(x)

    @override
    def item(self, x: LazyTensor) -> NoReturn:
        raise ValueNeededError(f"the derivative of {described(self.op)} needs a value in Python")

    def decided(self, value: Node, kind: type) -> NoReturn:
        """A number that varies decides how torch goes on."""
        self.refused("depends on the value of a number that varies")

    def varying(self, node: Node, known: float | None) -> Varying:
        """A number computed from one that varies."""
        return Varying(cast("Recording", self), node, None)

    @override
    def scalar(self, node: Node) -> Number:
        return Number(self.varying(node, None))

    @override
    def describe(self, x: LazyTensor) -> str:
        return f"<lazy {x.typed}>"

    @override
    def view(self, x: LazyTensor, steps: Any, differentiable: bool) -> LazyTensor:
        # torch detaches what it saves of a result; to a second derivative that is no end.
        kept = [one for one in steps if not isinstance(one, Detach)]
        return super().view(x, kept, differentiable)

    @override
    def at(self, place: Place, differentiable: bool) -> LazyTensor:
        return super().at(place, False)

    @override
    def fresh(self, node: Node, differentiable: bool) -> LazyTensor:
        self.made.append(super().fresh(node, False))
        return self.made[-1]

    def settle(self, operands: Sequence[LazyTensor]) -> None:
        """End of the kernel: what torch takes no derivative of (an inverse deviation that it saves,
        statistics that it updates) is a constant to the formulas."""
        updated = [x for x in operands if x.cell.version]
        for x in [*updated, *[x for x in self.made if not x.requires_grad]]:
            if x.typed.dtype.is_floating_point or x.typed.dtype.is_complex:
                self.write(x, self.b(Detach(), self.read(x)))

    @override
    def detached(self, node: Node) -> Node:
        return node


@dataclass(frozen=True)
class Derived:
    """A recorded rule: from `operands`, `results` (what the operation's kernel gave, by item) and
    `cotangents` to the gradients of the operands that were asked for."""

    operands: tuple[Node, ...]
    results: tuple[Node | None, ...]
    cotangents: tuple[Node, ...]
    gradients: tuple[Node | None, ...]


def derived(
    s: Calculus, node: Node, g: Node | list[Node | None] | None, needs: Sequence[bool]
) -> list[Node | None]:
    """The cotangents of a node's inputs by torch's own formula."""
    given = g if isinstance(g, list) else [g]
    asked = tuple([x is not None for x in given])
    operands = tuple([x.op if isinstance(x.op, Const) else x.type for x in node.inputs])
    op = node.op.recordable()
    try:
        rule = recorded(op, operands, tuple(needs), asked)
    except ConstantError:
        rule = recorded(op, operands, moving(op, operands, tuple(needs), asked), asked)
    except OpaqueError as error:
        if type(op) is not Aten:
            raise
        return by_engine(s, node, op, given, needs, str(error).splitlines()[0])
    known: dict[Node, Node] = dict(zip(rule.operands, node.inputs, strict=True))
    seeds = [x for x in given if x is not None]
    known.update({x: laid_out(s, g, x) for x, g in zip(rule.cotangents, seeds, strict=True)})
    for i, result in enumerate(rule.results):
        if result is not None and result not in known:
            known[result] = s(Item(i), node) if isinstance(node.type, TupleType) else node
    wanted = [x for x in rule.gradients if x is not None]
    for made in Graph((), tuple(wanted)).nodes:
        if made not in known:
            known[made] = s(placed(made.op, node), *[known[x] for x in made.inputs])
    return [None if x is None else known[x] for x in rule.gradients]


def by_engine(
    s: Calculus, node: Node, op: Aten, given: Sequence[Node | None], needs: Sequence[bool], why: str
) -> list[Node | None]:
    """The cotangents of a node's inputs by torch's engine at every call; they have no derivative
    themselves, for the reason `why`."""
    asked = tuple([x is not None for x in given])
    back = AtenBackward(op.overload, tuple(needs), asked, op.args, op.kwargs)
    pulled = s(back, *node.inputs, *[x for x in given if x is not None])
    numbers = iter(range(sum(needs)))
    return [once(s, s(Item(next(numbers)), pulled), why) if need else None for need in needs]


def laid_out(s: Calculus, x: Node, like: Node) -> Node:
    """A value as it lay when a rule was recorded, which may see pairs of numbers as complex ones;
    rules for real numbers read no memory."""
    assert isinstance(x.type, TensorType)
    assert isinstance(like.type, TensorType)
    pairs = x.type.dtype.is_complex or like.type.shape[-1:] == (2,)
    return s(Clone(like.type.strides), x) if pairs and x.type.strides != like.type.strides else x


@contextmanager
def above_autograd() -> Generator[None]:
    """torch as it is outside any recording, with gradients on."""
    with (
        paused(),
        torch._C._ForceDispatchKeyGuard(INCLUDED, EXCLUDED),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


@lru_cache(maxsize=16384)
def recorded(
    op: Op, given: tuple[Type | Const, ...], needs: tuple[bool, ...], asked: tuple[bool, ...]
) -> Derived:
    """The rule of `op` on operands of such types; UnsupportedError where torch has none."""
    op = relocated(op, CPU)
    r = Deriving(op)
    operands = tuple(
        [
            constant(x.value) if isinstance(x, Const) else input(f"x{i}", on(x, CPU))
            for i, x in enumerate(given)
        ]
    )
    with above_autograd(), r.mode:
        # A write through a view of what needs no gradient would leave no history on it.
        flags = (True,) * len(needs) if isinstance(op, Put) else needs
        values = [stand_in(r, x, flag) for x, flag in zip(operands, flags, strict=True)]
        try:
            returned = twin(op).run(*values)
        except LazyTorchError:
            raise
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            if "is not differentiable with respect to argument" in str(error):
                raise ConstantError(str(error).splitlines()[0]) from error
            r.refused(f"cannot be recorded: {str(error).splitlines()[0]}")
        results = list(returned) if isinstance(returned, tuple | list) else [returned]
        same = twin(op) is op
        nodes = [r.read(y) if same and isinstance(y, LazyTensor) else None for y in results]
        r.settle([x for x in values if isinstance(x, LazyTensor)])
        moving = [
            y if ask and isinstance(y, torch.Tensor) and y.requires_grad else None
            for y, ask in zip(results, asked, strict=True)
        ]
        for y, ask in zip(results, asked, strict=True):
            if (
                ask
                and isinstance(y, LazyTensor)
                and not y.requires_grad
                and not isinstance(op, Aten | Detach)
            ):
                r.refused("has no history: torch's kernels lost it")
        cotangents: list[Node] = []
        seeds: list[LazyTensor] = []
        for i, (y, ask) in enumerate(zip(results, asked, strict=True)):
            if not ask:
                continue
            assert isinstance(y, LazyTensor)
            cotangents.append(input(f"g{i}", y.typed))
            seeds.append(lazily(r, cotangents[-1], y.typed, False))
        pairs = [
            (y, seed)
            for y, seed in zip(
                [m for m, ask in zip(moving, asked, strict=True) if ask], seeds, strict=True
            )
            if y is not None
        ]
        wanted = [x for x, need in zip(values, needs, strict=True) if need]
        found: list[Any] = [None] * len(wanted)
        last = ""  # why the gradients have no derivative themselves
        if pairs:
            try:
                found = pulled(r, pairs, wanted, again=True)
            except ValueNeededError as error:
                last = str(error).splitlines()[0]
                found = pulled(r, pairs, wanted, again=False)
        rest = iter(found)
        gradients = [next(rest) if need else None for need in needs]
        read = tuple([None if x is None else r.read(r.lazy(x)) for x in gradients])
        if last:
            read = tuple([None if x is None else once(r.b, x, last) for x in read])
    if any([x.op.effect for x in missing(read, nodes)]):
        r.refused("draws random numbers that its results do not tell")
    return Derived(operands, tuple(nodes), tuple(cotangents), read)


def pulled(
    r: Deriving, pairs: Sequence[tuple[Any, Any]], wanted: Sequence[Any], again: bool
) -> list[Any]:
    """torch's gradients of the results, by the formulas that have derivatives themselves if they
    are to be differentiated `again`: some of those look at values."""
    results, seeds = zip(*pairs, strict=True)
    try:
        found = torch.autograd.grad(
            results, wanted, seeds, retain_graph=True, create_graph=again, allow_unused=True
        )
    except LazyTorchError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        r.refused(f"is not known to torch: {str(error).splitlines()[0]}")
    return list(found)


def twin(op: Op) -> Op:
    """The overload that torch calls where a gradient will be asked for, if it is another; what it
    gives besides the first result need not be the same."""
    if isinstance(op, Aten) and op.overload == "aten._embedding_bag_forward_only.default":
        return op.with_attributes(overload="aten._embedding_bag.default")
    return op


def missing(gradients: Sequence[Node | None], results: Sequence[Node | None]) -> list[Node]:
    """What the gradients are computed from, the results and what only they need left out."""
    known: set[Node] = {x for x in results if x is not None}
    found: dict[Node, None] = {}
    waiting = [x for x in gradients if x is not None]
    while waiting:
        node = waiting.pop()
        if node not in known and node not in found:
            found[node] = None
            waiting += node.inputs
    return list(found)


@lru_cache(maxsize=1024)
def moving(
    op: Op, given: tuple[Type | Const, ...], needs: tuple[bool, ...], asked: tuple[bool, ...]
) -> tuple[bool, ...]:
    """The operands, of those that need it, by which torch differentiates at all."""
    found: list[bool] = []
    for i, need in enumerate(needs):
        alone = tuple([j == i for j in range(len(needs))])
        try:
            found.append(need and bool(recorded(op, given, alone, asked)))
        except ConstantError:
            found.append(False)
    return tuple(found)


def stand_in(r: Deriving, node: Node, need: bool) -> Any:
    """What the kernel is called with in the place of an operand."""
    if isinstance(node.type, TupleType):
        return tuple([stand_in(r, r.b(Item(i), node), False) for i in range(len(node.type.items))])
    if isinstance(node.op, Const):
        return node.op.value
    if isinstance(node.type, ScalarType):
        return r.scalar(node)
    assert isinstance(node.type, TensorType)
    return lazily(r, node, node.type, need)


def lazily(r: Deriving, node: Node, typed: TensorType, need: bool) -> LazyTensor:
    """A lazy tensor on a node, which requires grad if it is needed."""
    return make(LazyTensor, r, Cell(node), None, typed, 0, need)


def described(op: Op) -> str:
    """The operation in words: an overload by torch's name for it."""
    return str(getattr(op, "overload", op.name()))
