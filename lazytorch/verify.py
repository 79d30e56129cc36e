"""The one definition of a well-formed graph."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NoReturn

from lazytorch.errors import LazyTorchError, VerifyError
from lazytorch.ir import Alias, Const, Graph, Input, Node, Write
from lazytorch.text import names, print_graph
from lazytorch.types import TensorType, Type

LABEL = re.compile(r"(?!\d+$)[\w.\[\]]+")
"""What the text can hold: word characters, dots, brackets; plain numbers name other nodes."""


def verify(graph: Graph, after: str = "", before: Graph | None = None) -> Graph:
    """The graph itself, or VerifyError: `after` names the pass to blame.

    A graph that was found well formed is not looked at again, nor are the types of nodes that it
    has in common with one `before` it: neither is ever edited.

    Every node is typed as its type rule says; inputs are distinct and have distinct labels;
    effects are roots and every effect is one; a `write` goes to an input, once, and nothing reads
    it; a stated order is legal; aliases name inputs or earlier outputs; graphs inside operations
    are well formed too.
    """
    if graph.verified:
        return graph
    same = before is not None and before.verified and before.inputs == graph.inputs
    known = set(before.nodes) if before is not None and same else set[Node]()
    inputs = set(graph.inputs)
    labels = [x.op.label for x in graph.inputs if isinstance(x.op, Input)]
    if len(labels) != len(graph.inputs) or len(set(labels)) != len(labels):
        fail(graph, None, "inputs must be distinct `input` operations with distinct labels", after)
    for label in labels:
        if not LABEL.fullmatch(label):
            fail(graph, None, f"an input cannot be labelled {label!r}", after)
    effects = set(graph.effects)
    written: set[Node] = set()
    for node in graph.nodes:
        if node.op.effect and node not in effects:
            fail(graph, node, f"{node.op.name()} is an effect that the graph does not list", after)
        if isinstance(node.op, Write):
            target = node.inputs[0]
            if target not in inputs or target in written:
                fail(graph, node, "a write must go to an input, and to each only once", after)
            written.add(target)
        if node in known:
            continue
        if isinstance(node.op, Input):
            if node not in inputs:
                fail(graph, node, f"%{node.op.label} is read but is no input of the graph", after)
            continue
        if any([isinstance(x.op, Write) for x in node.inputs]):
            fail(graph, node, "nothing may read a write, which happens last", after)
        if not isinstance(node.op, Const):
            check_type(graph, node, after)
    if graph.order:
        check_order(graph, after)
    for i, (node, alias) in enumerate(zip(graph.outputs, graph.aliases, strict=True)):
        if alias is not None:
            check_alias(graph, i, node, alias, after)
    object.__setattr__(graph, "verified", True)
    return graph


def check_order(graph: Graph, after: str) -> None:
    """The stated order runs what it names as it says: operands first, effects in theirs."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    stated = [x for x in graph.order if x in place]
    drawn = [x for x in graph.effects if not isinstance(x.op, Write)]
    for what, run in (("the stated order", stated), ("the order of effects", drawn)):
        for x, y in pairwise(run):
            if place[x] >= place[y]:
                fail(graph, y, f"{what} is not the one in which nodes run", after)


def check_type(graph: Graph, node: Node, after: str) -> None:
    """The node's type is what its type rule says; a graph inside it is well formed."""
    for value in node.op.key:
        if isinstance(value, Graph):
            verify(value, f"{after} (inside {node.op.name()})" if after else "")
    try:
        expected = node.op.infer(*[x.type for x in node.inputs])
    except LazyTorchError as error:
        fail(graph, node, f"{node.op.name()} refuses its operands: {error.message}", after)
    if expected != node.type:
        fail(
            graph,
            node,
            f"{node.op.name()} is typed {node.type}, its type rule says {expected}",
            after,
        )


def check_alias(graph: Graph, i: int, node: Node, alias: Alias, after: str) -> None:
    """The alias names an input or an earlier output, and shows what the output's type says."""
    if alias.index < 0:
        fail(graph, node, f"output {i} is an alias of {alias.source} {alias.index}", after)
    if alias.strides is not None and isinstance(node.type, TensorType):
        seen = node.type.shape, len(alias.strides)
        if (alias.shape, len(alias.shape)) != seen:
            fail(graph, node, f"output {i} is {node.type}, its view has shape {alias.shape}", after)
    if alias.source == "output" and not alias.index < i:
        fail(graph, node, f"output {i} is a view of output {alias.index}, which comes later", after)
    if alias.source == "input" and not alias.index < len(graph.inputs):
        fail(graph, node, f"output {i} is a view of input {alias.index}, which is not there", after)


def signature(graph: Graph) -> tuple[tuple[Type, ...], tuple[Type, ...], tuple[Alias | None, ...]]:
    """What a pass may not change: types of inputs and outputs, and aliasing."""
    outputs = tuple(
        x.type.with_strides(()) if alias is not None and isinstance(x.type, TensorType) else x.type
        for x, alias in zip(graph.outputs, graph.aliases, strict=True)
    )
    return tuple(x.type for x in graph.inputs), outputs, graph.aliases


def fail(graph: Graph, node: Node | None, message: str, after: str) -> NoReturn:
    """Raise VerifyError with the lines around the guilty one."""
    prefix = f"after {after}: " if after else ""
    if node is None:
        raise VerifyError(prefix + message)
    lines = print_graph(graph).split("\n")
    name = names(graph).get(node, "?")
    at = next((i for i, line in enumerate(lines) if line.strip().startswith(name + ":")), 0)
    window = lines[max(at - 5, 0) : at + 6]
    marked = [("> " if line is lines[at] else "  ") + line for line in window]
    raise VerifyError(prefix + message, {"graph": "\n" + "\n".join(marked)}, where=node.where)
