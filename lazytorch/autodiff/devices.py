"""Rules are recorded on the CPU, once for all devices."""

from __future__ import annotations

from typing import Any

import torch

from lazytorch.ir import Node, Op
from lazytorch.types import TensorType, TupleType

CPU = torch.device("cpu")


def placed(op: Op, node: Node) -> Op:
    """An operation recorded on the CPU, on the device of `node`."""
    device = device_of(node)
    return op if device is None or device == CPU else relocated(op, device)


def relocated(op: Op, device: torch.device) -> Op:
    """An operation with another device in the place of any that its attributes name."""
    attributes = dict(op.attributes())
    there = {name: on(value, device) for name, value in attributes.items()}
    return op if there == attributes else op.with_attributes(**there)


def on(value: Any, device: torch.device) -> Any:
    """A type or another attribute, on a device."""
    match value:
        case torch.device():
            return device
        case tuple():
            return tuple([on(x, device) for x in value])
        case TensorType():
            return TensorType(value.shape, value.dtype, device, value.strides)
        case TupleType():
            return TupleType(tuple([on(x, device) for x in value.items]))
        case _:
            return value


def device_of(node: Node) -> torch.device | None:
    """The device that a node computes on."""
    types = [node.type, *[x.type for x in node.inputs]]
    for typed in types:
        for part in typed.items if isinstance(typed, TupleType) else (typed,):
            if isinstance(part, TensorType):
                return part.device
    return None
