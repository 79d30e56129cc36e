"""Known masks: an attention's mask that hides exactly what lies ahead becomes `is_causal`.

Masks are often built from nothing but sizes: each query looks at the keys up to its own place, or
at all of them. torch's fastest kernels take no mask, but know that one. Derivatives follow, from
the kernel that fits.

Declines on masks that depend on an input, on any other pattern, where queries and keys differ in
number, and where the result would be of another type. Safe: the same scores are left out.
"""

from __future__ import annotations

from lazytorch.ir import Graph, Node
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.attention_backward import AttentionBackward, AttentionSaving, kernel_for
from lazytorch.ops.masks import Pattern, pattern
from lazytorch.types import TensorType

Attention = ScaledDotProductAttention | AttentionSaving | AttentionBackward


def known_masks(graph: Graph) -> Graph:
    """The graph whose attentions read no masks that they can do without."""
    patterns: dict[Node, Pattern | None] = {}

    def rewrite(node: Node) -> Node:
        op = node.op
        if not isinstance(op, Attention):
            return node
        first = 1 if isinstance(op, AttentionBackward) else 0  # after the cotangent
        if op.is_causal or len(node.inputs) == (6 if first else 3):
            return node
        mask = node.inputs[-1]
        if mask not in patterns:
            patterns[mask] = pattern(mask)
        if patterns[mask] is None:
            return node
        causal = patterns[mask] == "causal"
        inputs = node.inputs[:-1]
        query, key = [x.type for x in inputs[first : first + 2]]
        assert isinstance(query, TensorType) and isinstance(key, TensorType)
        if causal and query.shape[-2] != key.shape[-2]:
            return node
        if isinstance(op, ScaledDotProductAttention):
            op = op.with_attributes(is_causal=causal)
        else:
            kernel = kernel_for(query, key, None, causal)
            assert kernel is not None
            op = op.with_attributes(is_causal=causal, kernel=kernel)
        typed = op.infer(*[x.type for x in inputs])
        if isinstance(op, ScaledDotProductAttention) and typed != node.type:
            return node
        return Node(op, inputs, typed, node.where)

    return graph.map(rewrite)
