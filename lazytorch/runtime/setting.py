"""What there is before a program runs: with it, the program's memory plan is the call's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from lazytorch.devices import Device, device_named
from lazytorch.frontend.sources import Argument, Live, Piece, Recorded
from lazytorch.frontend.watch import Watch
from lazytorch.lower.costs import NOTHING_KNOWN, Costs
from lazytorch.lower.estimate import link, seconds
from lazytorch.lower.last_call import last_call
from lazytorch.lower.memory_plan import MemoryPlan, allocated, joined
from lazytorch.lower.program import Program, waiting
from lazytorch.lower.timeline import timeline
from lazytorch.lower.workspaces import taking, workspaces
from lazytorch.runtime.marks import shift
from lazytorch.runtime.measured import measured_too
from lazytorch.types import TensorType

STREAMS = 2
"""Of a GPU, that libraries keep workspaces for: the caller's, and the one on which graphs are
captured."""


@dataclass(frozen=True)
class Setting:
    """A function by name, the modules and closures that hold its state, and its arguments' bytes.

    `device` is where its tensors are, or a device that need not be here. Arguments that are `still`
    are promised to stay at their addresses. `shifted` are the arguments that begin off a boundary,
    `replaced` are the bytes of state that every call puts in the place of other state.
    """

    name: str
    device: Device | torch.device
    watch: Watch | None
    arguments: int
    still: bool = False
    shifted: frozenset[int] = frozenset()
    replaced: int = 0

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
        shifted = {i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor) and shift(x)}
        return Setting(name, device or where, watch, arguments, still, frozenset(shifted))

    def replacing(self, recorded: Recorded) -> Setting:
        """The same for a function of which that is known."""
        found = [slot.store.get(slot.name) for slot in recorded.replaced]
        tensors = [x for x in found if isinstance(x, torch.Tensor)]
        return replace(self, replaced=sum(storages(tensors).values()))

    def device_of(self) -> Device:
        """What is known of the device."""
        where = self.device
        return device_named(where) if isinstance(where, torch.device) else where

    @property
    def costs(self) -> Costs:
        """What is known of the device before anything runs."""
        if not isinstance(self.device, Device) and self.device.type != "cuda":
            return NOTHING_KNOWN
        device = self.device_of()
        draws = isinstance(self.device, Device) or has_triton()
        return Costs(taking(device), link(device), device.resident if draws else 0)

    def costs_of(self, piece: Piece) -> Costs:
        """The same for a piece. What pieces before it leave may begin anywhere in memory, and what
        lies on another GPU is not this one's."""
        own = self.device.torch_device if isinstance(self.device, Device) else self.device
        types = [x.type for x in piece.graph.inputs if isinstance(x.type, TensorType)]
        if any(x.device.type == "cuda" and x.device != own for x in types):
            return replace(self.costs, resident=0)
        first = not any(isinstance(x, Live) for x in piece.sources)
        known = [
            first and isinstance(x, Argument) and x.index not in self.shifted for x in piece.sources
        ]
        return replace(self.costs, apart=frozenset(i for i, x in enumerate(known) if not x))

    def plan(self, prologue: Program, main: Program, measured: bool = False) -> MemoryPlan:
        """The plan of two programs and of what there is before they run. With `measured`,
        where the device is here, workspaces that no table has are measured, and tensors count with
        the pieces of memory that they lie in."""
        device = self.device_of()
        known = workspaces(device)
        pieces: dict[int, int] = {}
        if measured:
            known = measured_too(known, device, [*prologue.lines, *main.lines])
            pieces = pieces_here(device)
        first, second = timeline(prologue, known.find), timeline(main, known.find)
        last = last_call(main) if device.kind == "cuda" else None
        return MemoryPlan(
            self.name,
            device,
            0 if self.watch is None else sum(storages(held(self.watch), pieces).values()),
            self.arguments,
            allocated(joined(first, second)),
            len(first.lines),
            known.stays * STREAMS,
            seconds(main, device),
            (self.replaced + self.arguments * (not self.still)) if device.kind == "cuda" else 0,
            None if last is None else timeline(last.before, known.find),
            sum(x.nbytes for x in waiting(main)),
        )


@cache
def has_triton() -> bool:
    """Whether kernels can be generated for the GPUs that are here."""
    return find_spec("triton") is not None


def held(watch: Watch) -> Iterable[torch.Tensor]:
    """The tensors that a function's modules and closures hold."""
    for slot in watch.reach.state:
        value = slot.store.get(slot.name)
        if isinstance(value, torch.Tensor):
            yield value


def pieces_here(device: Device) -> dict[int, int]:
    """Bytes of each piece of a GPU's memory, by address: torch's allocator leaves up to 1 MiB of a
    piece with what it is given to. Empty where the GPU is not here."""
    if device.torch_device.type != "cuda" or not torch.cuda.is_initialized():
        return {}
    segments: list[dict[str, Any]] = torch.cuda.memory_snapshot()
    return {x["address"]: x["size"] for segment in segments for x in segment["blocks"]}


def storages(
    tensors: Iterable[torch.Tensor], pieces: Mapping[int, int] | None = None
) -> dict[int, int]:
    """Bytes of memory that tensors show, each piece once: of the `pieces` in which they lie, or
    rounded as a GPU's allocator does.

    Sparse ones have none of their own; what takes one is refused.
    """
    found: dict[int, int] = {}
    for x in tensors:
        if x.layout is not torch.strided:
            continue
        memory = x.untyped_storage()
        nbytes = memory.nbytes()
        if x.device.type == "cuda":
            nbytes = -(-nbytes // 512) * 512
            if pieces and not isinstance(x, FakeTensor):  # a stand-in lies nowhere
                nbytes = max(nbytes, pieces.get(memory.data_ptr(), 0))
        found[memory._cdata] = nbytes
    return found
