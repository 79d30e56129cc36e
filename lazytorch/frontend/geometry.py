"""In-place geometry (`t_`, `resize_`, `set_`, `x.data = y`): the same tensor on another place.

The Python object stays; its cell and window are exchanged, and torch's own record of sizes,
strides and offset with them. A tensor that code outside the recording holds is refused by name:
its geometry would have to change at every replay, and with it what the plan was recorded for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch._C import DispatchKey, DispatchKeySet

from lazytorch.errors import DTypeError, LazyTorchError, ShapeError, UnsupportedError
from lazytorch.frontend.imports import VIEWERS, overload
from lazytorch.frontend.modes import paused
from lazytorch.frontend.place import Place, place
from lazytorch.frontend.tensor import LazyTensor, Traced
from lazytorch.ops.copies import Cat, format_strides, last_element, suggested_format
from lazytorch.ops.create import Full
from lazytorch.ops.layout import AsStrided, Detach
from lazytorch.ops.windows import Conj
from lazytorch.types import Shape, Strides, contiguous_strides, dtype_name

if TYPE_CHECKING:
    from lazytorch.frontend.recorder import Recorder

_FORMS = {"transpose_": "transpose.int", "swapaxes_": "transpose.int", "swapdims_": "transpose.int"}


def move(r: Recorder, target: torch.Tensor, to: Place, operation: str) -> torch.Tensor:
    """Make `target` show another place; refused where code outside holds it."""
    x = r.lazy(target)
    if target is not x or r.outside(x):
        if place(x)[::2] == to[::2] and to.offset == x.storage_offset() and not to.has(Conj):
            return target
        raise UnsupportedError(
            f"{operation} changes the geometry of a tensor that code outside holds",
            {"tensor": x.typed, "wanted": to.typed},
            r.b.where,
            "do it outside, or on a tensor of your own: y = x.view_as(x)",
        )
    if isinstance(x, Traced) and x.requires_grad and not torch.is_grad_enabled():
        raise UnsupportedError(
            f"{operation} under no_grad of a tensor that requires grad",
            {"tensor": x.typed},
            r.b.where,
            "use the form that returns a new tensor",
        )
    adopt(r, x, to)
    return target


def adopt(r: Recorder, x: LazyTensor, to: Place) -> None:
    """The exchange itself. torch's setter copies all that torch knows of a tensor but its history,
    and refuses what eager refuses (another layout, integers that require grad)."""
    here = DispatchKeySet(DispatchKey.Python) | DispatchKeySet(DispatchKey.PythonTLSSnapshot)
    with torch._C._ExcludeDispatchKeyGuard(here), torch._C.DisableTorchFunctionSubclass():
        torch.Tensor.data.__set__(x, r.at(to, False))  # type: ignore[attr-defined]
    x.cell, x.window, x.typed, _ = to


def call_inplace_view(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`t_`, `transpose_`, `squeeze_`, `unsqueeze_`: the view of the same name, in place."""
    name = func._opname
    view = _FORMS.get(name, f"{name.removesuffix('_')}.{func._overloadname}")
    x = r.lazy(args[0])
    try:
        steps = VIEWERS[overload(view)](x.typed, *args[1:], **kwargs)
    except LazyTorchError as error:
        error.where = error.where or r.b.where
        raise
    return move(r, args[0], place(x).through(steps), name)


def call_as_strided(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A window on the whole storage, whatever view of it the argument is; `as_strided_` moves."""
    x = r.lazy(args[0])
    bound = dict(zip(("size", "stride", "storage_offset"), args[1:], strict=False)) | kwargs
    start = bound.get("storage_offset")
    offset = int(x.storage_offset() if start is None else start)
    to = window(r, x, bound["size"], bound["stride"], offset)
    if func._opname == "as_strided_":
        return move(r, args[0], to, "as_strided_")
    x.cell.shared = True
    if not x.requires_grad or torch.is_grad_enabled():
        return r.at(to, x.requires_grad)
    return r.at(to.through([Detach()]), False).requires_grad_()


def window(
    r: Recorder, x: LazyTensor, shape: Sequence[int], strides: Sequence[int], offset: int
) -> Place:
    """Any geometry on the storage of `x`; what leaves the part that came in is refused by name."""
    try:
        return place(x).strided(tuple(shape), tuple(strides), offset)
    except ShapeError as error:
        if not any(cell is x.cell for cell in r.outer_cells()):
            raise
        raise UnsupportedError(
            "as_strided shows memory that is no part of the tensor that came in",
            {"tensor": x.typed, "why": error.message},
            r.b.where,
            "pass the tensor that holds all of it",
        ) from error


def call_resize(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`resize_` and `resize_as_`: row-major, or in a memory format."""
    given = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
    x, memory_format = r.lazy(args[0]), given.get("memory_format")
    if func._opname == "resize_as_":
        template = r.lazy(given["the_template"]).typed
        shape = template.shape
        if memory_format == torch.preserve_format:
            memory_format = suggested_format(template)
    else:
        shape = tuple(given["size"])
    if x.requires_grad:
        raise LazyTorchError("cannot resize variables that require grad", where=r.b.where)
    if memory_format is not None:
        strides = format_strides(shape, memory_format)
    else:
        strides = x.typed.strides if shape == x.typed.shape else contiguous_strides(shape)
    return resize(r, args[0], shape, strides, func._opname)


def resize(
    r: Recorder, target: torch.Tensor, shape: Shape, strides: Strides, operation: str
) -> torch.Tensor:
    """Another geometry at the same offset; a storage that nobody else shows grows where it must.

    Eager leaves what it grows by as it finds it; here it is zeros.
    """
    if r.kind is not Traced and not isinstance(target, LazyTensor):
        with paused():  # an ordinary tensor in lazy use is written at once
            return target.resize_(shape).as_strided_(shape, strides)
    x = r.lazy(target)
    here = place(x)
    cell, have = here.cell, here.cell.typed
    needed = here.offset + last_element(shape, strides) + 1 if 0 not in shape else 0
    there = cell.offset + last_element(have.shape, have.strides) + 1
    if needed * x.typed.dtype.itemsize <= there * have.dtype.itemsize:
        return move(r, target, window(r, x, shape, strides, here.offset), operation)
    if cell.shared or have.dtype is not x.typed.dtype or not have.is_dense:
        raise UnsupportedError(
            f"{operation} grows a storage that other tensors may show, or code outside",
            {"tensor": x.typed, "wanted": list(shape)},
            r.b.where,
            "make a new tensor of that size instead",
        )
    flat = r.b(AsStrided((have.numel,), (1,), 0, have.strides), cell.value)
    room = r.b(Full((needed - have.numel,), 0, have.dtype, have.device))
    whole = place(r.fresh(r.b(Cat(0), flat, room), False))
    return move(r, target, whole.through([AsStrided(shape, strides, here.offset)]), operation)


def call_set(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x.set_(y)`: the storage and geometry of another tensor, or a part of its storage."""
    given = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
    x, source = r.lazy(args[0]), given.get("source")
    if not func._overloadname.startswith("source"):
        empty = r.b(Full((0,), 0, x.typed.dtype, x.typed.device))
        return move(r, args[0], place(r.fresh(empty, False)), "set_")
    if not isinstance(source, torch.Tensor):
        raise UnsupportedError(
            "set_ to a storage object", where=r.b.where, hint="pass the tensor: x.set_(y)"
        )
    y = other(r, source, "set_")
    if (x.typed.dtype, x.typed.device) != (y.typed.dtype, y.typed.device):
        raise DTypeError(
            f"Could not set tensor of type {dtype_name(y.typed.dtype)} to a tensor of type "
            f"{dtype_name(x.typed.dtype)}",
            {"tensor": x.typed, "source": y.typed},
            r.b.where,
        )
    if x.requires_grad or y.requires_grad:
        raise UnsupportedError(
            "set_ of or to a tensor that requires grad", {"tensor": x.typed}, r.b.where,
            "use x.data = y, or y itself",
        )  # fmt: skip
    to = place(y)
    if "storage_offset" in given:
        size = tuple(given["size"])
        strides = tuple(given.get("stride", ())) or contiguous_strides(size)
        to = window(r, y, size, strides, to.offset + int(given["storage_offset"]))
    return move(r, args[0], to, "set_")


def other(r: Recorder, source: torch.Tensor, operation: str) -> LazyTensor:
    """The tensor whose memory is to be shown: in lazy use, a lazy one."""
    if not isinstance(source, LazyTensor) and r.kind is not Traced:
        raise UnsupportedError(
            f"{operation} would make a lazy tensor share memory with an ordinary one",
            {"source": tuple(source.shape)},
            r.b.where,
            "make it lazy first: lt.lazy(y)",
        )
    y = r.lazy(source)
    y.cell.shared = True
    return y


def set_data(r: Recorder, x: LazyTensor, value: object) -> None:
    """`x.data = value`: the memory of `value`, with the history of `x`."""
    r.b.where = r.here()
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"Variable data has to be a tensor, but got {type(value).__name__}")
    if isinstance(x, Traced) and x.requires_grad:
        raise UnsupportedError(
            "x.data = y inside a compiled function, where x requires grad",
            {"tensor": x.typed},
            r.b.where,
            "use y, or x + (y - x).detach() for a value of y with the gradient of x",
        )
    y = other(r, value, "x.data = y")
    to = place(y)
    move(r, x, to.through([Detach()]) if y.requires_grad else to, "x.data = y")


def call_compatible(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What torch asks before `x.data = y` on a tensor from outside."""
    if isinstance(args[0], LazyTensor):
        return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args)
    raise UnsupportedError(
        "x.data = y of a tensor that code outside holds",
        {"tensor": tuple(args[0].shape)},
        r.b.where,
        "use x.copy_(y), or do it outside",
    )


def call_detach(r: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`detach_`: a tensor of its own forgets its history."""
    x = args[0]
    if not x.requires_grad:
        return x
    hint = "use y = x.detach()"
    if not isinstance(x, Traced) or r.outside(x):
        raise UnsupportedError(
            "detach_() of a tensor that code outside holds", where=r.b.where, hint=hint
        )
    if x.window is not None:
        raise LazyTorchError("Can't detach views in-place. Use detach() instead.", where=r.b.where)
    if x.cell.shared:
        raise UnsupportedError(
            "detach_() of a tensor that was viewed, whose views keep their history",
            where=r.b.where, hint=hint,
        )  # fmt: skip
    r.write(x, r.b(Detach(), r.read(x)))
    x.differentiable = False
    x.cell.histories -= {None}
    return x
