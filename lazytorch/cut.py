"""The cheapest values to keep, so that others can be computed again from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lazytorch.ir import Node


def cheapest(
    needed: Sequence[Node],
    cost: Callable[[Node], int | None],
    operands: Callable[[Node], Sequence[Node] | None],
) -> set[Node]:
    """The values to keep, by a minimum cut.

    `cost` is what keeping a value costs, None where it cannot be kept; `operands` are what it is
    computed from again, None where it cannot be. Each value is split into its being computed and
    its being kept; from the source come those that cannot be computed again, into the sink go those
    that are needed. A cut edge is a value that is kept.
    """
    import networkx as nx  # a tenth of a second that most graphs never need

    network: nx.DiGraph[object] = nx.DiGraph()
    reached: set[Node] = set()
    stack = list(needed)
    while stack:
        node = stack.pop()
        if node in reached:
            continue
        reached.add(node)
        price = cost(node)
        if price is None:
            network.add_edge((node, 0), (node, 1))
        else:
            network.add_edge((node, 0), (node, 1), capacity=price)
        below = operands(node)
        if below is None:
            network.add_edge("source", (node, 0))
            continue
        for x in below:
            network.add_edge((x, 1), (node, 0))
            stack.append(x)
    for node in needed:
        network.add_edge((node, 1), "sink")
    if "source" not in network:
        return set()
    _, (kept, _) = nx.minimum_cut(network, "source", "sink")
    return {node for node in reached if (node, 0) in kept and (node, 1) not in kept}
