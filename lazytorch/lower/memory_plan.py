"""A memory plan: what a compiled function takes at its highest, known before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from lazytorch.devices import Device
from lazytorch.lower.arena import reserved, spans
from lazytorch.lower.caching import SMALL, CachingAllocator
from lazytorch.lower.tables import ROOM
from lazytorch.lower.timeline import Block, Timeline

LARGEST = 10

BESIDE = 8 * ROOM + 2 * SMALL
"""Bytes that a CUDA graph takes beside its values: the tables of its launches, and what is left of
the pieces in which they and libraries' workspaces lie."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a function takes on a device, each of them named.

    `parameters` are all tensors that it holds between calls (parameters, buffers, an optimizer's
    state), `arguments` those that a call is given. The `timeline` is that of the prologue, whose
    values stay, and of one call. `stays` is what libraries keep once they were called, `copies`
    what a CUDA graph reads in the place of the arguments, which may be elsewhere at each call, and
    `replayed` one call's timeline without what is no part of that graph, if it leaves out anything.
    `unknown` counts the library calls whose workspace is not known, by operation: with such calls
    the peak is a lower bound. `seconds` is an estimate of a call's time (`lower.estimate`). `host`
    are bytes of pinned memory of the host's, in which values of a call wait.
    """

    name: str
    device: Device
    parameters: int
    arguments: int
    timeline: Timeline
    prologue_lines: int
    stays: int = 0
    seconds: float | None = None
    copies: int = 0
    replayed: Timeline | None = None
    host: int = 0
    levels: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", self.timeline.levels())

    @property
    def held(self) -> int:
        """Bytes that are there before anything runs."""
        return self.parameters + self.arguments

    @property
    def line(self) -> int:
        """The line with the peak; of equals none that only asks for what others take."""
        asks = {x.born for x in self.timeline.blocks if x.kind == "reserve"}
        lines = range(len(self.levels))
        return max(lines, key=lambda i: (self.levels[i], i not in asks), default=0)

    @property
    def peak_bytes(self) -> int:
        """The most that is ever alive at once, everything counted."""
        return self.held + self.stays + self.copies + max(self.levels, default=0)

    @cached_property
    def pool(self) -> int:
        """Bytes that the memory pool of a CUDA graph takes of a GPU for one call's values."""
        if self.device.kind != "cuda":
            return 0
        if self.replayed is not None:
            return reserved(spans(self.replayed.blocks))
        return reserved(spans(x for x in self.timeline.blocks if x.born >= self.prologue_lines))

    @property
    def captured_bytes(self) -> int:
        """The most that there is once a GPU replays the program as a CUDA graph, whose pool keeps
        its memory, and whose results are copied out of it."""
        end = len(self.timeline.lines)
        results = sum(x.taken for x in self.timeline.blocks if x.died == end)  # the prologue's too
        outside = results + self.left_out
        return self.held + self.stays + self.copies + self.pool + outside + BESIDE

    @property
    def left_out(self) -> int:
        """Bytes of workspaces of the calls that are no part of a CUDA graph."""
        if self.replayed is None:
            return 0
        called = [x for x in self.timeline.blocks if x.born >= self.prologue_lines]
        whole, part = (
            sum(x.nbytes for x in blocks if x.kind == "workspace")
            for blocks in (called, self.replayed.blocks)
        )
        return whole - part

    @property
    def needed_bytes(self) -> int:
        """Bytes that a device must have for it: the peak, and what a captured program takes."""
        if self.device.kind != "cuda":
            return self.peak_bytes
        return max(self.peak_bytes, self.captured_bytes)

    @property
    def values(self) -> int:
        """The most that owned and library values take at once: the peak without workspaces and
        without what is there before."""
        return max(self.timeline.values(), default=0)

    @property
    def lower_bound(self) -> int:
        """The largest sum of values that are still of use at one line: no allocator makes `values`
        less than that while the lines stay in this order."""
        return max(self.timeline.live(), default=0)

    @property
    def at_peak(self) -> list[Block]:
        """The blocks that are alive at the peak, the largest first."""
        return sorted(self.timeline.alive(self.line), key=lambda x: -x.taken)

    @property
    def prologue(self) -> int:
        """Bytes that the prologue computed and every call reads."""
        return sum(x.taken for x in self.timeline.blocks if self.from_prologue(x))

    @property
    def workspaces(self) -> int:
        """Bytes of workspaces at the peak, and what libraries keep."""
        return self.stays + sum(x.taken for x in self.at_peak if x.kind == "workspace")

    @property
    def activations(self) -> int:
        """Bytes of a call's own values at the peak."""
        return sum(
            x.taken for x in self.at_peak if x.kind != "workspace" and not self.from_prologue(x)
        )

    @property
    def unknown(self) -> dict[str, int]:
        """Library calls whose workspace is not known, by operation."""
        return self.timeline.unknown

    @property
    def fits(self) -> bool | None:
        """Whether the device has that much memory; None where that is not known."""
        return None if self.device.memory is None else self.needed_bytes <= self.device.memory

    def from_prologue(self, x: Block) -> bool:
        """Whether a block is a value that the prologue leaves."""
        return x.born < self.prologue_lines <= x.died

    def __str__(self) -> str:
        return "\n".join(self.text())

    def text(self) -> Iterable[str]:
        """The report, line by line."""
        most = size(self.peak_bytes)
        yield f"{self.name} on {self.device.name}: {most} at the peak{self.share()}"
        yield f"  {size(self.parameters):>12}  parameters, buffers, an optimizer's state"
        yield f"  {size(self.arguments):>12}  arguments"
        if self.copies:
            yield f"  {size(self.copies):>12}  copies of them, which a CUDA graph reads"
        yield f"  {size(self.prologue):>12}  kept by the prologue"
        yield f"  {size(self.activations):>12}  a call's values at the peak"
        yield f"  {size(self.workspaces):>12}  workspaces{self.bound()}"
        if self.host:
            yield f"  {size(self.host):>12}  wait in pinned memory of the host"
        if self.pool:
            yield (
                f"  captured as a CUDA graph it takes {size(self.captured_bytes)}, of which "
                f"{size(self.pool)} are the graph's pool"
            )
        yield (
            f"  values take {size(self.values)} at most; of use at once in this order of lines are "
            f"{size(self.lower_bound)}: a lower bound"
        )
        if self.seconds is not None:
            yield f"  at least {self.seconds * 1e3:.2f} ms a call (an estimate: a roofline)"
        alive = self.at_peak
        if alive:
            text = self.timeline.lines[self.line].split(";")[0]
            yield f"alive at the peak, line {self.line + 1}: {text}"
            yield from map(described, alive[:LARGEST])
            rest = alive[LARGEST:]
            if rest:
                yield f"  {size(sum(x.taken for x in rest)):>12}  in {len(rest)} more"
        blocks = [x for x in self.timeline.blocks if x.kind != "reserve"]
        if blocks:
            yield "the largest:"
            yield from map(described, sorted(blocks, key=lambda x: -x.taken)[:LARGEST])

    def share(self) -> str:
        """What part of the device's memory the peak is."""
        if self.device.memory is None:
            return ""
        words = "fits" if self.fits else "does not fit"
        return f", {words}: {100 * self.needed_bytes / self.device.memory:.1f} % of its memory"

    def bound(self) -> str:
        """Which workspaces are left out."""
        if not self.unknown:
            return ""
        some = ", ".join(f"{count} {name}" for name, count in self.unknown.items())
        return f"; not known, so that the sum is a lower bound: {some}"


def described(x: Block) -> str:
    """A block in words: size, operation, module, the user's line."""
    where = ""
    if x.where is not None:
        inside = f"{x.where.module}  " if x.where.module else ""
        where = f"  {inside}{Path(x.where.file).name}:{x.where.line}: {x.where.source}"
    kind = f" ({x.kind})" if x.kind in ("workspace", "reserve") else ""
    return f"  {size(x.taken):>12}  {x.operation}{kind}{where}"


def size(nbytes: int) -> str:
    """Bytes in the unit that suits them."""
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= step:
            return f"{nbytes / step:.2f} {unit}"
    return f"{nbytes} B"


def joined(*parts: Timeline) -> Timeline:
    """Programs that run one after the other; what one returns lives to the end of all."""
    end = sum(len(x.lines) for x in parts)
    lines: list[str] = []
    blocks: list[Block] = []
    unknown: dict[str, int] = {}
    for part in parts:
        first, last = len(lines), len(part.lines)
        for x in part.blocks:
            died = end if x.died >= last else first + x.died
            needed = end if x.needed >= last else first + x.needed
            blocks.append(replace(x, born=first + x.born, died=died, needed=needed))
        lines += part.lines
        for name, count in part.unknown.items():
            unknown[name] = unknown.get(name, 0) + count
    return Timeline(tuple(lines), tuple(blocks), unknown)


def allocated(found: Timeline) -> Timeline:
    """The blocks with what the allocator of a GPU takes for them, in the order of the lines."""
    if all(x.device.type != "cuda" for x in found.blocks):
        return found
    real = [x for x in found.blocks if x.device.type == "cuda" and x.nbytes]
    sizes = CachingAllocator().through((x.nbytes, x.born, x.died) for x in real)
    taken = dict(zip(map(id, real), sizes, strict=True))
    blocks = [replace(x, taken=taken.get(id(x), x.taken)) for x in found.blocks]
    return replace(found, blocks=tuple(blocks))
