"""torch's own operator database: every sample's derivatives through lazytorch and through eager.

A sample is differentiated on the level of graphs: recorded with its derivatives, which are then
interpreted node by node, so that no compiler runs. Each graph gets two sets of values: a constant
baked in from the first would fail on the second.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from op_db_numbers import Tensors, difference, widest
from torch.testing._internal import common_methods_invocations as database
from torch.utils import _pytree as pytree

import lazytorch as lt
from lazytorch.autodiff import rules, transforms
from lazytorch.frontend.finish import finish
from lazytorch.frontend.modes import recording
from lazytorch.frontend.recording import Recording
from lazytorch.frontend.sources import Argument, Held, Live, Piece
from lazytorch.interpret import interpret
from lazytorch.ir import Node

# Importing the database forbids, in the whole process, to set the flags of torch's backends.
torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True
SEED = 7
# Random operations set a seed of their own at each call, which a graph does not do again.
database.wrapper_set_seed = lambda op, *args, **kwargs: op(*args, **kwargs)
STEP = 1e-5
"""Of finite differences."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One sample: an operation as a function of its tensors, with the weights of its results."""

    operation: Any
    sample: Any
    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]
    tensors: tuple[torch.Tensor, ...]
    variables: tuple[int, ...]  # positions among the tensors
    weights: dict[tuple[Any, ...], torch.Tensor] = field(default_factory=dict)
    moving: list[int] = field(default_factory=list)  # the results that have derivatives

    def results(self, tensors: Tensors) -> list[Any]:
        """The leaves of what the operation returns."""
        by_id = {id(old): new for old, new in zip(self.tensors, tensors, strict=True)}
        leaves = [by_id.get(id(x), x) for x in self.leaves]
        first, args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        returned = self.operation(first, *args, **kwargs)
        return pytree.tree_leaves(self.sample.output_process_fn_grad(returned))

    def scalar(self, tensors: Tensors) -> torch.Tensor:
        """One real number: every result that has derivatives, weighted."""
        results = self.results(tensors)
        if not self.moving:
            self.moving.extend([i for i, y in enumerate(results) if differentiable(y)])
        return self.weighted("result", [results[i] for i in self.moving])

    def weighted(self, name: str, values: Tensors) -> torch.Tensor:
        """The weighted sum of tensors; its real part, of complex ones."""
        total = None
        for i, y in enumerate(values):
            part = (y * self.weight((name, i, y.dtype, tuple(y.shape), y.device))).sum()
            part = part.real if part.is_complex() else part
            total = part if total is None else total + part
        assert total is not None
        return total

    def weight(self, key: tuple[Any, ...]) -> torch.Tensor:
        """Numbers of both signs, the same for eager, which makes them, and for us."""
        if key not in self.weights:
            _, i, dtype, shape, device = key
            assert isinstance(shape, tuple)
            count = torch.Size(shape).numel()
            angle = torch.arange(count, dtype=torch.float64) * 1.7 + i + 0.4
            if dtype.is_complex:
                value = torch.complex(angle.sin() + 0.3, (angle * 1.3).cos())
            else:
                value = angle.sin() + 0.3
            self.weights[key] = value.to(dtype).reshape(shape).to(device)
        return self.weights[key]


def differentiable(x: Any) -> bool:
    """Whether eager would take a derivative of a result."""
    return isinstance(x, torch.Tensor) and x.requires_grad


FATAL = ("_segment_reduce",)
"""Whose second values are no valid ones: the CPU's kernels say so, a GPU's end the process."""


def operations(device: torch.device = CPU) -> list[Any]:
    """The operations that torch differentiates in float32."""
    return [
        op
        for op in database.op_db
        if op.supports_autograd
        and torch.float32 in op.supported_backward_dtypes(device.type)
        and (device == CPU or op.name not in FATAL)
    ]


def called(op: Any) -> str:
    """An operation's name with its variant."""
    return op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")


def cases(op: Any, dtype: torch.dtype, device: torch.device = CPU) -> Iterator[Case]:
    """The samples of an operation."""
    torch.manual_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = list(op.sample_inputs(device.type, dtype, requires_grad=True))
    for sample in samples:
        leaves, spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        tensors = tuple({id(x): x for x in leaves if isinstance(x, torch.Tensor)}.values())
        variables = tuple([i for i, x in enumerate(tensors) if x.requires_grad])
        if variables:
            yield Case(op, sample, spec, tuple(leaves), tensors, variables)


def fresh(x: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, where such a copy is."""
    x = x.detach()
    if x.layout is not torch.strided:
        return x.clone()
    if any(s == 0 for s in x.stride()):
        return x.clone()
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)


def flipped(x: torch.Tensor) -> torch.Tensor:
    """The same numbers in reverse order, floating ones a little smaller: still what they were
    (positive, symmetric, probabilities, indices), and another way through every comparison."""
    y = fresh(x)
    if x.layout is torch.strided:
        y.copy_(x.detach().reshape(-1).flip(0).reshape(x.shape))
    return smaller(y)


def smaller(x: torch.Tensor) -> torch.Tensor:
    """Floating numbers a little smaller."""
    return x.detach() * 0.93 if x.is_floating_point() or x.is_complex() else x.detach().clone()


def zeros_for(found: Sequence[torch.Tensor | None], xs: Tensors) -> list[torch.Tensor]:
    """Explicit zeros where nothing flows."""
    return [
        torch.zeros_like(x) if g is None else g.detach() for g, x in zip(found, xs, strict=True)
    ]


def eager(case: Case, values: Tensors, order: int) -> list[torch.Tensor] | None:
    """The derivatives by torch's engine; None where no result has any."""
    torch.manual_seed(SEED)
    tensors = [
        x.detach().clone().requires_grad_(i in case.variables)
        if x.layout is not torch.strided or any(s == 0 for s in x.stride())
        else fresh(x).requires_grad_(i in case.variables)
        for i, x in enumerate(values)
    ]
    xs = [tensors[i] for i in case.variables]
    if not case.moving and not any(differentiable(y) for y in case.results(tensors)):
        return None
    torch.manual_seed(SEED)
    y = case.scalar(tensors)
    found = torch.autograd.grad(y, xs, create_graph=order == 2, allow_unused=True)
    if order == 1:
        return zeros_for(found, xs)
    filled = [torch.zeros_like(x) if g is None else g for g, x in zip(found, xs, strict=True)]
    z = case.weighted("gradient", filled)
    if not z.requires_grad:
        return zeros_for([None] * len(xs), xs)
    return zeros_for(torch.autograd.grad(z, xs, allow_unused=True), xs)


def derivative(case: Case, order: int) -> Callable[..., Any]:
    """The function of all tensors that lt.grad gives."""

    def value(xs: list[Any], tensors: Tensors) -> torch.Tensor:
        given = list(tensors)
        for i, x in zip(case.variables, xs, strict=True):
            given[i] = x
        return case.scalar(given)

    def sloped(xs: list[Any], tensors: Tensors) -> torch.Tensor:
        return case.weighted("gradient", lt.grad(value)(xs, tensors))

    def derived(*tensors: Any) -> Any:
        xs = [tensors[i] for i in case.variables]
        return lt.grad(value if order == 1 else sloped)(xs, tensors)

    return derived


class Plan:
    """A recorded function: pieces that end where Python looked at a value, and the last one."""

    def __init__(self, fn: Callable[..., Any], tensors: Tensors) -> None:
        self.fn = fn
        self.pieces: list[Piece] = []
        lives: list[tuple[Any, ...]] = []

        def on_cut(piece: Piece) -> Any:
            assert piece.cut is not None
            value, live = piece.cut.resolve(computed(piece, tensors, lives))
            self.pieces.append(replace(piece, cut=replace(piece.cut, value=value)))
            lives.append(live)
            return value

        origins = {id(x): (Argument(i), f"x{i}") for i, x in enumerate(tensors)}
        r = Recording(origins, {}, set(), on_cut=on_cut, numbers=False)
        stand_ins = [r.lift(x) for x in tensors]
        try:
            with recording(r.mode):
                returned = fn(*stand_ins)
            self.last = finish(r, returned).piece
        finally:
            r.finished = True

    def __call__(self, tensors: Tensors) -> list[torch.Tensor]:
        """The results for these tensors; recorded again where they decide otherwise."""
        torch.manual_seed(SEED)
        lives: list[tuple[Any, ...]] = []
        for piece in self.pieces:
            assert piece.cut is not None
            value, live = piece.cut.resolve(computed(piece, tensors, lives))
            if value != piece.cut.value:
                return Plan(self.fn, tensors)(tensors)
            lives.append(live)
        return computed(self.last, tensors, lives)


def computed(piece: Piece, tensors: Tensors, lives: list[tuple[Any, ...]]) -> list[Any]:
    """The outputs of a piece, node by node."""
    values: list[Any] = []
    for source in piece.sources:
        match source:
            case Argument(index):
                values.append(tensors[index])
            case Held(tensor):
                values.append(tensor)
            case Live(position, index):
                values.append(lives[position][index])
            case _:
                raise AssertionError(f"an input from {source}")
    return list(interpret(piece.graph, *values))


@dataclass
class Outcome:
    """What came of one sample: `ok`, `skipped`, `refused`, `torch` (finite differences say that
    eager is wrong and we are right), `wrong` or `crash`, and why."""

    verdict: str
    reason: str = ""


class Used:
    """Which rules differentiate nodes: those of their operations, or those derived from torch."""

    def __init__(self) -> None:
        self.hand: set[str] = set()
        self.derived: set[str] = set()

    def __enter__(self) -> Used:
        self.rule, self.deriving = rules.rule, rules.derived
        latest: list[Node] = []

        def deriving(s: Any, node: Node, *more: Any) -> Any:
            latest.append(node)
            return self.deriving(s, node, *more)

        def rule(s: Any, node: Node, *more: Any) -> Any:
            latest.clear()
            given = self.rule(s, node, *more)
            (self.derived if latest else self.hand).add(name(node))
            return given

        rules.derived = deriving
        transforms.rule = rule
        return self

    def __exit__(self, *_: object) -> None:
        rules.derived = self.deriving
        transforms.rule = self.rule


def name(node: Node) -> str:
    """An operation of a graph: an overload by torch's name for it."""
    return str(getattr(node.op, "overload", node.op.name()))


def check(case: Case, order: int, dtype: torch.dtype) -> Outcome:
    """One sample, with two sets of values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return checked(case, order, dtype)


def checked(case: Case, order: int, dtype: torch.dtype) -> Outcome:
    values = [fresh(x) for x in case.tensors]
    try:
        theirs = eager(case, values, order)
    except Exception as error:
        return Outcome("skipped", f"eager: {brief(error)}")
    if theirs is None:
        return Outcome("skipped", "no result has a derivative")
    try:
        plan = Plan(derivative(case, order), values)
        ours = plan(values)
    except lt.errors.LazyTorchError as error:
        return Outcome("refused", brief(error))
    except Exception as error:
        return Outcome("crash", brief(error))
    wrong = difference(ours, theirs, dtype, partial(precisely, case, values, order))
    if wrong and order == 2 and torchs_fault(case, values, ours, theirs):
        return Outcome("torch", "eager's second derivative is not that of its own first")
    if wrong:
        return Outcome("wrong", wrong)
    for change in (flipped, smaller):
        moved = [change(x) for x in values]
        precise = partial(precisely, case, moved, order)
        try:
            theirs = eager(case, moved, order)
        except Exception:
            continue
        if theirs is None or not all(bool(x.isfinite().all()) for x in theirs):
            continue
        try:
            ours = plan(moved)
        except Exception as error:
            return Outcome("crash", f"second values: {brief(error)}")
        wrong = difference(ours, theirs, dtype, precise)
        return Outcome("wrong", f"second values: {wrong}") if wrong else Outcome("ok")
    return Outcome("ok", "first values only")


def torchs_fault(case: Case, values: Tensors, ours: Tensors, theirs: Tensors) -> bool:
    """Whether eager's own gradient, in float64, moves along a direction as our second derivative
    says, and not as eager's does."""
    generator = torch.Generator().manual_seed(SEED)
    by = [values[i] for i in case.variables]
    along = [
        torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device) for x in by
    ]
    if any(x.dtype is not torch.float64 for x in by):
        return False

    def moved(step: float) -> torch.Tensor:
        given = list(values)
        for i, x, v in zip(case.variables, by, along, strict=True):
            given[i] = x.detach() + step * v
        found = eager(case, given, 1)
        assert found is not None
        return case.weighted("gradient", found)

    slope = float(moved(STEP) - moved(-STEP)) / (2 * STEP)
    our, their = (
        sum(float((x * v).sum()) for x, v in zip(found, along, strict=True))
        for found in (ours, theirs)
    )
    near = 1e-6 * max(1.0, abs(slope))
    return abs(our - slope) <= near < 1e3 * near < abs(their - slope)


def precisely(case: Case, values: Tensors, order: int) -> list[torch.Tensor]:
    """Eager's derivatives in float64."""
    wide = [widest(x) if x.is_floating_point() or x.is_complex() else x for x in values]
    again = Case(case.operation, case.sample, case.spec, case.leaves, case.tensors, case.variables)
    try:
        found = eager(again, wide, order)
    except Exception:  # a dtype among the arguments: there is no such call in float64
        found = None
    return found if found is not None else [torch.full_like(x, torch.nan) for x in wide]


def brief(error: Exception) -> str:
    """The first line of an error."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]
