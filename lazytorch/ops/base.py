"""The families' common rules: elementwise operations and views."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch

from lazytorch.errors import DeviceError, DTypeError, ShapeError
from lazytorch.ir import Builder, Node, Op
from lazytorch.ops.emitter import Emitter, RowEmitter, Value
from lazytorch.types import (
    Number,
    ScalarType,
    Shape,
    Strides,
    TensorType,
    Type,
    broadcast,
    contiguous_strides,
    dtype_name,
    elementwise_order,
    kind_of,
    promote,
    strides_in_order,
    tensor_type,
)


class Pointwise(Op, abstract=True):
    """Elementwise: operands broadcast, are converted to one dtype, and `emit` says the arithmetic.

    `result` is the dtype rule: `same` keeps the promoted dtype, `float` makes integers the default
    floating dtype first, `bool` computes in the promoted dtype and answers bool.
    `overloads` names the torch overloads that import as this operation with all operands in
    order; empty means those of `torch.ops.aten.<name>` whose arguments are all operands.
    """

    result: ClassVar[Literal["same", "float", "bool"]] = "same"
    overloads: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    """The kinds of compute dtype that it takes: 0 bool, 1 integer, 2 floating, 3 complex."""
    eagers: ClassVar[bool] = False
    """Whether it says how torch's kernel rounds, so that its kernel contracts nothing besides."""
    numbers: ClassVar[bool] = True
    """Whether torch treats a Python number as one more tensor, which can decide the strides."""
    placed: ClassVar[bool] = False
    """Whether `emit` takes, behind the operands, which place in the result's memory an element
    has."""
    takes_numbers: ClassVar[Literal["anywhere", "right", "nowhere"]] = "anywhere"
    """Where torch's function takes Python numbers besides tensors: right is not as the first."""

    def compute_dtype(self, *xs: Type) -> torch.dtype:
        """What the operands are converted to before `emit`."""
        dtype = promote(xs)
        if self.result == "float" and kind_of(dtype) < 2:
            return torch.get_default_dtype()
        return dtype

    def operand_dtypes(self, *xs: Type) -> tuple[torch.dtype, ...]:
        """What each operand is converted to before `emit`: the compute dtype, conditions bool."""
        return (self.compute_dtype(*xs),) * len(xs)

    def result_dtype(self, *xs: Type) -> torch.dtype:
        """The result's dtype; DTypeError when the operation does not take the compute dtype."""
        dtype = self.compute_dtype(*xs)
        if kind_of(dtype) not in self.kinds:
            raise DTypeError(f"{self.name()}: not defined for {dtype_name(dtype)}")
        return torch.bool if self.result == "bool" else dtype

    def infer(self, *xs: Any, **_: Any) -> Type:
        return elementwise(self, xs, torch.get_default_dtype())

    def emit(self, s: Emitter, *xs: Value, **_: Value) -> Value:
        """The arithmetic, in the vocabulary of `Emitter`."""
        raise NotImplementedError(f"{self.name()} has no arithmetic")

    def run(self, *xs: Any, **_: Any) -> Any:
        if not any([isinstance(x, torch.Tensor) for x in xs]):
            return number(self, xs)
        if self.takes_numbers == "nowhere" or (
            self.takes_numbers == "right" and not isinstance(xs[0], torch.Tensor)
        ):
            xs = tuple(operands_as_tensors(xs))
        return self.emit(torch, *xs)  # type: ignore[arg-type]  # the module satisfies Emitter


class Rowwise(Op, abstract=True):
    """A row of the result, along the last dimension, depends on that row of the first operand.

    Further operands broadcast with it. The result has the first operand's shape, or one number for
    each row (a last dimension of 1). `emit` says the arithmetic, in the widest of all dtypes and
    float32.
    """

    extreme: ClassVar[bool] = False
    """Whether elements are compared with the largest or the smallest of their row, which a product
    equals only where it is rounded."""

    once: ClassVar[bool] = False
    """Whether one pass over a row gives its numbers, however long it is."""

    def along_rows(self, x: TensorType) -> bool:
        """Whether this one works along the last dimension of `x`, and along no other."""
        raise NotImplementedError(f"{self.name()} does not say along which dimension it works")

    def operand_dtypes(self, *xs: Type) -> tuple[torch.dtype, ...]:
        """What each operand is converted to before `emit`: the widest of all, or float32."""
        wide = torch.float32
        for x in (*xs, self.infer(*xs)):
            if isinstance(x, TensorType):
                wide = torch.promote_types(wide, x.dtype)
        return (wide,) * len(xs)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        """The arithmetic, in the vocabulary of `RowEmitter`."""
        raise NotImplementedError(f"{self.name()} has no arithmetic")


def number(op: Pointwise, xs: tuple[Number, ...]) -> Number:
    """`op` of Python numbers alone, in Python's precision."""
    wide = (torch.bool, torch.int64, torch.float64, torch.complex128)
    lowest = 2 if op.result == "float" else 0
    kinds = [max(kind_of(operand_dtype((x,))), lowest) for x in xs]
    tensors = [torch.scalar_tensor(x, dtype=wide[k]) for x, k in zip(xs, kinds, strict=True)]
    return op.run(*tensors).item()


def operands_as_tensors(xs: tuple[Any, ...]) -> list[torch.Tensor]:
    """Numbers among operands as 0-d tensors of the promoted dtype, which they leave as it is."""
    if all([isinstance(x, torch.Tensor) for x in xs]):
        return list(xs)
    typed = [tensor_type(x.shape, x.dtype) if isinstance(x, torch.Tensor) else x for x in xs]
    dtype = operand_dtype(tuple(typed))
    return [x if isinstance(x, torch.Tensor) else torch.scalar_tensor(x, dtype=dtype) for x in xs]


@lru_cache(maxsize=16384)
def elementwise(op: Pointwise, xs: tuple[Type, ...], default: torch.dtype) -> Type:
    """Type of an elementwise result; cached, also by the default dtype that promotion reads."""
    typed = elementwise_type(op, xs)
    dtype = op.result_dtype(*xs)
    if isinstance(typed, TensorType):
        return typed.with_dtype(dtype)
    return ScalarType((bool, int, float, complex)[kind_of(dtype)])


def elementwise_type(op: Pointwise, xs: tuple[Type, ...]) -> TensorType | ScalarType:
    """Broadcast shape, common device, and the strides torch's TensorIterator gives the result."""
    tensors = [x for x in xs if isinstance(x, TensorType)]
    if not tensors:
        scalar = xs[0]
        if not isinstance(scalar, ScalarType) or type(op).run is not Pointwise.run:
            raise DTypeError(f"{op.name()}: an operand must be a tensor")
        return scalar
    try:
        shape = broadcast([x.shape for x in tensors])
    except ValueError as error:
        raise ShapeError(f"{op.name()}: {error}") from None
    main = next((x for x in tensors if x.shape), tensors[0])
    for x in tensors:
        if x.device != main.device and (x.shape or x.device.type != "cpu"):
            raise DeviceError(
                f"{op.name()}: expected all tensors on one device, "
                f"found {main.device} and {x.device}"
            )
    device = next((x.device for x in tensors if x.device.type != "cpu"), main.device)
    if not all([x.is_dense for x in tensors]) and device.type == "cpu":
        # torch's CPU kernels first copy what is of another dtype, which packs it.
        pairs = zip(xs, op.operand_dtypes(*xs), strict=True)
        tensors = [
            x if x.dtype is dtype else x.dense() for x, dtype in pairs if isinstance(x, TensorType)
        ]
    operands = tuple([(x.shape, x.strides) for x in tensors])
    numbers = op.numbers and len(tensors) < len(xs)
    return TensorType(shape, main.dtype, device, elementwise_strides(shape, operands, numbers))


def elementwise_strides(
    shape: Shape, operands: tuple[tuple[Shape, Strides], ...], numbers: bool
) -> Strides:
    """Strides of a fresh elementwise result.

    Operands that agree decide at once, unless a Python number is among them; otherwise their
    dimensions are reordered. Source: ATen/TensorIterator.cpp, `fast_set_up` and
    `allocate_or_resize_outputs`.
    """
    if not numbers and all(x == shape for x, _ in operands):
        alike = agreed_strides(shape, [strides for _, strides in operands])
        if alike is not None:
            return alike
    read = tuple([broadcast_strides(tensor_type(x, strides=y), shape) for x, y in operands])
    order = elementwise_order(shape, read)
    if order == list(range(len(shape))):
        return contiguous_strides(shape)
    strides = [0] * len(shape)
    step = 1
    for dim in reversed(order):
        strides[dim] = step
        step *= shape[dim]  # with no elements torch's strides become 0 here, and so do these
    return tuple(strides)


def agreed_strides(shape: Shape, operands: list[Strides]) -> Strides | None:
    """The strides of a result whose operands, all of its shape, lie in memory alike."""
    types = [tensor_type(shape, strides=strides) for strides in operands]
    if all(x.is_contiguous for x in types):
        return contiguous_strides(shape)
    if len(shape) == 4:
        last = strides_in_order(shape, (0, 2, 3, 1))
        if all(
            size == 1 or stride == wanted
            for strides in operands
            for size, stride, wanted in zip(shape, strides, last, strict=True)
        ):
            return last
    first = types[0]
    return first.strides if first.is_dense and all(x == first for x in types) else None


def broadcast_strides(x: TensorType, shape: Shape) -> Strides:
    """Strides with which `x` reads as `shape`: 0 where it is repeated."""
    missing = len(shape) - x.rank
    return (0,) * missing + tuple(
        [
            0 if size == 1 and wanted != 1 else stride
            for size, stride, wanted in zip(x.shape, x.strides, shape[missing:], strict=True)
        ]
    )


class View(Op, abstract=True):
    """A window on the operand's memory: `put` is its inverse, a write through the window."""

    view: ClassVar[bool] = True

    def offset(self, x: TensorType) -> int:
        """Elements between the operand's first element and the result's."""
        return 0

    def put(self, b: Builder, base: Node, value: Node) -> Node:
        """`base` with the part that this view shows replaced by `value`."""
        raise NotImplementedError(f"{self.name()} cannot be written through")

    def after(self, first: View, x: TensorType, typed: TensorType) -> View | None:
        """One view of `x` that shows what this one shows of `first`'s result, with its `typed`."""
        return None


def operand_dtype(xs: tuple[Type | Number, ...]) -> torch.dtype:
    """Promoted dtype of a mix of types and Python numbers."""
    return promote([ScalarType(type(x)) if isinstance(x, int | float | complex) else x for x in xs])
