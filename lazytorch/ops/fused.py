"""A group of operations that one generated kernel computes."""

from __future__ import annotations

from typing import Any

from lazytorch.interpret import evaluate
from lazytorch.ir import Graph, Op
from lazytorch.ops.base import Rowwise
from lazytorch.types import Shape, TensorType, TupleType, Type


class Fused(Op):
    """The operations in `body` as one kernel; with several outputs the result is a tuple."""

    body: Graph

    @property
    def fresh(self) -> bool:
        """Whether something in the body is."""
        return any([x.op.fresh for x in self.body.nodes])

    def infer(self, *xs: Type) -> Type:
        outputs = tuple(x.type for x in self.body.outputs)
        return outputs[0] if len(outputs) == 1 else TupleType(outputs)

    def run(self, *xs: Any) -> Any:
        """By torch's kernels, one by one: the meaning of the generated kernel, and its stand-in."""
        known = evaluate(self.body, xs)
        outputs = tuple(known[x] for x in self.body.outputs)
        return outputs[0] if len(outputs) == 1 else outputs


def full_shape(op: Fused) -> Shape | None:
    """The shape whose last dimension a group needs whole; None if it needs none."""
    for node in op.body.nodes:
        if isinstance(node.op, Rowwise):
            typed = node.inputs[0].type
            assert isinstance(typed, TensorType)
            return typed.shape
    return None
