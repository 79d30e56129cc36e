"""Imports of random draws; a `generator=` argument is left to `Aten`, which refuses it by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lazytorch.errors import ShapeError
from lazytorch.frontend.aten.create import device_of, plain
from lazytorch.frontend.aten.layout import laid_out, typed
from lazytorch.frontend.imports import imports, views
from lazytorch.ir import Builder, Item, Node
from lazytorch.ops.base import View
from lazytorch.ops.create import full
from lazytorch.ops.pointwise import Cast, Div, Mul
from lazytorch.ops.random import (
    Bernoulli,
    BernoulliOf,
    Draw,
    Exponential,
    Multinomial,
    NativeDropout,
    Normal,
    RandomInteger,
    Randperm,
    Uniform,
)
from lazytorch.types import Strides, TensorType, contiguous_strides


def draw(
    b: Builder,
    kind: type[Draw],
    shape: Sequence[int],
    dtype: torch.dtype,
    device: Any,
    strides: Strides | None,
    *parameters: Any,
) -> Node:
    """A draw into fresh memory, row-major strides left out."""
    sizes = tuple(shape)
    if strides == contiguous_strides(sizes):
        strides = None
    return b(kind(sizes, dtype, device_of(device), strides, *parameters))


def into(b: Builder, kind: type[Draw], x: TensorType, *parameters: Any) -> Node:
    """What an in-place draw stores into `x`: drawn with its very strides."""
    return draw(b, kind, x.shape, x.dtype, x.device, x.strides, *parameters)


@imports("rand.default")
def rand(b: Builder, size: Sequence[int], **options: Any) -> Node:
    """Uniform in [0, 1)."""
    return factory(b, Uniform, size, (), **options)


@imports("randn.default")
def randn(b: Builder, size: Sequence[int], **options: Any) -> Node:
    """Standard normal."""
    return factory(b, Normal, size, (), **options)


@imports("randint.default")
def randint(
    b: Builder, high: int, size: Sequence[int], dtype: torch.dtype | None = None, **options: Any
) -> Node:
    """Integers from 0."""
    return randint_low(b, 0, high, size, dtype, **options)


@imports("randint.low")
def randint_low(
    b: Builder,
    low: int,
    high: int,
    size: Sequence[int],
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Node:
    """Integers."""
    return factory(b, RandomInteger, size, (low, high), dtype or torch.int64, **options)


def factory(
    b: Builder,
    kind: type[Draw],
    size: Sequence[int],
    parameters: tuple[Any, ...],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Node:
    """A row-major draw of a given size."""
    if not plain(layout, pin_memory):
        return NotImplemented
    return draw(b, kind, size, dtype or torch.get_default_dtype(), device, None, *parameters)


@imports("rand_like.default")
def rand_like(b: Builder, self: Node, **options: Any) -> Node:
    """Uniform in [0, 1)."""
    return like(b, Uniform, self, (), **options)


@imports("randn_like.default")
def randn_like(b: Builder, self: Node, **options: Any) -> Node:
    """Standard normal."""
    return like(b, Normal, self, (), **options)


@imports("randint_like.default")
def randint_like(b: Builder, self: Node, high: int, **options: Any) -> Node:
    """Integers from 0."""
    return like(b, RandomInteger, self, (0, high), **options)


@imports("randint_like.low_dtype")
def randint_like_low(b: Builder, self: Node, low: int, high: int, **options: Any) -> Node:
    """Integers."""
    return like(b, RandomInteger, self, (low, high), **options)


def like(
    b: Builder,
    kind: type[Draw],
    self: Node,
    parameters: tuple[Any, ...],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> Node:
    """A draw with the shape and layout of another tensor."""
    if not plain(layout, pin_memory):
        return NotImplemented
    x = typed(self)
    strides = laid_out(x, memory_format)
    return draw(b, kind, x.shape, dtype or x.dtype, device or x.device, strides, *parameters)


@imports("uniform.default")
def uniform(b: Builder, self: Node, *bounds: float, generator: Any = None, **named: float) -> Node:
    """`uniform_`; its argument `from` is no Python name."""
    low, high = (*bounds, *(0.0, 1.0)[len(bounds) :])
    low, high = named.get("from", low), named.get("to", high)
    if generator is not None:
        return NotImplemented
    if low > high:
        raise ShapeError(
            f"uniform_ expects to return a [from, to) range, but found from={low} > to={high}"
        )
    return into(b, Uniform, typed(self), float(low), float(high))


@imports("normal_functional.default")
def normal(
    b: Builder, self: Node, mean: float = 0.0, std: float = 1.0, generator: Any = None
) -> Node:
    """`normal_`."""
    if generator is not None:
        return NotImplemented
    if std < 0:
        raise ShapeError(f"normal expects std >= 0.0, but found std {std}")
    return into(b, Normal, typed(self), float(mean), float(std))


@imports("random.default")
def random(b: Builder, self: Node, generator: Any = None) -> Node:
    """`random_()`."""
    return NotImplemented if generator is not None else into(b, RandomInteger, typed(self))


@imports("random.to")
def random_to(b: Builder, self: Node, to: int, generator: Any = None) -> Node:
    """`random_(to)`."""
    return NotImplemented if generator is not None else into(b, RandomInteger, typed(self), 0, to)


@imports("random.from")
def random_from(
    b: Builder, self: Node, *bounds: int | None, generator: Any = None, **named: int | None
) -> Node:
    """`random_(from, to)`; its argument `from` is no Python name."""
    low = named.get("from", bounds[0] if bounds else None)
    high = named.get("to", bounds[1] if len(bounds) > 1 else None)
    if generator is not None or low is None or high is None:
        return NotImplemented
    return into(b, RandomInteger, typed(self), low, high)


@imports("exponential.default")
def exponential(b: Builder, self: Node, lambd: float = 1.0, generator: Any = None) -> Node:
    """`exponential_`."""
    if generator is not None:
        return NotImplemented
    return into(b, Exponential, typed(self), float(lambd))


@imports("bernoulli.p")
def bernoulli_p(b: Builder, self: Node, p: float = 0.5, generator: Any = None) -> Node:
    """`torch.bernoulli(x, p)`, and `bernoulli_(p)`, whose default is 0.5."""
    if generator is not None or isinstance(p, Node):
        return NotImplemented
    if not 0 <= p <= 1:
        raise ShapeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    x = typed(self)
    return draw(b, Bernoulli, x.shape, x.dtype, x.device, None, float(p))


@imports("bernoulli.default")
def bernoulli(b: Builder, self: Node, generator: Any = None) -> Node:
    """The operand holds the probabilities."""
    return NotImplemented if generator is not None else b(BernoulliOf(), self)


@imports("multinomial.default")
def multinomial(
    b: Builder, self: Node, num_samples: int, replacement: bool = False, generator: Any = None
) -> Node:
    """Positions by weight."""
    if generator is not None:
        return NotImplemented
    return b(Multinomial(num_samples, replacement), self)


@imports("randperm.default")
def randperm(
    b: Builder,
    n: int,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Node:
    """A permutation."""
    if not plain(layout, pin_memory):
        return NotImplemented
    return b(Randperm(n, dtype or torch.int64, device_of(device)))


@views("dropout.default")
def kept(x: TensorType, p: float, train: bool) -> tuple[View, ...]:
    """The operand itself where nothing is dropped, so that writes reach it."""
    return () if p == 0 or not train or not x.numel else NotImplemented


@imports("dropout.default")
def dropout(b: Builder, input: Node, p: float, train: bool) -> Node:
    """Drawn as eager draws it: a mask laid out like x and its product, or CUDA's one kernel.

    On the CPU the scale is mask / (1 - p) in x's dtype, and then multiplied, which rounds as eager
    does; the backward pass can share the mask, a byte for each element.
    """
    x = typed(input)
    if not 0 <= p <= 1:
        raise ShapeError(f"dropout probability has to be between 0 and 1, but got {p}")
    if p == 0 or not train or not x.numel:
        return input
    if p == 1:
        # Eager multiplies by a 0-d zero here, and draws nothing.
        return b(Mul(), input, full(b, (), 0.0, x.dtype, x.device))
    if x.device.type == "cuda":
        return b(Item(0), b(NativeDropout(float(p), x.strides), input))
    return masked(b, input, x, p)


def masked(b: Builder, input: Node, x: TensorType, p: float) -> Node:
    """A mask of its own, scaled, then multiplied."""
    strides = x.dense().strides
    mask = draw(b, Bernoulli, x.shape, torch.bool, x.device, strides, 1 - float(p))
    scale = b(Div(), b(Cast(x.dtype), mask), 1 - float(p))
    return b(Mul(), input, scale)


@imports("dropout_.default")
def dropout_in_place(b: Builder, self: Node, p: float, train: bool) -> Node:
    """In place eager draws a mask on every device, where out of place CUDA has one kernel."""
    x = typed(self)
    if not 0 < p < 1 or not train or not x.numel:
        return dropout(b, self, p, train)
    return masked(b, self, x, p)


@imports("native_dropout.default")
def native_dropout(b: Builder, input: Node, p: float, train: bool | None) -> Any:
    """The fused kernel, which only CUDA has."""
    x = typed(input)
    if train is False or x.device.type != "cuda" or not x.numel:
        return NotImplemented
    both = b(NativeDropout(float(p), x.strides), input)
    return b(Item(0), both), b(Item(1), both)
