"""Which rule differentiates a node: the operation's own, or the one that torch's formula gives."""

from __future__ import annotations

from collections.abc import Sequence

from lazytorch.autodiff.derive import derived
from lazytorch.autodiff.vjp import Cotangent
from lazytorch.ir import Node, input
from lazytorch.ops.calculus import Calculus
from lazytorch.types import TensorType, TupleType, Type, carries


def rule(s: Calculus, node: Node, g: Cotangent, needs: Sequence[bool]) -> Sequence[Node | None]:
    """The operation's own rule holds for real numbers; torch's for everything else."""
    if not any([is_complex(x.type) for x in (node, *node.inputs)]):
        given = node.op.vjp(s, g, node, *node.inputs)
        if given is not NotImplemented:
            return given
    return derived(s, node, g, needs)


def own(node: Node) -> bool:
    """Whether the operation's own rule holds for a node."""
    if any([is_complex(x.type) for x in (node, *node.inputs)]):
        return False
    if isinstance(node.type, TupleType):
        g = [input("u", x) if carries(x) else None for x in node.type.items]
    else:
        g = input("u", node.type)
    return node.op.vjp(Calculus(), g, node, *node.inputs) is not NotImplemented


def is_complex(typed: Type) -> bool:
    """Whether there are complex numbers in a value of this type."""
    if isinstance(typed, TensorType):
        return typed.dtype.is_complex
    return isinstance(typed, TupleType) and any([is_complex(x) for x in typed.items])
