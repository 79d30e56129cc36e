"""Constant folding: what depends on no input is computed now, by running it.

An operation whose operands are all known becomes a number, a `full` where every element is the
same, or a `literal`. Its value is what the operation's own kernel gives, so nothing is rounded
otherwise than at run time. A literal of equal elements becomes a `full`, which other passes can
look into.

Declines on random draws and other effects, on `aten` operations (they may read uninitialized
memory), on views (they cost nothing), on devices that are not here, where operands and result
together take more than `limit` bytes (they are made once, in the prologue), and where the kernel
refuses its operands (the error belongs to the call, with the user's line).
"""

from __future__ import annotations

from typing import Any

import torch

from lazytorch.data import Data
from lazytorch.ir import Builder, Const, Graph, Input, Item, Node, constant
from lazytorch.ops.aten import Aten
from lazytorch.ops.create import Arange, Eye, Full, Linspace, Literal, full
from lazytorch.ops.fused import Fused
from lazytorch.types import Number, ScalarType, TensorType

SOURCES = (Const, Literal, Full, Arange, Linspace, Eye)
"""Operations that need no folding: their text is as short as their value's."""


def fold_constants(graph: Graph, limit: int = 1 << 20) -> Graph:
    """Replace operations on constants by their values, up to `limit` bytes each."""
    known: dict[Node, Any] = {}

    def folded(node: Node) -> Node:
        if isinstance(node.op, Literal) and node.op.data.type.nbytes <= limit:
            return shortened(node, node.op.data.tensor)
        if not node.inputs or not all(x in known or is_source(x) for x in node.inputs):
            return node
        if not foldable(node) or bytes_of(node) > limit:
            return node
        try:
            value = node.op.run(*[known[x] if x in known else x.op.run() for x in node.inputs])
        except RuntimeError:  # such as an integer division by zero
            return node
        if not fits(value, node):
            return node
        found = node if node.op.view else replaced(node, value)
        known[found] = value
        return found

    with torch.no_grad():
        return graph.map(folded)


def foldable(node: Node) -> bool:
    """Whether the operation always gives the same value, on a device that is here."""
    if node.op.effect or isinstance(node.op, Aten | Fused | Input | Item):
        return False
    return all(
        isinstance(x.type, ScalarType)
        or (isinstance(x.type, TensorType) and present(x.type.device))
        for x in (node, *node.inputs)
    )


def is_source(node: Node) -> bool:
    """Whether the node's own operation knows its value."""
    return isinstance(node.op, SOURCES) and not node.inputs


def present(device: torch.device) -> bool:
    """Whether tensors can be made on the device."""
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_available())


def bytes_of(node: Node) -> int:
    """Bytes of the tensors that running the node would make or read."""
    return sum(x.type.nbytes for x in (node, *node.inputs) if isinstance(x.type, TensorType))


def fits(value: Any, node: Node) -> bool:
    """Whether a value is of the node's type, strides included."""
    if isinstance(node.type, ScalarType):
        return type(value) is node.type.kind
    return isinstance(value, torch.Tensor) and Data(value).type == node.type


def replaced(node: Node, value: Any) -> Node:
    """A node that is the value: a number, a `full` or a `literal`."""
    if not isinstance(value, torch.Tensor):
        return Node(constant(value).op, (), node.type, node.where)
    if not Data(value).type.is_dense:
        return node
    # A result that is a window on an operand would keep all of that alive.
    return shortened(node, value.clone())


def shortened(node: Node, value: torch.Tensor) -> Node:
    """A `full` if all elements are the same, else a `literal` (the node itself if it is one)."""
    number = repeated(value)
    if number is not None:
        strides = tuple(value.stride())
        return full(
            Builder(node.where), tuple(value.shape), number, value.dtype, value.device, strides
        )
    return node if isinstance(node.op, Literal) else Builder(node.where)(Literal(Data(value)))


def repeated(value: torch.Tensor) -> Number | None:
    """The number that every element is, bit for bit; None if there is no such number."""
    if not value.numel() or value.dtype.is_complex:
        return None
    first = value.reshape(-1)[:1]
    number: Number = first.item()
    again = torch.full_like(value, number)
    return number if torch.equal(bits(again), bits(value)) else None


def bits(value: torch.Tensor) -> torch.Tensor:
    """The elements' bytes, in which NaN equals itself and -0.0 differs from 0.0."""
    return value.contiguous().reshape(-1).view(torch.uint8)
