"""What there is before a program runs: with it, the program's memory plan is the call's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lazytorch.devices import Device, device_named
from lazytorch.frontend.watch import Watch
from lazytorch.lower.estimate import seconds
from lazytorch.lower.memory_plan import MemoryPlan, allocated, joined
from lazytorch.lower.program import Program
from lazytorch.lower.timeline import timeline
from lazytorch.lower.workspaces import workspaces
from lazytorch.runtime.measured import measured_too

STREAMS = 2
"""Of a GPU, that libraries keep workspaces for: the caller's, and the one on which graphs are
captured."""


@dataclass(frozen=True)
class Setting:
    """A function by name, the modules and closures that hold its state, and its arguments' bytes.

    `device` is where its tensors are, or a device that need not be here. Arguments that are `still`
    are promised to stay at their addresses.
    """

    name: str
    device: Device | torch.device
    watch: Watch | None
    arguments: int
    still: bool = False

    @staticmethod
    def of(
        name: str,
        watch: Watch,
        leaves: Sequence[Any],
        device: Device | None = None,
        still: bool = False,
    ) -> Setting:
        """The setting of a call; what an argument and the state share counts as state."""
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        state = list(held(watch))
        where = next((x.device for x in [*tensors, *state]), torch.device("cpu"))
        known = storages(state)
        arguments = sum(n for key, n in storages(tensors).items() if key not in known)
        return Setting(name, device or where, watch, arguments, still)

    def device_of(self) -> Device:
        """What is known of the device."""
        where = self.device
        return device_named(where) if isinstance(where, torch.device) else where

    def plan(self, prologue: Program, main: Program, measured: bool = False) -> MemoryPlan:
        """The plan of two programs and of what there is before they run. With `measured`,
        workspaces that no table has are measured, where the device is here."""
        device = self.device_of()
        known = workspaces(device)
        if measured:
            known = measured_too(known, device, [*prologue.lines, *main.lines])
        first, second = timeline(prologue, known.find), timeline(main, known.find)
        return MemoryPlan(
            self.name,
            device,
            0 if self.watch is None else sum(storages(held(self.watch)).values()),
            self.arguments,
            allocated(joined(first, second)),
            len(first.lines),
            known.stays * STREAMS,
            seconds(main, device),
            self.arguments if device.kind == "cuda" and not self.still else 0,
        )


def held(watch: Watch) -> Iterable[torch.Tensor]:
    """The tensors that a function's modules and closures hold."""
    for slot in watch.reach.state:
        value = slot.store.get(slot.name)
        if isinstance(value, torch.Tensor):
            yield value


def storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Bytes of memory that tensors show, each piece once; rounded as a GPU's allocator does.

    Sparse ones have none of their own; what takes one is refused.
    """
    found: dict[int, int] = {}
    for x in tensors:
        if x.layout is not torch.strided:
            continue
        memory = x.untyped_storage()
        nbytes = memory.nbytes()
        found[memory._cdata] = -(-nbytes // 512) * 512 if x.device.type == "cuda" else nbytes
    return found
