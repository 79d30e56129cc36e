"""A value that is not there before others are: what puts work in an order without reading it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lazytorch.ir import Node, Op
from lazytorch.types import TensorType

if TYPE_CHECKING:
    from lazytorch.ops.calculus import Calculus, Cotangents


class After(Op):
    """The first operand itself, once the others are computed.

    Two equal computations of which one waits stay two: no pass takes them for one.
    """

    view: ClassVar[bool] = True

    def infer(self, x: TensorType, *others: TensorType) -> TensorType:
        return x

    def run(self, x: Any, *others: Any) -> Any:
        return x

    def vjp(self, s: Calculus, g: Node, out: Node, x: Node, *others: Node) -> Cotangents:
        return (g, *[None] * len(others))
