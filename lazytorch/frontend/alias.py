"""Cells and views: what eager means by tensors that share memory, expressed without mutation.

A cell is a whole storage. Its value is a node; a tensor on it is the cell and the window that it
shows. A window is a view of another window, or of the whole cell; each remembers what it last
showed, so that long chains of views are read once. A write rewrites the cell's value through the
windows backwards, so every other tensor on the cell sees it at its next read.
"""

from __future__ import annotations

from lazytorch.errors import DTypeError, LazyTorchError, ShapeError
from lazytorch.ir import Builder, Node
from lazytorch.ops.base import View
from lazytorch.ops.layout import Detach, Expand, written
from lazytorch.ops.pointwise import Cast
from lazytorch.types import TensorType, dtype_name


class Window:
    """What a tensor shows of its cell: one view of another window, or of the cell (None)."""

    __slots__ = ("depth", "node", "parent", "seen", "step", "typed")

    def __init__(self, parent: Window | None, step: View, typed: TensorType) -> None:
        self.parent = parent
        self.step = step
        self.typed = typed
        self.depth: int = 1 if parent is None else parent.depth + 1
        self.node: Node | None = None  # what it showed at version `seen` of its cell
        self.seen = -1


_NO_WINDOWS: frozenset[Window | None] = frozenset()


def chain(window: Window | None) -> list[Window]:
    """The windows from the cell to this one."""
    found: list[Window] = []
    while window is not None:
        found.append(window)
        window = window.parent
    return found[::-1]


class Cell:
    """One storage: its present value, and how often it was written."""

    __slots__ = ("__weakref__", "carries", "hidden", "histories", "initial", "offset", "shared",
                 "typed", "value", "version")  # fmt: skip

    def __init__(self, value: Node, offset: int = 0) -> None:
        assert isinstance(value.type, TensorType)
        self.initial = value
        self.value = value
        self.typed = value.type
        self.offset = offset  # elements before the value's first one in the real storage
        self.version = 0
        self.shared = False  # whether more than one tensor may show it
        self.carries = False  # whether a tensor on it has, or had, a history
        # The families of windows that a write gave one, and of those, what the value has not.
        self.histories: frozenset[Window | None] = _NO_WINDOWS
        self.hidden: frozenset[Window | None] = _NO_WINDOWS

    def read(self, b: Builder, window: Window | None) -> Node:
        """The node of what `window` shows at present."""
        unread: list[Window] = []
        while window is not None and window.seen != self.version:
            unread.append(window)
            window = window.parent
        node = self.value if window is None else window.node
        assert node is not None
        for one in reversed(unread):
            node = one.node = b(one.step, node)
            one.seen = self.version
        return node

    def write(self, b: Builder, window: Window | None, value: Node) -> None:
        """Replace what `window` shows by `value`, which has its shape and dtype."""
        windows = chain(window)
        bases = [self.value, *[self.read(b, one) for one in windows]]
        value = written(b, bases, [one.step for one in windows], value)
        self.value = value
        self.version += 1


def family(window: Window | None) -> Window | None:
    """The detached window that this one is a view of, or None for the cell: in eager, a write that
    has a history gives it to all views of the same."""
    while window is not None and not isinstance(window.step, Detach):
        window = window.parent
    return window


def detached(window: Window | None) -> bool:
    """Whether a window shows its cell without the cell's history."""
    return family(window) is not None


def fitted(b: Builder, value: Node, target: TensorType, operation: str) -> Node:
    """`value` as an in-place operation would store it into `target`, or eager's refusal."""
    have = value.type
    if not isinstance(have, TensorType):
        raise LazyTorchError(f"{operation}: a {have} cannot be stored into a tensor")
    for size, stride in zip(target.shape, target.strides, strict=True):
        if stride == 0 and size > 1:
            raise LazyTorchError(
                f"{operation}: unsupported operation: more than one element of the written-to "
                "tensor refers to a single memory location. Please clone() the tensor before "
                "performing the operation."
            )
    if have.shape != target.shape:
        raise ShapeError(
            f"{operation}: output with shape {list(target.shape)} doesn't match the broadcast "
            f"shape {list(have.shape)}"
        )
    if have.dtype is not target.dtype:
        import torch

        if not torch.can_cast(have.dtype, target.dtype):
            raise DTypeError(
                f"{operation}: result type {dtype_name(have.dtype)} can't be cast to the desired "
                f"output type {dtype_name(target.dtype)}"
            )
        value = b(Cast(target.dtype), value)
    return value


def copied(b: Builder, source: Node, target: TensorType) -> Node:
    """What `target.copy_(source)` stores: converted and broadcast."""
    have = source.type
    if not isinstance(have, TensorType):
        raise LazyTorchError(f"copy_: a {have} cannot be copied into a tensor")
    if have.dtype is not target.dtype:
        source = b(Cast(target.dtype), source)
    if have.shape != target.shape:
        source = b(Expand(target.shape), source)
    return source
