"""Runs the passes for this machine, and keeps copies of weights within eager's memory."""

from __future__ import annotations

from lazytorch import passes
from lazytorch.ir import Graph
from lazytorch.ops.library import libraries
from lazytorch.peak import eager_peak, footprint


def optimize(graph: Graph, freeze: bool, observe: passes.Observer | None = None) -> Graph:
    """The graph that runs.

    Without `freeze`, weights are copied (packed for a library) only as far as the most that is
    alive at once stays at or below eager's; what that leaves is known once the graph without any
    copy is there.
    """
    cpu = libraries()
    allowed = eager_peak(graph)
    graph = passes.optimize(graph, passes.REWRITES, observe)
    plain = passes.optimize(graph, passes.pipeline(cpu, freeze), observe)
    budget = allowed - footprint(plain).total
    if freeze or not passes.grants(graph, cpu, budget):
        return plain
    packed = passes.optimize(graph, passes.pipeline(cpu, freeze, budget), observe)
    return packed if footprint(packed).total <= allowed else plain
