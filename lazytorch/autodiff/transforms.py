"""What `lt.grad` and its kin do inside a recording: a function of lazy tensors, differentiated.

The function is called on variables, fresh values equal to the arguments, so that derivatives of
derivatives never mix; what it computes becomes nodes of the recording like everything else, and so
do the derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from lazytorch.autodiff.jvp import jvp
from lazytorch.autodiff.rules import rule
from lazytorch.autodiff.vjp import ones, vjp, zeros
from lazytorch.errors import LazyTorchError, ShapeError
from lazytorch.frontend import trees
from lazytorch.frontend.modes import RecordingMode
from lazytorch.frontend.recorder import Recorder
from lazytorch.frontend.recording import Recording
from lazytorch.frontend.tensor import LazyTensor
from lazytorch.ir import Const, Node, input, postorder
from lazytorch.ops.calculus import Calculus, tensor
from lazytorch.ops.layout import Variable
from lazytorch.types import ScalarType

Argnums = int | tuple[int, ...]


def current() -> Recorder | None:
    """The recorder that this thread's calls go to."""
    mode = _get_current_dispatch_mode()
    return mode.recorder if isinstance(mode, RecordingMode) else None


@contextmanager
def deriving(r: Recorder) -> Generator[None]:
    """A recording knows that what it records is differentiated."""
    assert isinstance(r, Recording)
    r.deriving += 1
    try:
        yield
    finally:
        r.deriving -= 1


@dataclass
class Linear:
    """A function at a point: its results, and the linear maps between their small changes."""

    r: Recorder
    variables: list[Node]
    structure: trees.Spec  # of the arguments that vary
    results: list[LazyTensor]
    returned: trees.Spec
    aux: Any

    def node(self, x: Any, like: Any) -> Node:
        """A tangent or cotangent, in the shape and dtype of what it belongs to."""
        value = self.r.read(self.r.lazy(x))
        if tensor(value).shape != tuple(like.shape) or tensor(value).dtype is not like.dtype:
            raise ShapeError(
                "a tangent or cotangent must have the shape and dtype of its value",
                {"value": f"{like.dtype} {tuple(like.shape)}", "given": value.type},
                self.r.here(),
            )
        return value

    def outputs(self) -> list[Node]:
        """The nodes of the results."""
        return [self.r.read(y) for y in self.results]

    def pull(self, cotangents: Sequence[Node]) -> list[Node]:
        """The cotangents of the variables."""
        found = vjp(self.outputs(), cotangents, self.variables, rule)
        return [self.filled(g, x) for g, x in zip(found, self.variables, strict=True)]

    def push(self, tangents: Sequence[Node]) -> list[Node]:
        """The tangents of the results."""
        outputs = self.outputs()
        found = jvp(outputs, tangents, self.variables)
        return [self.filled(g, y) for g, y in zip(found, outputs, strict=True)]

    def filled(self, g: Node | None, x: Node) -> Node:
        """Explicit zeros where nothing flows."""
        return zeros(Calculus(x.where), tensor(x)) if g is None else g

    def wrapped(self, node: Node) -> LazyTensor:
        """A lazy tensor for a derivative."""
        return self.r.fresh(node, torch.is_grad_enabled())

    def tree(self, nodes: Sequence[Node], argnums: Argnums) -> Any:
        """Derivatives in the structure of the arguments; without the tuple for a single one."""
        made = trees.unflatten(self.structure, [self.wrapped(x) for x in nodes])
        return made[0] if isinstance(argnums, int) else made


def linear(
    f: Callable[..., Any],
    argnums: Argnums,
    has_aux: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Linear:
    """`f` called on variables; refuses arguments that have no derivative."""
    r = current()
    assert r is not None
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    for i in numbers:
        if not -len(args) <= i < len(args):
            raise LazyTorchError(f"argnums {i} names no positional argument of {len(args)}")
    numbers = tuple([i % len(args) for i in numbers])
    leaves, structure = trees.flatten(tuple([args[i] for i in numbers]))
    variables: list[Node] = []
    stand_ins: list[LazyTensor] = []
    r.b.where = r.here()
    for leaf in leaves:
        floating = isinstance(leaf, torch.Tensor) and (
            leaf.is_floating_point() or leaf.is_complex()
        )
        if not floating:
            raise LazyTorchError(
                "a derivative can be taken by floating tensors only",
                {"argument": f"{type(leaf).__name__} {getattr(leaf, 'dtype', leaf)}"},
                r.here(),
                "pass it outside argnums, or make it a floating tensor",
            )
        variables.append(r.b(Variable(), r.read(r.lazy(leaf))))
        stand_ins.append(r.fresh(variables[-1], True))
    given = list(args)
    for i, x in zip(numbers, trees.unflatten(structure, stand_ins), strict=True):
        given[i] = x
    with torch.enable_grad(), deriving(r):
        returned = f(*given, **kwargs)
    aux = None
    if has_aux:
        returned, aux = returned
    if any(x.cell.version for x in stand_ins):
        raise LazyTorchError(
            "the function writes in place to an argument that it is differentiated by",
            where=r.here(),
            hint="write to a clone",
        )
    results, spec = trees.flatten(returned)
    for y in results:
        if not isinstance(y, torch.Tensor):
            raise LazyTorchError(
                f"a function that is differentiated returns tensors, not {type(y).__name__}",
                where=r.here(),
                hint="return other values through has_aux=True",
            )
    return Linear(r, variables, structure, [r.lazy(y) for y in results], spec, aux)


def value_and_grad(
    f: Callable[..., Any],
    argnums: Argnums,
    has_aux: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, Any]:
    """`(value, gradient)`, the value with aux where there is one."""
    at = linear(f, argnums, has_aux, args, kwargs)
    if len(at.results) != 1 or at.results[0].dim() or at.results[0].is_complex():
        raise LazyTorchError(
            "grad needs a function that returns one real scalar",
            {"returned": ", ".join(f"{y.dtype} {tuple(y.shape)}" for y in at.results)},
            at.r.here(),
            "sum it, or use jacrev, or vjp with a cotangent",
        )
    (out,) = at.outputs()
    found = at.pull([ones(Calculus(out.where), out)])
    value = trees.unflatten(at.returned, list(at.results))
    return ((value, at.aux) if has_aux else value), at.tree(found, argnums)


def grad(
    f: Callable[..., Any],
    argnums: Argnums,
    has_aux: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The gradient, with aux where there is one."""
    value, found = value_and_grad(f, argnums, has_aux, args, kwargs)
    return (found, value[1]) if has_aux else found


def pullback(
    f: Callable[..., Any], has_aux: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """`(value, function from cotangents to those of the arguments)`, and aux where there is one."""
    at = linear(f, tuple(range(len(args))), has_aux, args, kwargs)

    def pull(cotangents: Any) -> Any:
        leaves, spec = trees.flatten(cotangents)
        if spec != at.returned:
            raise LazyTorchError(
                "vjp: the cotangents must be structured like the function's result",
                {"result": at.returned, "cotangents": spec},
                at.r.here(),
            )
        given = [at.node(x, y) for x, y in zip(leaves, at.results, strict=True)]
        return at.tree(at.pull(given), tuple(range(len(args))))

    value = trees.unflatten(at.returned, list(at.results))
    return (value, pull, at.aux) if has_aux else (value, pull)


def pushed(
    f: Callable[..., Any], has_aux: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """`(value, tangent)` of `f` at the primals `args[0]` in the direction `args[1]`."""
    primals, tangents = args
    at = linear(f, tuple(range(len(primals))), has_aux, tuple(primals), kwargs)
    leaves, spec = trees.flatten(tuple(tangents))
    if spec != at.structure:
        raise LazyTorchError(
            "jvp: the tangents must be structured like the primals",
            {"primals": at.structure, "tangents": spec},
            at.r.here(),
        )
    given = [at.node(t, tensor(x)) for t, x in zip(leaves, at.variables, strict=True)]
    moved = [at.wrapped(x) for x in at.push(given)]
    value = trees.unflatten(at.returned, list(at.results))
    tangent = trees.unflatten(at.returned, moved)
    return (value, tangent, at.aux) if has_aux else (value, tangent)


def jacobian(
    f: Callable[..., Any],
    argnums: Argnums,
    has_aux: bool,
    forward: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The Jacobian: a column for each element of the arguments by a batch of forward passes, or a
    row for each element of the results by a batch of reverse passes."""
    at = linear(f, argnums, has_aux, args, kwargs)
    outputs = at.outputs()
    ends = (at.variables, outputs) if forward else (outputs, at.variables)
    blocks: dict[tuple[int, int], torch.Tensor] = {}  # by result and argument
    for i in range(len(ends[0])):
        seeds = [input(f"seed{j}", tensor(x)) for j, x in enumerate(ends[0])]
        given = [s if j == i else None for j, s in enumerate(seeds)]
        if forward:
            found = jvp(outputs, given, at.variables)
        else:
            found = vjp(outputs, given, at.variables, rule)
        filled = [at.filled(g, x) for g, x in zip(found, ends[1], strict=True)]
        for j, block in enumerate(over_basis(at.r, filled, seeds[i])):
            k, v = (j, i) if forward else (i, j)
            shape = (*tensor(outputs[k]).shape, *tensor(at.variables[v]).shape)
            blocks[k, v] = (block.movedim(0, -1) if forward else block).reshape(shape)
    made: list[Any] = []
    for k in range(len(outputs)):
        row = [blocks[k, v] for v in range(len(at.variables))]
        tree = trees.unflatten(at.structure, row)
        made.append(tree[0] if isinstance(argnums, int) else tree)
    result = trees.unflatten(at.returned, made)
    return (result, at.aux) if has_aux else result


def over_basis(r: Recorder, results: Sequence[Node], seed: Node) -> list[torch.Tensor]:
    """`results`, linear in `seed`, for every unit tensor in its place: stacked in front."""
    order = postorder(results)
    depends: set[Node] = {seed}
    for node in order:
        if any([x in depends for x in node.inputs]):
            depends.add(node)
    outside: dict[Node, Any] = {}
    for node in order:
        for x in node.inputs:
            if x not in depends and x not in outside:
                number = of_constants(x)
                outside[x] = r.wrap(x, False) if number is None else number

    def along(unit: torch.Tensor) -> tuple[torch.Tensor, ...]:
        known: dict[Node, Any] = {**outside, seed: unit}
        for node in order:
            if node in depends and node is not seed:
                known[node] = node.op.run(*[known[x] for x in node.inputs])
        return tuple([known[x] for x in results if x in depends])

    typed = tensor(seed)
    count = typed.numel
    basis = torch.eye(count, dtype=typed.dtype, device=typed.device).reshape(count, *typed.shape)
    moved = iter(torch.func.vmap(along)(basis)) if any(x in depends for x in results) else iter(())
    return [
        next(moved)
        if x in depends
        else torch.zeros(count, *tensor(x).shape, dtype=tensor(x).dtype, device=typed.device)
        for x in results
    ]


def of_constants(node: Node) -> Any:
    """The number that a node computes of constants alone; None for any other node."""
    if isinstance(node.op, Const):
        return node.op.value
    if not isinstance(node.type, ScalarType) or not node.inputs:
        return None
    known = [of_constants(x) for x in node.inputs]
    return None if None in known else node.op.run(*known)
