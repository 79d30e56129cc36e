"""Whatever is not a primitive: a torch overload with its arguments, typed by its fake kernel."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lazytorch.errors import LazyTorchError, ShapeError, UnsupportedError
from lazytorch.ir import Attribute, Op, Operand
from lazytorch.ops.layout import Window
from lazytorch.types import NOTHING, ScalarType, TensorType, TupleType, Type


class Aten(Op):
    """`overload(*args, **kwargs)`; `Operand(i)` among the arguments stands for operand i.

    `observed` is the type that a real run gave, for overloads whose fake kernel cannot know it.
    """

    overload: str
    args: tuple[Attribute, ...] = ()
    kwargs: tuple[tuple[str, Attribute], ...] = ()
    observed: Any = None

    def infer(self, *xs: Type) -> Type:
        if self.observed is not None:
            return self.observed
        return fake_type(self, xs)

    def run(self, *xs: Any) -> Any:
        args, kwargs = self.filled(xs)
        return resolve(self.overload)(*args, **kwargs)

    def type_of_run(self, *xs: Any) -> Type:
        """The type that a real run gives."""
        return value_type(self.run(*xs))

    @property
    def may_alias(self) -> bool:
        """Whether a result may show an operand's memory: the schema says so, or torch composes it
        of other overloads, whose results it may hand on."""
        found = resolve(self.overload)
        composed = torch._C.DispatchKey.CompositeImplicitAutograd
        return any(x.alias_info is not None for x in found._schema.returns) or (
            found.has_kernel_for_dispatch_key(composed)
        )

    def filled(self, xs: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with the operands in their places."""
        args = tuple([fill(a, xs) for a in self.args])
        return args, {name: fill(a, xs) for name, a in self.kwargs}


class AtenRandom(Aten):
    """An overload that draws from a generator: it must happen, in order."""

    effect: ClassVar[bool] = True


class AtenView(Window):
    """An overload whose result is a view of its operand; `item` is the one meant of several."""

    overload: str
    args: tuple[Attribute, ...] = ()
    kwargs: tuple[tuple[str, Attribute], ...] = ()
    item: int | None = None

    def infer(self, x: TensorType) -> TensorType:
        typed = value_type(shown(self, x))
        assert isinstance(typed, TensorType)
        return typed

    def offset(self, x: TensorType) -> int:
        nbytes = int(shown(self, x).storage_offset()) * shown(self, x).itemsize
        return nbytes // x.dtype.itemsize

    def run(self, x: torch.Tensor) -> torch.Tensor:
        result = Aten(self.overload, self.args, self.kwargs).run(x)
        return result if self.item is None else result[self.item]

    def pieces(self, x: TensorType) -> int | None:
        """How many views the overload returns; None where it returns one, not a list."""
        typed = fake_type(Aten(self.overload, self.args, self.kwargs), (x,))
        return len(typed.items) if isinstance(typed, TupleType) else None


class AtenMutating(Aten):
    """An overload that writes into operands: run on copies, results then the written copies."""

    mutated: tuple[int, ...] = ()

    def run(self, *xs: Any) -> Any:
        values = [x.clone() if i in self.mutated else x for i, x in enumerate(xs)]
        results = super().run(*values)
        if results is None:
            results = ()
        listed = tuple(results) if isinstance(results, tuple | list) else (results,)
        return (*listed, *[values[i] for i in self.mutated])


class AtenMutatingRandom(AtenMutating):
    """One that also draws from torch's generator."""

    effect: ClassVar[bool] = True


def fill(value: Attribute, xs: tuple[Any, ...]) -> Any:
    """`value` with every `Operand` replaced by the operand it names."""
    if value.__class__ is Operand:
        return xs[value.index]
    if value.__class__ is tuple:
        return [fill(v, xs) for v in value]
    return value


@lru_cache(maxsize=4096)
def resolve(overload: str) -> Any:
    """The torch overload object named `aten.add.Tensor`."""
    namespace, name, variant = overload.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), name), variant)


@lru_cache(maxsize=4096)
def shown(view: AtenView, x: TensorType) -> torch.Tensor:
    """What torch's fake kernel shows of an operand; UnsupportedError where it is no such view."""
    with faking(view.overload) as mode:
        operand = fake_value(x, mode)
        result = view.run(operand)
    same = result.layout is torch.strided and storage(result) == storage(operand)
    if not same or result.is_conj() or result.is_neg():
        raise UnsupportedError(f"{view.overload} shows its operand other than as strided memory")
    return result


def storage(x: torch.Tensor) -> int:
    """Identity of a tensor's memory."""
    return x.untyped_storage()._cdata


@lru_cache(maxsize=16384)
def fake_type(op: Aten, xs: tuple[Type, ...]) -> Type:
    """What torch's fake kernel says of the result; ShapeError with torch's words if it refuses."""
    if op.overload in STRICTER_FAKES:
        return real_type(op, xs)
    if op.overload in LIBRARYS_FAKES and not torch.cuda.is_available():
        device = next(x.device for x in xs if isinstance(x, TensorType))
        if device.type == "cuda":
            stand_ins = [fake_value(moved(x, torch.device("meta")), None) for x in xs]
            return moved(value_type(op.run(*stand_ins)), device)
    with faking(op.overload) as mode:
        values = tuple([fake_value(x, mode) for x in xs])
        return value_type(op.run(*values))


@contextmanager
def faking(overload: str) -> Generator[FakeTensorMode]:
    """Around a fake kernel; ShapeError with torch's words if it refuses, which torch also logs."""
    log = logging.getLogger(FakeTensorMode.__module__)
    before, log.disabled = log.disabled, True
    try:
        with FakeTensorMode(allow_non_fake_inputs=False) as mode:
            yield mode
    except LazyTorchError:
        raise
    except REFUSALS as error:
        said = str(error) or type(error).__name__
        raise ShapeError(f"{overload}: {said.splitlines()[0]}") from error
    finally:
        log.disabled = before


REFUSALS = (
    AssertionError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError
)  # fmt: skip
"""What torch's kernels, and the Python that stands in for them, raise of operands."""


STRICTER_FAKES = frozenset({"aten._grouped_mm.default"})
"""Overloads whose fake kernel refuses what the real one takes."""


LIBRARYS_FAKES = frozenset({"aten.convolution_backward.default"})
"""Overloads whose fake kernel asks which of a GPU's libraries this torch was built with, to say how
results lie; without a GPU, the meta kernel says what they are with cuDNN."""


def moved(x: Type, device: torch.device) -> Type:
    """A type, or a tuple of types, on another device."""
    if isinstance(x, TupleType):
        return TupleType(tuple(moved(y, device) for y in x.items))
    return replace(x, device=device) if isinstance(x, TensorType) else x


def real_type(op: Aten, xs: tuple[Type, ...]) -> Type:
    """What the real kernel makes of zeros; ShapeError with torch's words if it refuses."""
    values = [
        torch.empty_strided(x.shape, x.strides, dtype=x.dtype, device=x.device).zero_()
        if isinstance(x, TensorType)
        else fake_value(x, None)
        for x in xs
    ]
    try:
        return value_type(op.run(*values))
    except REFUSALS as error:
        raise ShapeError(f"{op.overload}: {str(error).splitlines()[0]}") from error


def fake_value(x: Type, mode: FakeTensorMode | None) -> Any:
    """A stand-in of type `x` without memory."""
    if isinstance(x, TensorType):
        return torch.empty_strided(x.shape, x.strides, dtype=x.dtype, device=x.device)
    if isinstance(x, ScalarType):
        return x.kind(1)
    if isinstance(x, TupleType):
        return tuple(fake_value(item, mode) for item in x.items)
    raise TypeError(f"{x} has no stand-in")


def value_type(value: Any) -> Type:
    """The type of a result: a tensor, a number, or a tuple or list of results."""
    if isinstance(value, torch.Tensor):
        return TensorType(tuple(value.shape), value.dtype, value.device, tuple(value.stride()))
    if isinstance(value, tuple | list):
        return TupleType(tuple(value_type(v) for v in value))
    if isinstance(value, bool | int | float | complex):
        return ScalarType(type(value))
    if value is None:
        return NOTHING
    raise TypeError(f"a result of type {type(value).__name__} has no place in a graph")
