"""Splits what depends on parameters and constants alone from what runs at every call."""

from __future__ import annotations

from dataclasses import replace

from lazytorch.ir import Graph, Node, input, with_inputs
from lazytorch.peak import computed


def split(graph: Graph) -> tuple[Graph, Graph]:
    """`(prologue, main)`: main reads the prologue's outputs as inputs named `p0`, `p1`, ...

    State that the graph writes changes at every call and stays in main, and so does everything
    with an effect. A bare parameter is passed on, not copied; a large tensor of one number is
    filled where it is read.
    """
    steady = graph.steady
    frontier: dict[Node, None] = {}
    for node in graph.nodes:
        if node not in steady:
            frontier.update(dict.fromkeys(x for x in node.inputs if computed(x, steady)))
    frontier.update(dict.fromkeys(x for x in graph.outputs if computed(x, steady)))
    prologue_nodes = Graph((), tuple(frontier)).nodes
    used = tuple(x for x in graph.inputs if x in set(prologue_nodes))
    prologue = Graph(used, tuple(frontier))
    if not frontier:
        return prologue, graph
    done: dict[Node, Node] = {x: input(f"p{i}", x.type, "state") for i, x in enumerate(frontier)}
    values = tuple(done.values())
    for node in graph.nodes:
        if node not in done and node not in steady:
            done[node] = with_inputs(node, [done.get(x, x) for x in node.inputs])
    main = replace(
        graph,
        inputs=graph.inputs + values,
        outputs=tuple(done.get(x, x) for x in graph.outputs),
        effects=tuple(done.get(x, x) for x in graph.effects),
        order=tuple(done.get(x, x) for x in graph.order),
    )
    return prologue, main
