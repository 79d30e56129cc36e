"""In-place and out= overloads: their functional counterpart, then a write through the target."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch._C import DispatchKey

from lazytorch.errors import UnsupportedError
from lazytorch.frontend.alias import copied, detached, fitted
from lazytorch.frontend.geometry import resize
from lazytorch.frontend.imports import IMPORTERS
from lazytorch.frontend.tensor import LazyTensor, Traced
from lazytorch.frontend.values import differentiable, draws, items, nodes, static_argument
from lazytorch.ir import Node
from lazytorch.ops.aten import AtenMutating, AtenMutatingRandom
from lazytorch.ops.layout import Kept
from lazytorch.types import TensorType, TupleType

if TYPE_CHECKING:
    from lazytorch.frontend.recorder import Recorder

aten = torch.ops.aten


def call_mutating(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An in-place or out= overload: its functional counterpart, then a write."""
    # An in-place overload with an importer of its own computes otherwise than its counterpart.
    functional, outs = (func, ()) if func in IMPORTERS else counterpart(func)
    if functional is None:
        return call_functionalized(r, func, args, kwargs)
    if outs:
        return call_out(r, func, functional, outs, args, kwargs)
    target = args[0]
    if not isinstance(target, torch.Tensor):
        return call_each(r, func, args, kwargs)
    x = r.lazy(target)
    needed, enabled = differentiable(r, func, args, kwargs)
    value = nodes(r, functional, args, kwargs)
    if isinstance(value, tuple | list):
        value = value[0]
    store(r, x, target, fitted(r.b, value, x.typed, func._opname), needed, enabled)
    return target


def store(
    r: Recorder, x: LazyTensor, target: torch.Tensor, value: Node, needed: bool, enabled: bool
) -> None:
    """An in-place write of what has a history if it is `needed`, where gradients are `enabled`."""
    if needed and not enabled:
        value = unnoticed(r, x, value)
    elif needed and detached(x.window):  # other views of the memory see no history
        value = r.detached(value)
    r.write(x, value)
    mark_written(r, x, target, needed and enabled)


def unnoticed(r: Recorder, x: LazyTensor, value: Node) -> Node:
    """A write under no_grad: the target keeps the history that it has, or none."""
    if isinstance(x, Traced) and x.requires_grad:
        return r.b(Kept(), r.read(x), value)
    return r.detached(value)


def mark_written(r: Recorder, x: LazyTensor, target: torch.Tensor, enabled: bool) -> None:
    """An in-place operation with a differentiable operand makes the target require grad, and what
    it is a view of, and other views of that."""
    r.stored(target, x)
    carrying = x.typed.dtype.is_floating_point or x.typed.dtype.is_complex
    if enabled and carrying and isinstance(x, Traced):
        x.gain_history()


@cache
def counterpart(func: Any) -> tuple[Any, tuple[str, ...]]:
    """The functional overload with the same arguments, and the names of out= arguments."""
    schema = func._schema
    outs = tuple(a.name for a in schema.arguments if a.is_out)
    name = schema.name.split("::")[1]
    wanted = [a.name for a in schema.arguments if not a.is_out]
    packet_name = name if outs else name.removesuffix("_")
    if not outs and packet_name == name:
        return None, ()
    if name == "normal_":  # `normal` draws with other arguments
        packet_name = "normal_functional"
    packet = getattr(getattr(torch.ops, func.namespace), packet_name, None)
    if packet is None:
        return None, ()
    same = [func._overloadname] if not outs else []
    for variant in (*same, *packet.overloads()):
        candidate = getattr(packet, variant, None)
        if candidate is None or candidate._schema.is_mutable:
            continue
        names = [a.name for a in candidate._schema.arguments]
        if names == wanted or (not outs and variant == func._overloadname):
            return candidate, outs
    return None, ()


def call_out(
    r: Recorder,
    func: Any,
    functional: Any,
    outs: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """`out=`: compute, then write into the given tensors."""
    more = {k: v for k, v in kwargs.items() if k not in outs}
    results = nodes(r, functional, args, more)
    if results.__class__ is Node:
        results = items(r.b, results) if isinstance(results.type, TupleType) else [results]
    targets = [kwargs[name] for name in outs]
    needed, enabled = differentiable(r, func, args, kwargs)
    if needed and enabled:
        raise RuntimeError(
            f"{func._opname}(): functions with out=... arguments don't support automatic "
            "differentiation, but one of the arguments requires grad."
        )
    for target, value in zip(targets, results, strict=True):
        have = value.type
        assert isinstance(have, TensorType)
        if r.lazy(target).typed.shape != have.shape:
            resize(r, target, have.shape, have.strides, f"out= of {func._opname}")
        x = r.lazy(target)
        store(r, x, target, fitted(r.b, value, x.typed, func._opname), needed, enabled)
    return targets[0] if len(targets) == 1 else tuple(targets)


def call_functionalized(
    r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A mutating overload without counterpart: run on copies, write the copies back."""
    bound = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
    changed = [
        bound[a.name]
        for a in func._schema.arguments
        if a.alias_info is not None and a.alias_info.is_write and a.name in bound
    ]
    if not all(isinstance(x, torch.Tensor) for x in changed):
        return call_each(r, func, args, kwargs)
    operands: list[Node] = []
    static = tuple(static_argument(r, a, operands) for a in args)
    named = tuple((k, static_argument(r, v, operands)) for k, v in kwargs.items())
    written = [r.lazy(x) for x in changed]
    positions = tuple(operands.index(r.read(x)) for x in written)
    kind = AtenMutatingRandom if draws(func, args, kwargs) else AtenMutating
    result = r.b(kind(str(func), static, named, None, positions), *operands)
    values = items(r.b, result)
    needed, enabled = differentiable(r, func, args, kwargs)
    made = values[len(values) - len(written) :]
    for x, target, value in zip(written, changed, made, strict=True):
        store(r, x, target, fitted(r.b, value, x.typed, func._opname), needed, enabled)
    returned = values[: len(values) - len(written)]
    aliased = [x.alias_info for x in func._schema.returns]
    if aliased and all(info is not None for info in aliased):
        return changed[0] if len(changed) == 1 else tuple(changed)
    kept = [r.detached(x) if needed and not enabled else x for x in returned]
    wrapped = tuple(r.wrap(x, enabled) for x in kept)
    return wrapped[0] if len(wrapped) == 1 else (wrapped or None)


def call_each(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A `_foreach_` overload: torch's own loop over the tensors."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeExplicitAutograd"):
        what = f"{func} writes to a list of tensors, and torch does not say how one by one"
        raise UnsupportedError(what, where=r.b.where)
    with r.resumed():
        return func._op_dk(DispatchKey.CompositeExplicitAutograd, *args, **kwargs)


def call_copy(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`copy_`: converted and broadcast into the target."""
    target, source = args[0], args[1]
    x = r.lazy(target)
    needed, enabled = differentiable(r, func, args[:2], {})
    source = r.lazy(source)
    if source.typed.device != x.typed.device:
        source = r.call(aten._to_copy.default, (source,), {"device": x.typed.device})
    value = copied(r.b, r.read(source), x.typed)
    store(r, x, target, fitted(r.b, value, x.typed, "copy_"), needed, enabled)
    return target
