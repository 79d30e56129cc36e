"""Imports of factories: tensors made from sizes and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lazytorch.frontend.aten.layout import laid_out, typed
from lazytorch.frontend.imports import imports
from lazytorch.ir import Builder, Node
from lazytorch.ops.copies import format_strides
from lazytorch.ops.create import Arange, Eye, Linspace, Tril, Triu, full
from lazytorch.types import Number, ScalarType, Strides

Scalar = Number | Node


def device_of(device: Any) -> torch.device:
    """The device of a factory: the CPU unless said otherwise."""
    return torch.device("cpu" if device is None else device)


def plain(layout: torch.layout | None, pin_memory: bool | None) -> bool:
    """Whether a factory's rarer arguments ask for nothing special."""
    return layout in (None, torch.strided) and not pin_memory


def number_dtype(*values: Scalar) -> torch.dtype:
    """The dtype that torch gives to a tensor made of such numbers."""
    kinds = [v.type.kind if isinstance(v, Node) and isinstance(v.type, ScalarType) else type(v)
             for v in values]  # fmt: skip
    if complex in kinds:
        return torch.get_default_dtype().to_complex()
    if float in kinds:
        return torch.get_default_dtype()
    return torch.bool if all(kind is bool for kind in kinds) else torch.int64


def filled(
    b: Builder,
    size: Sequence[int],
    value: Scalar,
    dtype: torch.dtype,
    device: Any,
    strides: Strides | None,
    layout: torch.layout | None,
    pin_memory: bool | None,
) -> Node:
    """A `Full` node, where layout and pinning are the usual ones."""
    if not plain(layout, pin_memory):
        return NotImplemented
    return full(b, tuple(size), value, dtype, device_of(device), strides)


@imports("full.default")
def full_(
    b: Builder,
    size: Sequence[int],
    fill_value: Scalar,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Node:
    """One value; its kind decides the dtype."""
    dtype = dtype or number_dtype(fill_value)
    return filled(b, size, fill_value, dtype, device, None, layout, pin_memory)


def constant_factory(name: str, value: int) -> None:
    """Import `zeros`, `ones`, `empty`: memory without content becomes zeros, as in a replay."""

    @imports(f"{name}.default", f"{name}.memory_format")
    def factory(  # pyright: ignore[reportUnusedFunction]  # entered in the table
        b: Builder,
        size: Sequence[int],
        dtype: torch.dtype | None = None,
        layout: torch.layout | None = None,
        device: torch.device | None = None,
        pin_memory: bool | None = None,
        memory_format: torch.memory_format | None = None,
    ) -> Node:
        if memory_format in (None, torch.contiguous_format):
            strides = None
        else:
            strides = format_strides(tuple(size), memory_format)
        dtype = dtype or torch.get_default_dtype()
        return filled(b, size, value, dtype, device, strides, layout, pin_memory)

    @imports(f"{name}_like.default")
    def like(  # pyright: ignore[reportUnusedFunction]  # entered in the table
        b: Builder, self: Node, **options: Any
    ) -> Node:
        return full_like(b, self, value, **options)

    @imports(f"new_{name}.default")
    def new(  # pyright: ignore[reportUnusedFunction]  # entered in the table
        b: Builder, self: Node, size: Sequence[int], **options: Any
    ) -> Node:
        return new_full(b, self, size, value, **options)


@imports("_efficientzerotensor.default")
def memoryless_zeros(b: Builder, size: Sequence[int], **options: Any) -> Node:
    """Zeros with memory: what torch's formulas make has none, and a kernel reads every operand."""
    dtype = options.pop("dtype", None) or torch.get_default_dtype()
    return full_(b, size, 0, dtype, **options)


@imports("full_like.default")
def full_like(
    b: Builder,
    self: Node,
    fill_value: Scalar,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> Node:
    """Shape, layout, dtype and device of another tensor."""
    x = typed(self)
    strides = laid_out(x, memory_format)
    return filled(
        b, x.shape, fill_value, dtype or x.dtype, device or x.device, strides, layout, pin_memory
    )


@imports("new_full.default")
def new_full(
    b: Builder,
    self: Node,
    size: Sequence[int],
    fill_value: Scalar,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Node:
    """Dtype and device of another tensor."""
    x = typed(self)
    return filled(
        b, size, fill_value, dtype or x.dtype, device or x.device, None, layout, pin_memory
    )


for _name, _value in (("zeros", 0), ("ones", 1), ("empty", 0)):
    constant_factory(_name, _value)


@imports("empty_strided.default")
def empty_strided(
    b: Builder,
    size: Sequence[int],
    stride: Sequence[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Node:
    """Memory without content becomes zeros."""
    dtype = dtype or torch.get_default_dtype()
    return filled(b, size, 0, dtype, device, tuple(stride), layout, pin_memory)


@imports("new_empty_strided.default")
def new_empty_strided(
    b: Builder,
    self: Node,
    size: Sequence[int],
    stride: Sequence[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Node:
    """Memory without content becomes zeros."""
    x = typed(self)
    return empty_strided(b, size, stride, dtype or x.dtype, layout, device or x.device, pin_memory)


@imports("scalar_tensor.default")
def scalar_tensor(
    b: Builder,
    s: Scalar,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Node:
    """A tensor without dimensions."""
    return filled(b, (), s, dtype or torch.get_default_dtype(), device, None, layout, pin_memory)


@imports("arange.default")
def arange(b: Builder, end: Scalar, **options: Any) -> Node:
    """From 0."""
    return arange_step(b, 0, end, **options)


@imports("arange.start", "arange.start_step")
def arange_step(
    b: Builder,
    start: Scalar,
    end: Scalar,
    step: Scalar = 1,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Node:
    """int64 where all three are integers."""
    if isinstance(start, Node) or isinstance(end, Node) or isinstance(step, Node):
        return NotImplemented
    if not plain(layout, pin_memory):
        return NotImplemented
    if dtype is None:
        dtype = number_dtype(0, start, end, step)
    return b(Arange(start, end, step, dtype, device_of(device)))


@imports("linspace.default")
def linspace(
    b: Builder,
    start: Scalar,
    end: Scalar,
    steps: int,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Node:
    """Real numbers only."""
    if isinstance(start, Node | complex) or isinstance(end, Node | complex):
        return NotImplemented
    if not plain(layout, pin_memory):
        return NotImplemented
    dtype = dtype or torch.get_default_dtype()
    return b(Linspace(start, end, steps, dtype, device_of(device)))


@imports("eye.default")
def eye(b: Builder, n: int, **options: Any) -> Node:
    """Square."""
    return eye_m(b, n, n, **options)


@imports("eye.m")
def eye_m(
    b: Builder,
    n: int,
    m: int,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Node:
    """n rows, m columns."""
    if not plain(layout, pin_memory):
        return NotImplemented
    return b(Eye(n, m, dtype or torch.get_default_dtype(), device_of(device)))


@imports("tril.default")
def tril(b: Builder, self: Node, diagonal: int = 0) -> Node:
    """The lower triangle."""
    return b(Tril(diagonal), self)


@imports("triu.default")
def triu(b: Builder, self: Node, diagonal: int = 0) -> Node:
    """The upper triangle."""
    return b(Triu(diagonal), self)
