"""The nodes of a call's result: by its importer, else as one `Aten` node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.frontend.alias import fitted
from lazytorch.frontend.imports import IMPORTERS, Written
from lazytorch.ir import Builder, Item, Node, Op, Operand
from lazytorch.ops.aten import Aten, AtenRandom
from lazytorch.types import TupleType

if TYPE_CHECKING:
    from lazytorch.frontend.recorder import Recorder

_CONSTANT_LIKE = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
                  "randint_like", "new_zeros", "new_ones", "new_full", "new_empty",
                  "new_empty_strided")  # fmt: skip


class VaryingError(LazyTorchError):
    """An importer put a number that varies among an operation's attributes."""


def refuse_varying(op: Op) -> None:
    """Refuse an operation with a node as an attribute: attributes are constants."""
    for value in op.__dict__.values():
        if value.__class__ is Node:
            raise VaryingError(f"{op.name()} has no place for a number that varies")


def differentiable(r: Recorder, func: Any, args: Any, kwargs: Any) -> tuple[bool, bool]:
    """Whether some tensor among the arguments requires grad, and whether the result then does."""
    needed = any_requires_grad(r, args) or (bool(kwargs) and any_requires_grad(r, kwargs.values()))
    if not needed:
        return False, False
    enabled = torch.is_grad_enabled() and func._opname not in _CONSTANT_LIKE
    return True, enabled


def any_requires_grad(r: Recorder, values: Any) -> bool:
    """Whether a tensor in a (nested) list of arguments requires grad: a real one, too, once the
    recording wrote into it what has a history."""
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.requires_grad or r.shadows.get(id(value), value).requires_grad:
                return True
        elif isinstance(value, tuple | list) and any_requires_grad(r, value):
            return True
    return False


def any_tensor(values: Any) -> bool:
    """Whether there is a tensor in a (nested) list of arguments."""
    return any(
        any_tensor(v) if isinstance(v, tuple | list) else isinstance(v, torch.Tensor)
        for v in values
    )


def nodes(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The nodes of a call's result; statistics that the overload updates are written."""
    importer = IMPORTERS.get(func)
    if importer is not None:
        operands = [r.operand(a) for a in args]
        more = {k: r.operand(v) for k, v in kwargs.items()} if kwargs else kwargs
        try:
            result = importer(r.b, *operands, **more)
        except VaryingError:
            result = NotImplemented
        if result.__class__ is Written:
            for position, value in result.writes:
                name = func._schema.arguments[position].name
                target = args[position] if position < len(args) else kwargs[name]
                x = r.lazy(target)
                r.write(x, fitted(r.b, value, x.typed, func._opname))
                r.stored(target, x)
            result = result.results
        if result is not NotImplemented:
            return result
    return aten_nodes(r, func, args, kwargs)


def aten_nodes(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call as one `Aten` node."""
    operands: list[Node] = []
    static = tuple(static_argument(r, a, operands) for a in args)
    named = tuple((k, static_argument(r, v, operands)) for k, v in kwargs.items())
    random = draws(func, args, kwargs)
    if torch.Tag.dynamic_output_shape in func.tags:
        return r.observed(Aten(str(func), static, named), operands)
    kind = AtenRandom if random else Aten
    return r.b(kind(str(func), static, named), *operands)


def draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call draws random numbers: attention does only with a probability to drop."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    for i, argument in enumerate(func._schema.arguments):
        if argument.name == "dropout_p":
            given = args[i] if i < len(args) else kwargs.get("dropout_p", argument.default_value)
            return given != 0.0
    return True


def static_argument(r: Recorder, value: Any, operands: list[Node]) -> Any:
    """An argument as an attribute; tensors become `Operand`s."""
    if isinstance(value, torch.Tensor):
        operands.append(r.read(r.lazy(value)))
        return Operand(len(operands) - 1)
    if isinstance(value, torch.SymFloat):
        value = value.node.value
    if isinstance(value, Node):
        operands.append(value)
        return Operand(len(operands) - 1)
    if isinstance(value, tuple | list):
        return tuple(static_argument(r, v, operands) for v in value)
    if isinstance(value, torch.Generator):
        raise UnsupportedError(
            "a generator= argument inside a recording is not supported",
            where=r.b.where,
            hint="use the default generator with torch.manual_seed",
        )
    return value


def items(b: Builder, node: Node) -> list[Node]:
    """The elements of a tuple."""
    assert isinstance(node.type, TupleType)
    return [b(Item(i), node) for i in range(len(node.type.items))]
