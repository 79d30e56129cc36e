"""The end of a recording, and of each of its pieces: graphs with eager's aliasing of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.frontend import trees
from lazytorch.frontend.alias import Cell, detached
from lazytorch.frontend.drawn import Drawn
from lazytorch.frontend.number import Number
from lazytorch.frontend.place import place
from lazytorch.frontend.sources import Cut, Leaf, Piece, Recorded, State
from lazytorch.frontend.tensor import LazyTensor, Traced
from lazytorch.ir import Alias, Graph, Node, Write, postorder
from lazytorch.ops.layout import Detach
from lazytorch.types import carries

if TYPE_CHECKING:
    from lazytorch.frontend.recording import Recording


def finish(r: Recording, result: Any) -> Recorded:
    """The last piece, with every leaf of the result as an output, an alias or a constant."""
    leaves, spec = trees.flatten(result)
    outputs: list[Node] = []
    aliases: list[Alias | None] = []
    made: list[Leaf] = []
    bases: dict[Cell, int] = {}
    pending: list[tuple[int, LazyTensor]] = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            x = r.lazy(leaf)
            pending.append((len(made), x))
            made.append(Leaf(None))
        elif isinstance(leaf, Number):
            made.append(Leaf(len(outputs)))
            outputs.append(leaf.node.value)
            aliases.append(None)
        else:
            trees.refuse_object(leaf, "the result")
            if isinstance(leaf, Drawn):
                leaf.refuse()
            made.append(Leaf(None, leaf))
    shadows = {id(x): tensor for x, tensor in zip(r.shadows.values(), r.kept, strict=True)}
    number = {node: i for i, node in enumerate(r.sources)}
    owners: dict[Cell, list[LazyTensor]] = {}
    for _, x in pending:
        owners.setdefault(x.cell, []).append(x)
    real = set(r.outer_cells())
    first: dict[int, int] = {}
    for position, x in pending:
        if first.setdefault(id(x), position) != position:
            made[position] = made[first[id(x)]]
            continue
        node = r.read(x)
        cell = x.cell
        alias: Alias | None = None
        if cell in real:
            index = number[cell.initial]
            same = id(x) in shadows and x.window is None
            alias = Alias("input", index) if same else place(x).alias("input", index)
        elif len(owners[cell]) > 1 and not hidden(owners[cell]):
            if cell not in bases:
                bases[cell] = len(outputs)
                outputs.append(cell.value)
                aliases.append(None)
            index = bases[cell]
            if x is whole(owners[cell]):
                made[position] = leaf_of(r, x, index)
                continue
            alias = place(x).alias("output", index)
        outer = [t for t, y in zip(r.kept, r.shadows.values(), strict=True) if y.cell is cell]
        made[position] = leaf_of(r, x, len(outputs), outer)
        outputs.append(node)
        aliases.append(alias)
    last = piece(r, outputs, aliases, None)
    return Recorded(last, made, spec, r.notes, r.cuts, assumed=r.assumed)


def leaf_of(r: Recording, x: LazyTensor, output: int, outer: Sequence[torch.Tensor] = ()) -> Leaf:
    """A tensor of the result, with the part in gradients that it has; `outer` are the real tensors
    whose memory it shows."""
    histories = any(t.requires_grad for t in outer)
    if not x.requires_grad:
        return Leaf(output, apart=histories)
    if isinstance(x, Traced) and x.behind is None and (x.leaf or detached(x.window)):
        return Leaf(output, ends=True)
    if outer and not histories and isinstance(x, Traced) and not x.leaf:
        raise UnsupportedError(
            "a result shows memory that came in without a history, into which the function wrote "
            "what has one: a call could not give it that",
            {"result": x.typed},
            where=r.b.where,
            hint="return a clone, or write what is detached",
        )
    return Leaf(output, None, carries_on(r, x))


def hidden(results: list[LazyTensor]) -> bool:
    """Whether results that carry gradients show memory that is itself no result: what would have
    the history is then nobody's, so that each is a result of its own."""
    base = whole(results)
    return (base is None or not base.requires_grad) and any(x.requires_grad for x in results)


def whole(results: list[LazyTensor]) -> LazyTensor | None:
    """The result that is all of the memory that these show."""
    return next((x for x in results if x.window is None), None)


def piece(r: Recording, outputs: list[Node], aliases: list[Alias | None], cut: Cut | None) -> Piece:
    """The graph of everything recorded since the last cut, with the inputs that it needs.

    Aliases count all inputs so far; they are renumbered to the inputs that the graph keeps.
    """
    everything = list(r.sources)
    effects = list(r.effects)
    for cell in r.outer_cells():
        if cell.value is not cell.initial:
            effects.append(r.b(Write(), cell.initial, cell.value))
    nodes = postorder([*effects, *outputs])
    reached = set(nodes)
    reached |= {everything[a.index] for a in aliases if a is not None and a.source == "input"}
    used = [node for node in everything if node in reached]
    if r.cuts:
        refuse_replaced(r, used, nodes)
    number = {node: i for i, node in enumerate(used)}
    renumbered = tuple(
        replace(a, index=number[everything[a.index]])
        if a is not None and a.source == "input"
        else a
        for a in aliases
    )
    graph = Graph(tuple(used), tuple(outputs), tuple(effects), renumbered)
    beside = [(number[x], place) for x, place in r.places_beside() if x in number]
    return Piece(graph, tuple(r.sources[x] for x in used), cut, tuple(beside))


def refuse_replaced(r: Recording, used: list[Node], nodes: Sequence[Node]) -> None:
    """UnsupportedError where a tensor is read that eager code, at a cut, put another in the place
    of: a call would find the other one there."""
    tensors = {x.cell.initial: t for t, x in zip(r.kept, r.shadows.values(), strict=True)}
    for node in used:
        source, tensor = r.sources[node], tensors.get(node)
        if not isinstance(source, State) or tensor is None:
            continue
        now = source.slot.store.get(source.slot.name)
        if now is tensor or not isinstance(now, torch.Tensor) or isinstance(now, LazyTensor):
            continue
        reader = next((x for x in nodes if node in x.inputs), node)
        raise UnsupportedError(
            f"{source.slot.label} was taken before a function that is kept eager put another "
            "tensor in its place, and is read after that: a call would read the other one",
            {"taken": tuple(tensor.shape), "there now": tuple(now.shape)},
            where=reader.where,
            hint="take a copy before that function (clone()), or take the tensor again behind it",
        )


def carries_on(r: Recording, x: LazyTensor) -> bool:
    """Whether a result has a history that no backward pass has used up."""
    if not x.requires_grad or not r.grads.spent:
        return bool(x.requires_grad)
    ends = {node for _, node in r.grads.leaves} | set(r.sources)
    waiting, met = [r.read(x)], set[Node]()
    while waiting:
        node = waiting.pop()
        if node in met or node in r.grads.spent or isinstance(node.op, Detach):
            continue
        if node in ends and carries(node.type):
            return True
        met.add(node)
        waiting += node.inputs
    return False
