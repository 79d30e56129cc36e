"""Batch norm in evaluation mode as one scale and one shift for each channel.

norm(x) = x * s + t with s = gamma / sqrt(var + eps) and t = beta - mean * s. Both vectors depend on
parameters alone, so they are computed once, in the prologue; the product and the sum are
elementwise, so fusion puts them into one kernel with what follows. No weight is copied.

Declines where a parameter or a statistic depends on an argument or is written by the graph (the
vectors would be computed at every call), and where the result's type would change. Safe within the
accuracy rule: torch's own CPU kernel computes the same. 16-bit values are computed on in float32
and rounded once.
"""

from __future__ import annotations

import torch

from lazytorch.ir import Builder, Graph, Node, with_inputs
from lazytorch.ops.layout import Reshape
from lazytorch.ops.norm import BatchNorm, scale_and_shift
from lazytorch.ops.pointwise import Add, Cast, Mul
from lazytorch.types import TensorType


def scale_batch_norm(graph: Graph) -> Graph:
    """Rewrite every inference batch norm whose parameters are the same at every call."""
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        found = with_inputs(node, [new[x] for x in node.inputs])
        if isinstance(node.op, BatchNorm) and all(x in graph.steady for x in node.inputs[1:]):
            scaled = scaled_and_shifted(found)
            if scaled.type == node.type:
                found = scaled
        new[node] = found
    return graph.replace(new)


def scaled_and_shifted(norm: Node) -> Node:
    """The batch norm as arithmetic."""
    assert isinstance(norm.op, BatchNorm)
    x = norm.inputs[0]
    assert isinstance(x.type, TensorType)
    wide = torch.float32
    for operand in norm.inputs:
        assert isinstance(operand.type, TensorType)
        wide = torch.promote_types(wide, operand.type.dtype)
    b = Builder(norm.where)

    def cast(value: Node, dtype: torch.dtype) -> Node:
        assert isinstance(value.type, TensorType)
        return value if value.type.dtype is dtype else b(Cast(dtype), value)

    parameters = [cast(value, wide) for value in norm.inputs[1:]]
    scale, shift = scale_and_shift(b, norm.op, parameters)
    column = Reshape((x.type.shape[1], *(1,) * (x.type.rank - 2)))
    result = b(Add(), b(Mul(), cast(x, wide), b(column, scale)), b(column, shift))
    return cast(result, x.type.dtype)
