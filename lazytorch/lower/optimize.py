"""Runs the passes for this machine, and keeps copies of weights within eager's memory."""

from __future__ import annotations

from collections.abc import Iterator

from lazytorch import passes
from lazytorch.ir import Graph
from lazytorch.lower.costs import NOTHING_KNOWN, Costs
from lazytorch.ops.cudnn import (
    CudnnConvolution,
    CudnnConvolutionRelu,
    attends,
    multiplies,
    on_gpu,
    tensor_cores,
    whole_vectors,
)
from lazytorch.ops.library import libraries
from lazytorch.peak import Scratch, eager_peak, footprint, kept, nbytes, owners, scratch
from lazytorch.types import TensorType

SMALL = 1 << 20
"""Bytes of tables that are made at every call, at most, where there is no room to keep them."""


def optimize(
    graph: Graph,
    freeze: bool,
    numerics: str = "fast",
    observe: passes.Observer | None = None,
    again: passes.Choose | None = None,
    memo: passes.Memo | None = None,
    costs: Costs = NOTHING_KNOWN,
) -> Graph:
    """The graph that runs. What `again` chooses is computed again in the backward; what is in the
    `memo` is not run again; `costs` is what is known of the device.

    Without `freeze`, weights are copied (packed or laid out for a library, joined, padded) only as
    far as the most that is alive at once stays at or below eager's; within a budget not at all. On
    a GPU small tables are kept only so far, too, where they can be made at every call.
    """
    recorded, memo = graph, {} if memo is None else memo  # some graphs are started from twice
    takes = costs.takes
    graph = passes.optimize(graph, costs.draws, observe, memo)
    graph = passes.optimize(graph, passes.REWRITES, observe, memo)
    if numerics != "eager":
        graph = passes.optimize(graph, passes.RECOGNIZED, observe, memo)
    if not any(isinstance(x.type, TensorType) and on_gpu(x.type) for x in graph):
        return on_cpu(graph, recorded, freeze, numerics, observe, again, memo, takes)
    if numerics == "eager":  # a library call rounds once where eager rounds at every step
        return passes.optimize(graph, passes.default(again, takes), observe, memo)
    rest = passes.gpu_pipeline(on_gpu, tensor_cores, multiplies, attends, again, takes)
    laid_out = passes.optimize(graph, passes.gpu_weights(tensor_cores), observe, memo)
    copied = passes.optimize(laid_out, passes.gpu_copies(), observe, memo)
    padded = passes.optimize(copied, passes.gpu_padding(multiplies), observe, memo)
    copies = [x for x, plain in ((padded, copied), (copied, graph)) if x is not plain]
    allowed = eager_peak(recorded, takes) if copies else 0
    for found in copies if freeze or again is None else ():
        if freeze or kept(found) <= allowed:  # else the rest cannot make it fit either
            found = passes.optimize(found, rest, observe, memo)
            if freeze or footprint(found, takes).total <= allowed:
                return found
    for fits in (tensor_cores, whole_vectors) if copies and again is None else ():
        laid_out = passes.optimize(graph, passes.gpu_weights(fits), observe, memo)
        for found in at_every_call(laid_out, allowed, takes):
            found = passes.optimize(found, rest, observe, memo)
            if footprint(found, takes).total <= allowed:
                return found
    found = passes.optimize(graph, rest, observe, memo)
    if again is None and 0 < kept(found) <= SMALL:
        allowed = allowed or eager_peak(recorded, takes)
        if footprint(found, takes).total > allowed:
            fresh = passes.optimize(graph, (*passes.gpu_tables(on_gpu), *rest), observe, memo)
            if footprint(fresh, takes).total <= allowed:
                return fresh
    return found


def at_every_call(graph: Graph, allowed: int, takes: Scratch) -> Iterator[Graph]:
    """The graph with copies of weights made at every call: with those kept that there is room for,
    by an estimate, and without any."""
    none = passes.transient_weights(graph, room=0)
    if none is not graph and least(none, takes) <= allowed:
        room = allowed - footprint(none, takes).total
        some = passes.transient_weights(graph, room)
        yield from (some, none) if room > 0 and some is not none else (none,)


def least(graph: Graph, takes: Scratch) -> int:
    """What one of cuDNN's convolutions takes with what it reads, however the rest is computed."""
    steady, kinds = graph.steady, CudnnConvolution | CudnnConvolutionRelu
    most = 0
    for x in graph.nodes:
        if isinstance(x.op, kinds):
            held = {owner for y in (x, *x.inputs) if y not in steady for owner in owners(y)}
            most = max(most, takes(x) + sum(map(nbytes, held)))
    return most


def on_cpu(
    graph: Graph,
    recorded: Graph,
    freeze: bool,
    numerics: str,
    observe: passes.Observer | None = None,
    again: passes.Choose | None = None,
    memo: passes.Memo | None = None,
    takes: Scratch = scratch,
) -> Graph:
    """What eager's memory leaves for copies is known once the graph without any copy is there."""
    cpu = libraries()
    plain = passes.optimize(graph, passes.pipeline(cpu, freeze, 0, numerics, again), observe, memo)
    if freeze or again is not None:
        return plain
    allowed = eager_peak(recorded, takes)
    budget = allowed - footprint(plain, takes).total
    if not passes.grants(graph, cpu, budget):
        return plain
    packed = passes.optimize(
        graph, passes.pipeline(cpu, freeze, budget, numerics, again), observe, memo
    )
    return packed if footprint(packed, takes).total <= allowed else plain
