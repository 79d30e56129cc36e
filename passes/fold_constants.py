"""Constant folding: what depends on no input is computed now, by running it.

An operation whose operands are all known becomes a number, a `full` where every element is the
same, or a `literal`. Its value is what the operation's own kernel gives, so nothing is rounded
otherwise than at run time. A literal of equal elements becomes a `full`, which other passes can
look into. For a device that is not here, where nothing but a plan is made, the CPU's kernel gives
the value, so that the plan is that of the program that would run there.

Declines on random draws and other effects, on `aten` operations (they may read uninitialized
memory), on views (they cost nothing), where operands and result together take more than `limit`
bytes (they are made once, in the prologue), and where the kernel refuses its operands (the error
belongs to the call, with the user's line).
"""

from __future__ import annotations

from typing import Any

import torch

from lazytorch.data import Data
from lazytorch.ir import Builder, Const, Graph, Input, Item, Node, constant
from lazytorch.ops.aten import Aten, moved
from lazytorch.ops.copies import ToDevice
from lazytorch.ops.create import Arange, Eye, Full, Linspace, Literal, full
from lazytorch.ops.fused import Fused
from lazytorch.ops.masks import on_cpu
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
            operands = [known[x] if x in known else evaluated(x) for x in node.inputs]
            value = evaluated(node, *operands)
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
    """Whether the operation always gives the same value, and it can be computed here."""
    if node.op.effect or isinstance(node.op, Aten | Fused | Input | Item):
        return False
    if isinstance(node.op, ToDevice) and not all(map(present, (node, *node.inputs))):
        return False
    return all(isinstance(x.type, ScalarType | TensorType) for x in (node, *node.inputs))


def is_source(node: Node) -> bool:
    """Whether the node's own operation knows its value."""
    if isinstance(node.op, Literal):
        return node.op.data.readable
    return isinstance(node.op, SOURCES) and not node.inputs


def present(node: Node) -> bool:
    """Whether a value can be made where it lies."""
    kind = node.type.device.type if isinstance(node.type, TensorType) else "cpu"
    return kind == "cpu" or (kind == "cuda" and torch.cuda.is_available())


def evaluated(node: Node, *operands: Any) -> Any:
    """What a node gives on operands; on the CPU if its device is not here."""
    return node.op.run(*operands) if present(node) else on_cpu(node.op, operands)


def bytes_of(node: Node) -> int:
    """Bytes of the tensors that running the node would make or read."""
    return sum(x.type.nbytes for x in (node, *node.inputs) if isinstance(x.type, TensorType))


def fits(value: Any, node: Node) -> bool:
    """Whether a value is of the node's type, strides included."""
    if isinstance(node.type, ScalarType):
        return type(value) is node.type.kind
    if not isinstance(value, torch.Tensor) or not isinstance(node.type, TensorType):
        return False
    typed = Data(value).type
    return (typed if present(node) else moved(typed, node.type.device)) == node.type


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
        assert isinstance(node.type, TensorType)
        strides, device = tuple(value.stride()), node.type.device
        return full(Builder(node.where), tuple(value.shape), number, value.dtype, device, strides)
    if isinstance(node.op, Literal):
        return node
    assert isinstance(node.type, TensorType)
    return Builder(node.where)(Literal(Data(value, node.type.device)))


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
