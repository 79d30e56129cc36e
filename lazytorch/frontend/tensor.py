"""LazyTensor: a torch.Tensor without memory, standing for a value of a graph under construction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from typing_extensions import override

from lazytorch.errors import UnsupportedError
from lazytorch.frontend.alias import Cell, Window, family
from lazytorch.frontend.modes import VIEWS
from lazytorch.frontend.operators import operator
from lazytorch.types import TensorType

if TYPE_CHECKING:
    from lazytorch.frontend.recorder import Recorder

_wrapper = torch.Tensor._make_wrapper_subclass
_flag = torch.Tensor.requires_grad.__get__  # type: ignore[attr-defined]
_own: Any = torch.Tensor.grad


class LazyTensor(torch.Tensor):
    """A value that is not computed yet. It behaves like a torch.Tensor and a NumPy array.

    Shape, dtype, device, strides and requires_grad are known; looking at a value (`print`,
    `item`, `numpy`, `if x > 0`) computes it.
    """

    recorder: Recorder
    cell: Cell
    window: Window | None = None  # None: the whole cell
    typed: TensorType

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return owner(args, kwargs).call(func, args, kwargs or {})

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if torch.is_grad_enabled() and needs_grad(args, kwargs):
                return func(*args, **(kwargs or {}))
            # Nobody will ask for a gradient: go past autograd, where composites arrive whole.
            with torch._C._AutoDispatchBelowAutograd(), torch._C._ExcludeDispatchKeyGuard(VIEWS):
                return func(*args, **(kwargs or {}))

    @property
    @override
    def data(self) -> torch.Tensor:
        """The tensor without its history; setting it shows another tensor's memory instead."""
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        self.recorder.set_data(self, value)

    def force(self) -> torch.Tensor:
        """The value as an ordinary tensor (computed now if it was not), sharing no memory."""
        return self.recorder.force(self)

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return self.recorder.describe(self)

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    @override
    def item(self) -> Any:
        return self.recorder.item(self)

    def __bool__(self) -> bool:
        return bool(self.recorder.number(self, bool))

    def __int__(self) -> int:
        return int(self.recorder.number(self, int))

    def __index__(self) -> int:
        return int(self.recorder.number(self, int))

    def __float__(self) -> float:
        return float(self.recorder.number(self, float))

    def __complex__(self) -> complex:
        return complex(self.recorder.number(self, complex))

    @override
    def tolist(self) -> Any:
        return self.recorder.tolist(self)

    def torch(self) -> torch.Tensor:
        """The value as an ordinary torch.Tensor of its own, outside the graph."""
        return self.force().clone()

    @override
    def numpy(self, *, force: bool = False) -> Any:
        return self.torch().numpy(force=force)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self.torch().numpy(force=True)
        return array if dtype is None else array.astype(dtype)

    def __dlpack__(self, **how: Any) -> Any:
        return self.torch().__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.force().__dlpack_device__()

    @override
    def data_ptr(self) -> int:
        raise UnsupportedError(
            "data_ptr: a lazy tensor has no memory", {"tensor": self.typed}, hint="call x.torch()"
        )

    @override
    def apply_(self, callable: Any) -> Any:
        self.refuse_elements("apply_")

    @override
    def map_(self, other: Any, callable: Any) -> Any:
        self.refuse_elements("map_")

    def map2_(self, x: Any, y: Any, callable: Any) -> Any:
        """As torch's, which its annotations leave out."""
        self.refuse_elements("map2_")

    def refuse_elements(self, name: str) -> NoReturn:
        """Raise UnsupportedError."""
        raise UnsupportedError(
            f"{name}: Python computes one element after the other",
            {"tensor": self.typed},
            hint="compute with whole tensors, or keep it eager with lt.disable",
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copy = memo.get(id(self))
        if copy is None:
            copy = memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.force().__reduce_ex__(protocol)


class Traced(LazyTensor):
    """A LazyTensor of a function being recorded, below autograd.

    `requires_grad` says whether eager's tensor would require grad; torch's own flag stays off, so
    that its engine refuses (rather than silently ignores) a backward pass started in here. A
    gradient is where eager has it: in the `.grad` of the real tensor, where there is one.
    """

    differentiable: bool = False
    leaf: bool = False  # whether gradients end here and are accumulated
    retained: bool = False
    behind: torch.Tensor | None = None  # the real tensor that it stands for
    made_by: Any = None  # the user's function of which it is a result

    __add__ = operator("__add__", "add.Tensor")
    __sub__ = operator("__sub__", "sub.Tensor")
    __mul__ = operator("__mul__", "mul.Tensor")
    __truediv__ = operator("__truediv__", "div.Tensor")
    __lt__ = operator("__lt__", "lt.Tensor")
    __le__ = operator("__le__", "le.Tensor")
    __gt__ = operator("__gt__", "gt.Tensor")
    __ge__ = operator("__ge__", "ge.Tensor")
    __radd__ = operator("__radd__", "add.Tensor")
    __rsub__ = operator("__rsub__", "sub.Tensor")
    __rmul__ = operator("__rmul__", "mul.Tensor")

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    @override
    def requires_grad(self) -> bool:  # type: ignore[override]
        if not self.differentiable and _flag(self):  # a factory was asked for it
            self.leaf = self.differentiable = self.cell.carries = True
            self.recorder.leaf(self)
        if self.cell.histories:
            self.look_for_writes()
        return self.differentiable

    def gain_history(self) -> None:
        """What was written in place has one; so have the other views of this one's family."""
        own = family(self.window)
        self.differentiable, self.leaf, self.cell.carries = True, False, True
        self.cell.histories |= {own}
        if own is not None:
            self.cell.hidden |= {own}

    def look_for_writes(self) -> None:
        """Whether a write through another view gave this one a history.

        Raises UnsupportedError where it was written through a detached tensor: the memory then has
        one history for it, and another one for others.
        """
        own = family(self.window)
        if own in self.cell.hidden:
            raise UnsupportedError(
                "a detached tensor is read after what has a history was written into it",
                {"tensor": self.typed},
                where=self.recorder.here(),
                hint="write into a clone, or write what is detached",
            )
        if own in self.cell.histories:
            self.differentiable, self.leaf = True, False

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @override
    # torch itself takes the name below; only its annotation says `mode`.
    def requires_grad_(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, requires_grad: bool = True
    ) -> Traced:
        if not requires_grad and self.requires_grad and not self.is_leaf:
            raise RuntimeError(
                "you can only change requires_grad flags of leaf variables. If you want to use a "
                "computed variable in a subgraph that doesn't require differentiation use "
                "var_no_grad = var.detach()."
            )
        if requires_grad and not self.requires_grad:
            self.leaf = True
            self.recorder.leaf(self)
        self.differentiable = requires_grad
        self.cell.carries = self.cell.carries or requires_grad
        return self

    @property
    @override
    def is_leaf(self) -> bool:  # type: ignore[override]
        return not self.requires_grad or self.leaf

    @property
    @override
    def grad(self) -> torch.Tensor | None:  # type: ignore[override]
        return _own.__get__(self) if self.behind is None else self.behind.grad

    # Torch declares a plain attribute.
    @grad.setter
    def grad(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, value: torch.Tensor | None
    ) -> None:
        _own.__set__(self if self.behind is None else self.behind, value)

    @property
    @override
    def grad_fn(self) -> Any:  # type: ignore[override]
        return self.made_by

    @property
    @override
    def retains_grad(self) -> bool:  # type: ignore[override]
        return self.retained

    @override
    def retain_grad(self) -> None:
        if not self.requires_grad:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if not self.is_leaf:
            self.retained = True
            self.recorder.retain(self)

    @override
    def register_hook(self, hook: Any) -> Any:
        return self.recorder.hook(self, hook)

    @override
    def register_post_accumulate_grad_hook(self, hook: Any) -> Any:
        raise UnsupportedError(
            "a hook after accumulation on a tensor of a compiled function is not supported",
            {"hook": getattr(hook, "__qualname__", hook)},
            where=self.recorder.here(),
            hint="register it outside, on a parameter",
        )


def make(
    kind: type[LazyTensor],
    recorder: Recorder,
    cell: Cell,
    window: Window | None,
    typed: TensorType,
    offset: int,
    requires_grad: bool,
) -> LazyTensor:
    """A tensor on `cell` whose first element lies `offset` elements into its storage."""
    x = _wrapper(
        kind,
        typed.shape,
        typed.strides,
        offset,
        None,
        typed.dtype,
        torch.strided,
        typed.device,
        False,
        requires_grad and kind is not Traced,
    )
    x.recorder = recorder
    x.cell = cell
    x.typed = typed
    if window is not None:
        x.window = window
    if requires_grad:
        cell.carries = True
        if isinstance(x, Traced):
            x.differentiable = True
    return x


def needs_grad(args: Any, kwargs: Any) -> bool:
    """Whether a tensor among the arguments requires grad."""
    stack: list[Any] = [args, kwargs or {}]
    while stack:
        value = stack.pop()
        if isinstance(value, torch.Tensor):
            if value.requires_grad:
                return True
        elif isinstance(value, tuple | list):
            stack.extend(value)
        elif isinstance(value, dict):
            stack.extend(value.values())
    return False


def owner(args: Any, kwargs: Any) -> Recorder:
    """The recorder of the first lazy tensor among the arguments."""
    stack: list[Any] = [kwargs, args]
    while stack:
        value = stack.pop()
        if isinstance(value, LazyTensor):
            return value.recorder
        if isinstance(value, tuple | list):
            stack.extend(reversed(value))
        elif isinstance(value, dict):
            stack.extend(value.values())
    raise UnsupportedError("an operation on lazy tensors without a lazy tensor")
