"""Memory plans of recorded functions: recorded, rewritten and lowered as for a run, and not run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from lazytorch.devices import Device, device_named
from lazytorch.frontend import trees
from lazytorch.frontend.record import record
from lazytorch.frontend.watch import Watch
from lazytorch.ir import Graph
from lazytorch.lower.budget import Planned
from lazytorch.lower.estimate import seconds
from lazytorch.lower.kernel import Target
from lazytorch.lower.lowered import lowered
from lazytorch.lower.memory_plan import MemoryPlan, allocated, joined
from lazytorch.lower.program import Program
from lazytorch.lower.timeline import timeline
from lazytorch.lower.workspaces import workspaces
from lazytorch.options import Options, environment
from lazytorch.runtime.build import target_for
from lazytorch.runtime.measured import measured_too


def predict(
    fn: Callable[..., Any],
    leaves: list[Any],
    spec: trees.Spec,
    options: Options,
    device: Device,
    name: str,
    varying: frozenset[int] | None = frozenset(),
    around: AbstractContextManager[Any] | None = None,
    measured: bool = False,
) -> MemoryPlan:
    """The plan of a function on such arguments, under no_grad; CutError where Python asks for a
    value on the way, which only a run can give. Stand-ins need `around` what is recorded.
    Workspaces that no table has are `measured` only if that is asked for."""
    watch = Watch(fn, leaves)
    with torch.no_grad(), around or nullcontext():
        recorded = record(fn, leaves, spec, fullgraph=True, watch=watch, varying=varying)

    def target(graph: Graph) -> Target:
        return target_for(device.kind, options.numerics, environment())

    planned = partial(memory_plan, name, device, watch, leaves, measured=measured)
    found = lowered(recorded.piece.graph, options, target, planned=planned)
    return planned(found.prologue, found.main)


def memory_plan(
    name: str,
    device: Device,
    watch: Watch,
    leaves: Iterable[Any],
    prologue: Program,
    main: Program,
    measured: bool = False,
) -> MemoryPlan:
    """The plan of two programs and of what there is before they run. With `measured`, workspaces
    that no table has are measured, where the device is here."""
    arguments = storages(x for x in leaves if isinstance(x, torch.Tensor))
    state = storages(held(watch))
    known = workspaces(device)
    if measured:
        known = measured_too(known, device, [*prologue.lines, *main.lines])
    first, second = timeline(prologue, known.find), timeline(main, known.find)
    return MemoryPlan(
        name,
        device,
        sum(state.values()),
        sum(nbytes for key, nbytes in arguments.items() if key not in state),
        allocated(joined(first, second)),
        len(first.lines),
        known.stays,
        seconds(main, device),
    )


def planner(name: str, watch: Watch, leaves: list[Any]) -> Planned:
    """What plans the programs of a call whose memory is bounded."""
    return partial(memory_plan, name, located(leaves, watch), watch, leaves, measured=True)


def located(leaves: list[Any], watch: Watch) -> Device:
    """Where a call's tensors are."""
    tensors = (x for x in [*leaves, *held(watch)] if isinstance(x, torch.Tensor))
    return device_named(next((x.device for x in tensors), "cpu"))


def held(watch: Watch) -> Iterable[torch.Tensor]:
    """The tensors that a function's modules and closures hold."""
    for slot in watch.reach.state:
        value = slot.store.get(slot.name)
        if isinstance(value, torch.Tensor) and value.layout is torch.strided:
            yield value


def storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Bytes of memory that tensors show, each piece once; rounded as a GPU's allocator does."""
    found: dict[int, int] = {}
    for x in tensors:
        memory = x.untyped_storage()
        nbytes = memory.nbytes()
        found[memory._cdata] = -(-nbytes // 512) * 512 if x.device.type == "cuda" else nbytes
    return found
