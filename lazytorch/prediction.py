"""Memory plans of recorded functions: recorded, rewritten and lowered as for a run, and not run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from lazytorch.frontend import trees
from lazytorch.frontend.modes import uncollected
from lazytorch.frontend.record import record
from lazytorch.ir import Graph
from lazytorch.lower.kernel import Target
from lazytorch.lower.lowered import lowered
from lazytorch.lower.memory_plan import MemoryPlan
from lazytorch.options import Options, environment
from lazytorch.runtime.build import target_for
from lazytorch.runtime.setting import Setting


def predict(
    fn: Callable[..., Any],
    leaves: list[Any],
    spec: trees.Spec,
    options: Options,
    setting: Setting,
    varying: frozenset[int] | None = frozenset(),
    around: AbstractContextManager[Any] | None = None,
    measured: bool = False,
) -> MemoryPlan:
    """The plan of a function on such arguments, under no_grad; CutError where Python asks for a
    value on the way, which only a run can give. Stand-ins need `around` what is recorded.
    Workspaces that no table has are `measured` only if that is asked for."""
    watch = setting.watch
    with torch.no_grad(), around or nullcontext():
        recorded = record(fn, leaves, spec, fullgraph=True, watch=watch, varying=varying)

    def target(graph: Graph) -> Target:
        return target_for(setting.device_of().kind, options.numerics, environment())

    setting = setting.replacing(recorded)
    planned = partial(setting.plan, measured=measured)
    with uncollected():  # thousands of nodes would be looked through again and again
        graph, costs = recorded.piece.graph, setting.costs_of(recorded.piece)
        found = lowered(graph, options, target, planned=planned, costs=costs)
        return planned(found.prologue, found.main)
