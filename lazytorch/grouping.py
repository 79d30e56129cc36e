"""Which elementwise operations go together into one generated kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lazytorch.ir import Graph, Node
from lazytorch.ops.base import Pointwise, Rowwise
from lazytorch.ops.conv import KernelConvolution
from lazytorch.ops.copies import Cat, Clone, Pad
from lazytorch.ops.fused import Fused, full_shape
from lazytorch.ops.generated import elsewhere, obstacle
from lazytorch.ops.pool import Windows
from lazytorch.types import Shape, TensorType

LARGEST = 200  # operations in one group: compile time and the kernel's argument space are bounded


@dataclass(frozen=True, eq=False)
class Kind:
    """What the operations of one group have in common; one object for all that agree."""

    shape: Shape
    device: torch.device


def fusable(graph: Graph) -> dict[Node, Kind]:
    """The kind of every operation that a generated kernel can compute, and of every `Fused`.

    One that works on whole rows is of the kind of what it reads; so is arithmetic on what it makes
    of each row.
    """
    kinds: dict[Node, Kind] = {}
    kept: dict[tuple[Shape, torch.device], Kind] = {}
    narrow: set[Node] = set()
    for node in graph.nodes:
        if node in graph.steady or (obstacle(node) and not isinstance(node.op, Fused)):
            continue
        shape, device = walked(node)
        kind = kept.get((shape, device)) or kept.setdefault((shape, device), Kind(shape, device))
        made = node.type
        if isinstance(made, TensorType) and made.shape != shape:
            narrow.add(node)  # one number for each row
        elif isinstance(node.op, Pointwise) and shape[-1:] == (1,):
            for x in node.inputs:
                if x in narrow and (*kinds[x].shape[:-1], 1) == shape:
                    kind = kinds[x]
                    narrow.add(node)
                    break
        kinds[node] = kind
    return kinds


def walked(node: Node) -> tuple[Shape, torch.device]:
    """The shape that a kernel for this operation visits, and where."""
    typed = node.type
    if isinstance(node.op, Fused):
        typed = node.op.body.outputs[0].type
        shape = full_shape(node.op)
    else:
        x = node.inputs[0].type if isinstance(node.op, Rowwise) else None
        shape = x.shape if isinstance(x, TensorType) else None
    assert isinstance(typed, TensorType)
    return shape or typed.shape, typed.device


def absorbed(graph: Graph, found: list[list[Node]]) -> list[list[Node]]:
    """Groups with those that make what only their joins and padding read, at one place each.

    What is read elsewhere is then computed where it is read, and never stored.
    """
    group = {node: members for members in found for node in members}
    roots = {*graph.outputs, *graph.effects}
    for node in graph.nodes:
        reader = group.get(node)
        if reader is None or not isinstance(node.op, Cat | Pad):
            continue
        for x in node.inputs:
            maker = group.get(x)
            if maker is None or maker is reader or len(reader) + len(maker) > LARGEST:
                continue
            kept = [
                y
                for y in maker
                if y in roots or any(group.get(u) is not maker for u in graph.users[y])
            ]
            alone = (
                kept == [x]
                and x not in roots
                and all(group.get(u) is reader for u in graph.users[x])
            )
            if not alone or any(isinstance(y.op, Rowwise) or elsewhere(y) for y in maker):
                continue
            reader[:0] = maker
            group |= dict.fromkeys(maker, reader)
            maker.clear()
    return [members for members in found if members]


def levels(graph: Graph, kinds: dict[Node, Kind]) -> dict[Node, int]:
    """How often, at most, a path to the node left the node's kind and came back.

    What an operation reads at other places than its own lies outside as well. Each node carries a
    count per kind, shared with its operand where nothing changes; a kind is forgotten after its
    last node.
    """
    last = {kind: i for i, (_, kind) in enumerate(kinds.items())}
    position = {node: i for i, node in enumerate(kinds)}
    reached = 0
    counts: dict[Node, Mapping[Kind, int]] = {}
    level: dict[Node, int] = {}
    for node in graph.nodes:
        kind = kinds.get(node)
        apart = elsewhere(node)
        found: Mapping[Kind, int] = NOTHING
        for x in node.inputs:
            given, left = counts[x], kinds.get(x)
            if left is not None and (left is not kind or apart):
                given = {**given, left: given[left] + 1}
            if found is NOTHING:
                found = given
            elif given is not found and given:
                found = larger(found, given, last, reached)
        if kind is not None:
            reached = position[node]
            if kind not in found:
                found = {**found, kind: 0}
            level[node] = found[kind]
        counts[node] = found
    return level


NOTHING: Mapping[Kind, int] = {}


def larger(
    a: Mapping[Kind, int], b: Mapping[Kind, int], last: Mapping[Kind, int], reached: int
) -> Mapping[Kind, int]:
    """The larger of two counts of each kind that is still to come."""
    if len(a) < len(b):
        a, b = b, a
    found = {kind: count for kind, count in a.items() if last[kind] >= reached}
    for kind, count in b.items():
        if found.get(kind, -1) < count and last[kind] >= reached:
            found[kind] = count
    return found


def sink(graph: Graph, kinds: dict[Node, Kind], level: dict[Node, int]) -> None:
    """Move values to the one group that reads them, where that costs no additional read."""
    for node, kind in reversed(kinds.items()):
        users = graph.users[node]
        if not users or any(kinds.get(user) is not kind or elsewhere(user) for user in users):
            continue
        later = level[users[0]]
        if later == level[node] or any(level[user] != later for user in users):
            continue
        reads = {x for x in node.inputs if isinstance(x.type, TensorType)}
        if sum(x.type.shape == kind.shape for x in reads) <= 1:  # type: ignore[union-attr]
            level[node] = later


def connected(kinds: dict[Node, Kind], level: dict[Node, int]) -> list[list[Node]]:
    """Producers and consumers of equal kind and level, put together; copies of one tensor's parts
    (keys and values of an attention): one launch instead of several; and on a GPU pools of one
    image, which is read once."""
    parent: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        while (above := parent.get(node)) is not None:
            if (top := parent.get(above)) is not None:
                parent[node] = top
            node = above
        return node

    copies: dict[tuple[Node, Kind, int], Node] = {}
    for node, kind in kinds.items():
        near = [x for x in node.inputs if kinds.get(x) is kind and level[x] == level[node]]
        pooled = isinstance(node.op, Windows) and kind.device.type == "cuda"
        if isinstance(node.op, Clone) or pooled:
            near.append(copies.setdefault((memory(node.inputs[0]), kind, level[node]), node))
        for x in near:
            a, b = root(x), root(node)
            if a is not b:
                parent[b] = a
    found: dict[Node, list[Node]] = {}
    for node in kinds:
        found.setdefault(root(node), []).append(node)
    return list(found.values())


def memory(node: Node) -> Node:
    """What a view shows."""
    while node.op.view:
        node = node.inputs[0]
    return node


def untangle(graph: Graph, kinds: dict[Node, Kind], found: list[list[Node]]) -> list[list[Node]]:
    """Cut the groups that wait for each other in a ring, so that none is left.

    The cut is by the number of edges between kinds on the longest path to the node, which grows
    along every edge that leaves a group: groups cut by it cannot be on a ring.
    """
    waiting = unordered(graph, found)
    if not waiting:
        return found
    stage: dict[Node, int] = {}
    for node in graph.nodes:
        kind = kinds.get(node)
        apart = elsewhere(node)
        steps = [stage[x] + (x in kinds and (kinds[x] is not kind or apart)) for x in node.inputs]
        stage[node] = max(steps, default=0)
    cut: list[list[Node]] = []
    for i, group in enumerate(found):
        cut += connected({x: kinds[x] for x in group}, stage) if i in waiting else [group]
    return cut


def separated(group: list[Node]) -> list[list[Node]]:
    """A group in parts that there are kernels for: around convolutions of one kind nothing is in
    another type than these know, and no row is needed whole. Else they are kernels of their own."""
    sums = [x for x in group if isinstance(x.op, KernelConvolution)]
    if not sums:
        return [group]
    if len({type(x.op) for x in sums}) == 1 and all(map(beside_sums, group)):
        return [group]
    rest = [x for x in group if x not in sums]
    return [*[[x] for x in sums], *([rest] if rest else [])]


def beside_sums(node: Node) -> bool:
    """Whether a convolution's kernel can hold an operation."""
    typed = node.type
    known = isinstance(typed, TensorType) and typed.dtype in KernelConvolution.dtypes
    return known and not isinstance(node.op, Rowwise)


def unordered(graph: Graph, found: list[list[Node]]) -> set[int]:
    """Indices of the groups without a place in an order of execution: on a ring, or after one."""
    unit: dict[Node, Node] = {x: group[0] for group in found for x in group}
    blocked: dict[Node, int] = dict.fromkeys((unit.get(x, x) for x in graph.nodes), 0)
    readers: dict[Node, list[Node]] = {x: [] for x in blocked}
    for node in graph.nodes:
        reader = unit.get(node, node)
        for x in node.inputs:
            if (made := unit.get(x, x)) is not reader:
                blocked[reader] += 1
                readers[made].append(reader)
    ready = [x for x, count in blocked.items() if not count]
    while ready:
        for reader in readers[ready.pop()]:
            blocked[reader] -= 1
            if not blocked[reader]:
                ready.append(reader)
    return {i for i, group in enumerate(found) if blocked[group[0]]}
