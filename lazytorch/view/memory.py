"""What a compiled piece keeps in memory beside eager, and which copies of weights were not made."""

from __future__ import annotations

from collections.abc import Iterator

from lazytorch.ir import Graph, Input
from lazytorch.lower.memory_plan import size
from lazytorch.lower.optimize import optimize
from lazytorch.ops.after import After
from lazytorch.ops.library import Libraries, OneDnnConvolution, PackedLinear, libraries
from lazytorch.ops.linalg import Addmm, Linear
from lazytorch.options import Options
from lazytorch.peak import eager_peak, footprint
from lazytorch.runtime.stage import Stage
from lazytorch.types import TensorType, dtype_name


def memory(stage: Stage, options: Options) -> Iterator[str]:
    """The planned peak, the number of `fast.memory`, and what `freeze` changes or would change."""
    found = stage.plan()
    eager = eager_peak(stage.piece.graph, stage.setting.costs.takes)
    yield (
        f"{size(found.peak_bytes)} at the peak: {size(found.held)} of weights and "
        f"inputs, {size(found.prologue)} kept between calls, {size(found.activations)} of a call's "
        f"values, {size(found.workspaces)} of workspaces{found.bound()}"
    )
    yield f"eager takes at least {size(eager)} beside weights and inputs"
    if options.freeze:
        yield "weights were copied wherever that is faster, as freeze=True asks"
    else:
        frozen = optimize(stage.piece.graph, True, options.numerics)
        more = footprint(frozen).kept - footprint(stage.optimized).kept
        if more > 0:
            some, again = packed(frozen), copied_anew(stage.optimized)
            yield (
                (f"{packed(stage.optimized)} of {some} weights are packed: " if some else "")
                + (f"{again} weights are copied anew at every call: " if again else "")
                + f"further copies of weights (folded, packed, joined), {size(more)}, would exceed "
                "eager's memory. lt.compile(..., freeze=True) makes them"
            )
    yield from missing(stage.optimized, libraries())


def packed(graph: Graph) -> int:
    """How many operations run on packed weights."""
    return sum(isinstance(x.op, OneDnnConvolution | PackedLinear) for x in graph.nodes)


def copied_anew(graph: Graph) -> int:
    """How many weights are copied at every call, once what they are for is there."""
    return sum(isinstance(x.op, After) and isinstance(x.inputs[0].op, Input) for x in graph.nodes)


def missing(graph: Graph, cpu: Libraries) -> Iterator[str]:
    """Why linear layers on the CPU run on plain weights whatever memory allows."""
    kinds = {x.type.dtype: None for x in graph.nodes if isinstance(x.op, Linear | Addmm)
             and isinstance(x.type, TensorType) and x.type.device.type == "cpu"}  # fmt: skip
    for dtype in kinds:
        library, there = ("oneDNN", dtype in cpu.onednn)
        if dtype.itemsize == 4:
            library, there = "MKL", cpu.mkl
        if not there:
            name = dtype_name(dtype)
            yield f"linear layers in {name} run on plain weights: {library} packs none here"


def mib(nbytes: int) -> str:
    """Bytes in MiB."""
    return f"{nbytes / 2**20:.1f} MiB"
