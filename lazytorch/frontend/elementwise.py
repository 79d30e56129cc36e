"""The short way for the most frequent calls: elementwise operations on traced tensors, numbers.

It does what `call_value` does, without the generality: most of a recording's time is spent here.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch

from lazytorch.errors import LazyTorchError
from lazytorch.frontend.alias import Cell
from lazytorch.frontend.operators import NUMBERS
from lazytorch.frontend.tensor import LazyTensor, Traced, make
from lazytorch.ir import Node, constant
from lazytorch.ops.base import Pointwise
from lazytorch.types import TensorType, Type

if TYPE_CHECKING:
    from lazytorch.frontend.recording import Recording


class Inferred:
    """Result types by operation and operand types, looked up by identity.

    Hashing a type takes longer than the rest of a recorded operation; a recording meets few of
    them, and keeps them alive here, so that no identity is given away.
    """

    def __init__(self) -> None:
        self.found: dict[tuple[int, ...], tuple[Type, Pointwise, list[Type]]] = {}

    def type(self, op: Pointwise, types: list[Type]) -> Type:
        """What `op.infer(*types)` says."""
        key = (id(op), *map(id, types))
        entry = self.found.get(key)
        if entry is None:
            entry = self.found[key] = (op.infer(*types), op, types)
        return entry[0]


def record_elementwise(r: Recording, op: Pointwise, args: tuple[Any, ...]) -> LazyTensor | None:
    """The result of `op` on `args`; None where the general way must be taken.

    Raises LazyTorchError with the user's line where eager would refuse the operands.
    """
    nodes: list[Node] = []
    needed = False
    for a in args:
        if a.__class__ is Traced:
            nodes.append(a.cell.value if a.window is None else r.read(a))
            needed = needed or a.differentiable or (bool(a.cell.histories) and a.requires_grad)
        elif type(a) in NUMBERS:  # a number that varies calls itself a float, but is none
            nodes.append(constant(a))
        elif isinstance(a, torch.SymFloat):
            nodes.append(a.node.value)
        else:
            return None
    if needed and not torch.is_grad_enabled():
        return None
    types = [x.type for x in nodes]
    try:
        typed = r.inferred.type(op, types)
    except LazyTorchError as error:
        error.where = r.b.where
        error.values = {f"operand {i}": t for i, t in enumerate(types)}
        raise
    if not isinstance(typed, TensorType):
        return None
    node = Node(op, tuple(nodes), typed, r.b.where)
    if needed and not (typed.dtype.is_floating_point or typed.dtype.is_complex):
        needed = False
    cell = Cell(node)
    r.cells.append(weakref.ref(cell))
    return make(Traced, r, cell, None, typed, 0, needed)
