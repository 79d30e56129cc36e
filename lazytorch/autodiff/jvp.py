"""Forward mode: tangents of results from tangents of variables, by two reverse passes.

The reverse pass is linear in its cotangents; the reverse pass of that map, by its cotangents, is
the forward one. The cotangents themselves do not occur in it, so it costs one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from lazytorch.autodiff.vjp import Rule, vjp, zeros
from lazytorch.ir import Node, input, postorder
from lazytorch.ops.calculus import Calculus, tensor


def jvp(
    outputs: Sequence[Node],
    tangents: Sequence[Node | None],
    wrt: Sequence[Node],
    rule: Rule,
) -> list[Node | None]:
    """The tangent of each output, None for what depends on no variable that moves."""
    seeds = [input(f"u{i}", tensor(x)) for i, x in enumerate(outputs)]
    pulled = vjp(outputs, seeds, wrt, rule)
    pairs = [
        (g, t) for g, t in zip(pulled, tangents, strict=True) if g is not None and t is not None
    ]
    found = vjp([g for g, _ in pairs], [t for _, t in pairs], seeds, rule)
    return without(found, seeds)


def without(found: Sequence[Node | None], seeds: Sequence[Node]) -> list[Node | None]:
    """The nodes with zeros for the seeds, on whose values they do not depend."""
    order = postorder([x for x in found if x is not None])
    new: dict[Node, Node] = {}
    for node in order:
        if node in seeds:
            new[node] = zeros(Calculus(node.where), tensor(node))
        elif any([x in new for x in node.inputs]):
            inputs = tuple([new.get(x, x) for x in node.inputs])
            new[node] = Node(node.op, inputs, node.type, node.where)
    return [None if x is None else new.get(x, x) for x in found]
