"""What happens to one overload: import, view, in-place, out=, decompose, or keep as `Aten`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch._C import DispatchKey
from torch.nn.attention import sdpa_kernel

from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.frontend.attention_choice import chosen, without_known_mask
from lazytorch.frontend.geometry import (
    call_as_strided,
    call_compatible,
    call_detach,
    call_inplace_view,
    call_resize,
    call_set,
)
from lazytorch.frontend.imports import IMPORTERS, PLAIN, VIEWERS
from lazytorch.frontend.modes import paused
from lazytorch.frontend.mutation import call_copy, call_mutating
from lazytorch.frontend.place import place
from lazytorch.frontend.tensor import LazyTensor
from lazytorch.frontend.values import any_tensor, differentiable, items, nodes
from lazytorch.ir import Node, Operand
from lazytorch.ops.aten import AtenView
from lazytorch.ops.base import Pointwise
from lazytorch.ops.layout import view_strides
from lazytorch.ops.masks import pattern
from lazytorch.types import TensorType, TupleType

if TYPE_CHECKING:
    from lazytorch.frontend.recorder import Recorder

Handler = Callable[["Recorder", Any, tuple[Any, ...], dict[str, Any]], Any]
aten = torch.ops.aten

_NUMBERS = {aten._local_scalar_dense.default, aten.item.default}


@cache
def handler(func: Any) -> Handler:
    """How calls of this overload are recorded; decided once."""
    if func in _SPECIAL:
        return _SPECIAL[func]
    if func in VIEWERS:
        return call_view
    if func in IMPORTERS and not func._schema.is_mutable:
        op = PLAIN.get(func)
        return call_value if op is None else partial(call_elementwise, op)
    if func.namespace == "profiler":
        return run_directly
    if func.namespace == "prim":  # a stand-in is asked for its device
        return stand_in_device
    schema = func._schema
    if schema.is_mutable:
        return call_mutating
    if any(a.alias_info is not None for a in schema.arguments) and not composite(func):
        return call_aten_view
    return call_composite if composite(func) else call_value


def composite(func: Any) -> bool:
    """Whether torch defines the overload by other overloads."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), DispatchKey.CompositeImplicitAutograd
    )


def stand_in_device(
    r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.device:
    """Where a tensor without memory stands."""
    return args[0].fake_device


def call_elementwise(
    op: Pointwise, r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """An elementwise overload: the short way where it fits."""
    result = None if kwargs else r.elementwise(op, args)
    return call_value(r, func, args, kwargs) if result is None else result


def call_value(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A pure overload: import it or keep it as `Aten`, then wrap the result."""
    needed, enabled = differentiable(r, func, args, kwargs)
    result = nodes(r, func, args, kwargs)
    if needed and not enabled:
        result = detach_all(r, result)
    return r.wrap(result, enabled)


def detach_all(r: Recorder, result: Any) -> Any:
    """Results made under no_grad."""
    if result.__class__ is Node:
        if isinstance(result.type, TensorType):
            return r.detached(result)
        if isinstance(result.type, TupleType):
            return tuple(detach_all(r, x) for x in items(r.b, result))
        return result
    if isinstance(result, tuple | list):
        return type(result)(detach_all(r, x) for x in result)
    return result


def call_view(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A window on the first argument's memory."""
    first = args[0]
    if isinstance(first, complex):  # torch's formulas take the conjugate of a number as a view
        first = r.literal(torch.scalar_tensor(first, dtype=torch.complex128))
    x = r.lazy(first)
    try:
        steps = VIEWERS[func](x.typed, *args[1:], **kwargs)
    except LazyTorchError as error:
        error.where = error.where or r.b.where
        error.values = error.values or {"operand": x.typed}
        raise
    if steps is NotImplemented:  # a copy for these arguments
        return call_value(r, func, args, kwargs)
    flag = x.requires_grad and torch.is_grad_enabled() and func._opname != "detach"
    if steps.__class__ is list:
        return [r.view(x, path, flag) for path in steps]
    return r.view(x, steps, flag)


def call_aten_view(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A view that has no rule of ours: torch's fake kernel says what it shows.

    Refused by name where it depends on another tensor, or shows no strided memory of the operand.
    """
    first, *rest = args
    if not isinstance(first, torch.Tensor) or any_tensor([*rest, *kwargs.values()]):
        raise UnsupportedError(
            f"{func} returns a view that depends on more than one tensor", where=r.b.where
        )
    x = r.lazy(first)
    step = AtenView(str(func), (Operand(0), *static(rest)), tuple(static(kwargs.items())))
    try:
        count = step.pieces(x.typed)
    except LazyTorchError as error:
        error.where = error.where or r.b.where
        raise
    flag = x.requires_grad and torch.is_grad_enabled()
    if count is None:
        return r.view(x, (step,), flag)
    return [r.view(x, (step.with_attributes(item=i),), flag) for i in range(count)]


def static(values: Any) -> tuple[Any, ...]:
    """Arguments as attributes."""
    return tuple([static(v) if isinstance(v, tuple | list) else v for v in values])


def call_composite(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An overload that torch itself defines by others: record those."""
    try:
        with r.resumed():
            return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
    except RuntimeError as error:
        if "data is not allocated yet" not in str(error):
            raise
        raise UnsupportedError(
            f"{func} reads the values of a tensor in torch's own code", where=r.b.where
        ) from error


def call_reshape_alias(
    r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A reshape whose strides torch worked out; with others it is what `as_strided` is."""
    x = r.lazy(args[0]).typed
    size, stride = tuple(args[1]), tuple(args[2])
    if prod(size) == x.numel and view_strides(x.shape, x.strides, size) == stride:
        return call_view(r, aten.view.default, (args[0], size), {})
    return call_as_strided(r, func, args, kwargs)


def call_resolve_conj(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Eager copies what is conjugated as it is read, and nothing else."""
    x = r.lazy(args[0])
    return call_value(r, aten.clone.default, (x,), {}) if place(x).conjugated else x


def call_number(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`item()`."""
    return r.item(r.lazy(args[0]))


def call_equal(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.equal`: a bool that depends on values."""
    a, b = args
    if tuple(a.shape) != tuple(b.shape):
        return False
    same = r.call(aten.eq.Tensor, (a, b), {})
    return bool(r.number(r.call(aten.all.default, (same,), {}), bool))


def call_attention(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation, except where it drops weights. On the CPU torch has no kernel for that and
    writes the scores out, whose mask a derivative must see; on a GPU torch chooses the kernel, and
    with it the numbers that are drawn. A GPU that is not here is thought to choose as most do."""
    kind = args[0].device.type
    dropout = args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
    draws = isinstance(dropout, float) and dropout > 0
    if draws and kind == "cuda":
        with paused():  # a mask's values are computed
            args, kwargs = without_known_mask(args, kwargs, lambda x: pattern(r.read(r.lazy(x))))
    if draws and kind == "cuda" and torch.cuda.is_available():
        with sdpa_kernel(chosen(args, kwargs)):
            return call_composite(r, func, args, kwargs)
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    if draws and kind == "cuda" and isinstance(mask, torch.Tensor) and mask.requires_grad:
        written = aten._scaled_dot_product_attention_math.default
        return call_composite(r, written, args, kwargs)[0]
    return (call_composite if draws and kind == "cpu" else call_value)(r, func, args, kwargs)


def call_lift_fresh(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.tensor(...)` of Python numbers: a constant, since those numbers are guarded."""
    x = args[0]
    return r.view(x, (), x.requires_grad) if isinstance(x, LazyTensor) else r.literal(x)


def run_directly(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Not an operation on values: profiler ranges, metadata."""
    return func(*args, **kwargs)


_SPECIAL: dict[Any, Handler] = {
    aten.copy_.default: call_copy,
    aten.as_strided.default: call_as_strided,
    aten._reshape_alias.default: call_reshape_alias,
    aten.resolve_conj.default: call_resolve_conj,
    aten.equal.default: call_equal,
    aten.scaled_dot_product_attention.default: call_attention,
    aten.lift_fresh.default: call_lift_fresh,
    aten.lift.default: call_lift_fresh,
    aten.detach_.default: call_detach,
    # Torch's own kernel has a derivative for any device; cuDNN's gives the same loss.
    aten._use_cudnn_ctc_loss.default: lambda r, f, a, k: False,
    aten._use_cudnn_ctc_loss.Tensor: lambda r, f, a, k: False,
    aten._has_compatible_shallow_copy_type.default: call_compatible,
    aten.is_same_size.default: lambda r, f, a, k: tuple(a[0].shape) == tuple(a[1].shape),
    **dict.fromkeys(_NUMBERS, call_number),
    **dict.fromkeys(
        (
            aten.t_.default,
            aten.transpose_.default,
            aten.swapaxes_.default,
            aten.swapdims_.default,
            aten.squeeze_.default,
            aten.squeeze_.dim,
            aten.squeeze_.dims,
            aten.unsqueeze_.default,
        ),
        call_inplace_view,
    ),
    aten.as_strided_.default: call_as_strided,
    **dict.fromkeys((aten.resize_.default, aten.resize_as_.default), call_resize),
    **{getattr(aten.set_, name): call_set for name in aten.set_.overloads()},
}
