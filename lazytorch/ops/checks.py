"""What operations refuse alike: operands of several dtypes or devices."""

from __future__ import annotations

from lazytorch.errors import DeviceError, DTypeError
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
