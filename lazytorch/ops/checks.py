"""What operations check alike: dtypes, devices, which optional operands there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lazytorch.errors import DeviceError, DTypeError, ShapeError
from lazytorch.ir import Op
from lazytorch.types import TensorType


def check_devices(op: Op, *xs: TensorType) -> None:
    """DeviceError unless all operands are on one device."""
    for x in xs:
        if x.device != xs[0].device:
            raise DeviceError(
                f"{op.name()}: expected all tensors on one device, "
                f"found {xs[0].device} and {x.device}"
            )


def check_alike(op: Op, *xs: TensorType) -> None:
    """DTypeError or DeviceError unless the operands have one dtype and device: no promotion."""
    if any([x.dtype is not xs[0].dtype for x in xs]):
        found = ", ".join(str(x.dtype) for x in xs)
        raise DTypeError(f"{op.name()}: expected operands of one dtype, got {found}")
    check_devices(op, *xs)


def optional(xs: Iterable[Any], *present: bool) -> Iterator[Any]:
    """The operands in order, None for each that is absent."""
    rest = iter(xs)
    for there in present:
        yield next(rest) if there else None


def check_channels(op: Op, x: TensorType, operands: Iterable[Any]) -> None:
    """ShapeError unless every per-channel operand has as many elements as `x` has channels."""
    if x.rank < 2:
        raise ShapeError(f"{op.name()}: expected at least 2 dimensions", {"input": x})
    given = [other for other in operands if isinstance(other, TensorType)]
    check_devices(op, x, *given)
    for other in given:
        if other.shape != (x.shape[1],):
            raise ShapeError(
                f"{op.name()}: expected {x.shape[1]} elements, one for each channel",
                {"input": x, "operand": other},
            )
