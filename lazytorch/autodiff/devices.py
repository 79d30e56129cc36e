"""Rules are recorded on the CPU, once for all devices."""

from __future__ import annotations

import torch

from lazytorch.ir import Node, Op
from lazytorch.types import TensorType, TupleType, Type

CPU = torch.device("cpu")


def placed(op: Op, node: Node) -> Op:
    """An operation recorded on the CPU, on the device of `node`."""
    device = device_of(node)
    if device is None or device == CPU or not any(v == CPU for _, v in op.attributes()):
        return op
    return op.with_attributes(**{k: device for k, v in op.attributes() if v == CPU})


def device_of(node: Node) -> torch.device | None:
    """The device that a node computes on."""
    types = [node.type, *[x.type for x in node.inputs]]
    for typed in types:
        for part in typed.items if isinstance(typed, TupleType) else (typed,):
            if isinstance(part, TensorType):
                return part.device
    return None


def on_cpu(typed: Type) -> Type:
    """The same type on the CPU, where rules are recorded."""
    if isinstance(typed, TensorType):
        return TensorType(typed.shape, typed.dtype, CPU, typed.strides)
    if isinstance(typed, TupleType):
        return TupleType(tuple([on_cpu(x) for x in typed.items]))
    return typed
