"""Results of a user's `torch.autograd.Function`, whose derivative is the user's own backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Builder, Item, Node, Op
from lazytorch.op import Callback
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


class Once(Callback):
    """The derivative of a value that has none; `name` is the reason."""

    def __init__(self, name: str) -> None:
        self.name = name

    @override
    def pull(self, s: Any, g: Any, out: Any, xs: Any) -> Any:
        raise UnsupportedError(self.name, where=out.where)


def once(b: Builder, x: Node, reason: str) -> Node:
    """A value that refuses to be differentiated, with that reason."""
    return b(Item(0), b(Custom(Once(reason), 1), x, x))
