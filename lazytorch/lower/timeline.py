"""What a program allocates and frees, line by line: the memory of the very lines that run.

A block is one allocation; variables hold blocks, and one goes when no variable holds it any more.
A call's results are allocated before its operands are given back, and a library's workspace behind
them, but for a copy of an operand that it begins with. Inputs cost nothing here: the caller holds
them. What the program returns lives on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Literal

import torch

from lazytorch.errors import Where
from lazytorch.ir import Node
from lazytorch.lower.allocation import allocation, extent
from lazytorch.lower.line import Line
from lazytorch.lower.program import Program
from lazytorch.types import TensorType, TupleType, Type

Kind = Literal["owned", "library", "workspace", "reserve"]
"""Filled by a generated kernel or a copy of ours; allocated by a library's call; needed by a call
while it runs, and freed before it returns; asked for before inputs are written, and given back."""

VALUES: tuple[Kind, ...] = ("owned", "library")
"""The kinds that hold what a program computes."""

Workspace = Callable[[Node], int | None]
"""Bytes that a node's library kernel takes while it runs; None where nothing is known of it."""

Held = tuple[frozenset[int], ...]
"""The blocks that a variable holds: of a tuple, those of each element."""


@dataclass(frozen=True)
class Block:
    """One allocation of `nbytes`, from line `born` until after line `died`.

    `died` is the number of lines where the program returns it. `taken` is what the allocator takes
    for it. Nothing reads it after line `needed`, which is no later than `died`.
    """

    nbytes: int
    taken: int
    kind: Kind
    operation: str
    where: Where | None
    device: torch.device
    born: int
    died: int
    needed: int


@dataclass(frozen=True)
class Timeline:
    """A program's blocks in order of allocation, and its lines.

    `unknown` counts the library calls of which no workspace is known, by operation.
    """

    lines: tuple[str, ...]
    blocks: tuple[Block, ...]
    unknown: dict[str, int] = field(default_factory=dict[str, int])

    def alive(self, line: int) -> list[Block]:
        """The blocks that a line sees at its highest, in order of allocation."""
        return [x for x in self.blocks if x.born <= line <= x.died]

    def levels(self) -> list[int]:
        """Bytes taken at the highest moment of each line."""
        return self.sums((x.taken, x.born, x.died) for x in self.blocks)

    def values(self) -> list[int]:
        """The same of owned and library blocks alone."""
        return self.sums((x.taken, x.born, x.died) for x in self.blocks if x.kind in VALUES)

    def live(self) -> list[int]:
        """Bytes that each line, or a line behind it, has a use for: what no allocator can save."""
        return self.sums((x.nbytes, x.born, x.needed) for x in self.blocks if x.kind in VALUES)

    def sums(self, spans: Iterable[tuple[int, int, int]]) -> list[int]:
        """Bytes of each line, of spans that say how many from which line to which."""
        change = [0] * (len(self.lines) + 2)
        for nbytes, first, last in spans:
            change[first] += nbytes
            change[last + 1] -= nbytes
        return list(accumulate(change[: len(self.lines)]))


def timeline(program: Program, workspace: Workspace | None = None) -> Timeline:
    """The timeline of a program, as it runs once its kernels are built."""
    return Memory(program, workspace).timeline()


class Memory:
    """A program's variables, line after line."""

    def __init__(self, program: Program, workspace: Workspace | None) -> None:
        self.program = program
        self.workspace = workspace
        self.held: dict[str, Held] = {name: (frozenset(),) for name in program.inputs}
        self.blocks: list[Block] = []
        self.alive: dict[int, int] = {}  # variables' elements that hold a block
        self.died: dict[int, int] = {}
        self.needed: dict[int, int] = {}  # the last line that reads a block
        self.unknown: dict[str, int] = {}

    def timeline(self) -> Timeline:
        """Run through the lines."""
        lines = self.program.lines
        for i, line in enumerate(lines):
            if line.name:
                self.bind(line.name, self.result(line, i))
            elif line.does == "reserve":
                assert line.node is not None and line.typed is not None
                self.new(line.node, extent(line.typed), "reserve", i)
            self.use(line, i)
            for name in line.dead:
                self.drop(name, i)
        kept = {b for name in self.program.returned for e in self.held.get(name, ()) for b in e}
        for b in self.alive:
            self.died[b] = len(lines) if b in kept else len(lines) - 1
        self.needed |= dict.fromkeys(kept, len(lines))
        return Timeline(
            tuple([x.text for x in lines]),
            tuple([self.ended(b) for b in range(len(self.blocks))]),
            self.unknown,
        )

    def ended(self, b: int) -> Block:
        """A block with the line after which it is freed."""
        x = self.blocks[b]
        return replace(x, died=self.died.get(b, x.born), needed=self.needed.get(b, x.born))

    def bind(self, name: str, held: Held) -> None:
        """A variable holds these blocks from now on."""
        self.held[name] = held
        for element in held:
            for b in element:
                self.alive[b] = self.alive.get(b, 0) + 1

    def drop(self, name: str, line: int) -> None:
        """A variable is deleted."""
        for element in self.held.pop(name, ()):
            for b in element:
                self.alive[b] -= 1
                if not self.alive[b]:
                    del self.alive[b]
                    self.died[b] = line

    def use(self, line: Line, i: int) -> None:
        """A line reads what its operands hold; names for a part or the same read nothing."""
        if line.does in ("item", "same"):
            return
        for name in line.reads:
            self.needed |= {b: i for element in self.read(name) for b in element}

    def read(self, name: str) -> Held:
        """What a variable holds; numbers hold nothing."""
        return self.held.get(name, (frozenset(),))

    def result(self, line: Line, i: int) -> Held:
        """What a line's result holds, new memory included."""
        node, reads = line.node, [self.read(name) for name in line.reads]
        match line.does:
            case "item":
                assert node is not None
                (found,) = reads
                index = node.op.attributes()[0][1]
                return (found[index] if index < len(found) else frozenset().union(*found),)
            case "same":
                return reads[0]
            case "copy" | "clone":
                assert node is not None
                typed = line.typed or node.type
                return (frozenset((self.new(node, extent(once(typed)), "owned", i),)),)
            case "overwrite":
                assert node is not None and node.op.overwrites is not None
                return reads[node.op.overwrites]
            case _:
                assert node is not None
                return self.called(line, node, reads, i)

    def called(self, line: Line, node: Node, reads: Sequence[Held], i: int) -> Held:
        """What a call returns."""
        does = allocation(node, line.site)
        scratch = does.scratch
        if self.workspace is not None and not does.generated and any(does.sizes):
            measured = self.workspace(node)
            if measured is None:
                name = node.op.name()
                self.unknown[name] = self.unknown.get(name, 0) + 1
            scratch = measured or scratch
        left = scratch
        for nbytes in does.first:
            if piece := min(nbytes, left):
                self.new(node, piece, "workspace", i)
                left -= piece
        targets = dict(zip(line.into, reads[len(reads) - len(line.into) :], strict=True))
        held: dict[int, frozenset[int]] = {}
        for k, (shown, owner, nbytes) in enumerate(
            zip(does.results, does.owners, does.sizes, strict=True)
        ):
            if k in targets:
                held[k] = targets[k][0]
            elif shown:
                held[k] = frozenset().union(*[e for j in shown for e in reads[j]])
            elif owner in held:
                held[k] = held[owner]
            elif not nbytes:
                held[k] = frozenset()
            else:
                kind: Kind = "owned" if does.generated else "library"
                held[k] = frozenset((self.new(node, nbytes, kind, i),))
        if left:
            self.new(node, left, "workspace", i)
        return tuple(held.values())

    def new(self, node: Node, nbytes: int, kind: Kind, i: int) -> int:
        """A new block; a workspace is freed by the line that needs it."""
        name = node.op.name()
        where = device_of(node.type)
        self.blocks.append(Block(nbytes, nbytes, kind, name, node.where, where, i, i, i))
        return len(self.blocks) - 1


def once(typed: Type) -> Type:
    """A type without its repeats, as a copy holds it."""
    if not isinstance(typed, TensorType):
        return typed
    pairs = zip(typed.shape, typed.strides, strict=True)
    shape = tuple([1 if step == 0 else size for size, step in pairs])
    return TensorType(shape, typed.dtype, typed.device, typed.strides)


def device_of(typed: Type) -> torch.device:
    """Where a value lies."""
    if isinstance(typed, TupleType):
        return next((device_of(x) for x in typed.items), torch.device("cpu"))
    return getattr(typed, "device", torch.device("cpu"))
