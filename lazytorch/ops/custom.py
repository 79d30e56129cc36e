"""Results of a user's `torch.autograd.Function`, whose derivative is the user's own backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lazytorch.ir import Node, Op
from lazytorch.ops.calculus import Calculus
from lazytorch.types import TupleType, Type


class Custom(Op):
    """The first `count` operands, which the forward computed, as a tuple; the rest is what it
    computed them from, to which the backward sends its gradients."""

    function: Any  # a Callback
    count: int

    def infer(self, *xs: Type) -> TupleType:
        return TupleType(xs[: self.count])

    def run(self, *xs: Any) -> tuple[Any, ...]:
        return xs[: self.count]

    def vjp(
        self, s: Calculus, g: Sequence[Node | None], out: Node, *xs: Node
    ) -> Sequence[Node | None]:
        given = self.function.pull(s, g, out, xs[: self.count])
        return (*[None] * self.count, *given)
