"""What a picture of a graph shows: boxes with their texts, and the values that pass between them.

Weights and numbers are no boxes: hundreds of them would hide the graph. They are named in the box
that reads them. Taking an element of a tuple is no box either, unless the graph returns it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lazytorch.ir import Const, Graph, Input, Item, Node, Write
from lazytorch.ops.aten import Aten
from lazytorch.ops.foreach import Foreach
from lazytorch.ops.fused import Fused
from lazytorch.text import names, print_attribute, print_attributes
from lazytorch.types import TensorType, TupleType, Type

COLORS = {
    "argument": "#9aa0a6", "output": "#9aa0a6",
    "conv": "#8ab4f8", "linalg": "#7cb0a8", "library": "#7aa2f7",
    "attention": "#c58af9", "recurrent": "#b39ddb",
    "norm": "#f6c177", "pool": "#f2a65a", "reduce": "#f2b8a0", "loss": "#ef9a9a",
    "fused": "#81c995", "pointwise": "#a8dab5", "elementary": "#a8dab5", "activation": "#a8dab5",
    "compare": "#b7e1c0", "layout": "#d7d3c8", "index": "#d3c7a5", "windows": "#d3c7a5",
    "copies": "#e0dccf", "create": "#cfd8dc", "random": "#f4a6c0", "aten": "#ff8a80",
}  # fmt: skip
OTHER = "#e8eaed"


@dataclass(frozen=True)
class Box:
    """One operation as a reader sees it.

    `module` is the module path (`layer1.0.conv2`) that it belongs to, `reads` the operands in
    words, `weights` the labels of those that are parameters or buffers, `line` the user's line,
    `body` the operations inside a fused group, `once` whether it depends on weights alone.
    """

    title: str
    family: str
    name: str
    type: str
    module: str
    attributes: str = ""
    reads: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    line: str = ""
    source: str = ""
    body: str = ""
    once: bool = False

    @property
    def color(self) -> str:
        """The colour of the family."""
        return COLORS.get(self.family, OTHER)


@dataclass(frozen=True)
class Scene:
    """A graph as a picture: boxes, producers before consumers, and `(from, to, type)` edges."""

    boxes: tuple[Box, ...]
    edges: tuple[tuple[int, int, str], ...]


def scene(graph: Graph) -> Scene:
    """The boxes and edges of a graph; outputs get boxes of their own."""
    name = names(graph)
    once = constant_work(graph)
    boxes: list[Box] = []
    place: dict[Node, int] = {}
    edges: list[tuple[int, int, str]] = []
    for node in graph.nodes:
        if hidden(node):
            continue
        place[node] = len(boxes)
        boxes.append(box(node, name, node in once))
        for x in node.inputs:
            made = producer(x)
            if made in place:
                edges.append((place[made], place[node], short(x.type)))
    for i, (node, alias) in enumerate(zip(graph.outputs, graph.aliases, strict=True)):
        made = producer(node)
        text = f"output {i}"
        detail = str(alias) if alias is not None else ""
        if made in place:
            edges.append((place[made], len(boxes), short(node.type)))
        boxes.append(Box(text, "output", name[node], str(node.type), "", detail, (name[node],)))
    return Scene(tuple(boxes), tuple(edges))


def box(node: Node, name: dict[Node, str], once: bool) -> Box:
    """The texts of one operation."""
    where, op = node.where, node.op
    return Box(
        title(node),
        family(node),
        name[node],
        str(node.type),
        where.module if where is not None else "",
        "" if isinstance(op, Fused | Foreach | Input) else print_attributes(op)[1:-1],
        tuple(f"{name[x]}: {x.type}" for x in node.inputs),
        tuple(x.op.label for x in node.inputs if isinstance(x.op, Input) and weight(x)),
        f"{where.file}:{where.line} in {where.function}" if where is not None else "",
        where.source if where is not None else "",
        print_attribute(op.body) if isinstance(op, Fused | Foreach) else "",
        once,
    )


def title(node: Node) -> str:
    """The operation's name; of a group, what it computes; of an input, its label."""
    op = node.op
    if isinstance(op, Input):
        return op.label
    if isinstance(op, Aten):
        return op.overload
    if isinstance(op, Fused | Foreach):
        names = [x.op.name() for x in op.body.nodes if not isinstance(x.op, Input | Const)]
        return " ".join([f"{op.count} x", *names] if isinstance(op, Foreach) else names)
    return op.name()


def family(node: Node) -> str:
    """The file that defines the operation, which says what kind it is; `argument` for inputs."""
    return "argument" if isinstance(node.op, Input) else type(node.op).__module__.split(".")[-1]


def short(typed: Type) -> str:
    """A type as an edge shows it: without strides, which the boxes tell in full."""
    if isinstance(typed, TupleType):
        return f"({', '.join(map(short, typed.items))})"
    if not isinstance(typed, TensorType):
        return str(typed)
    return str(typed.with_shape(typed.shape))


def hidden(node: Node) -> bool:
    """Whether a value is named where it is read, without a box."""
    return isinstance(node.op, Const | Item) or weight(node)


def weight(node: Node) -> bool:
    """Whether a value is a parameter or a buffer."""
    return isinstance(node.op, Input) and node.op.role == "state"


def producer(node: Node) -> Node:
    """The node whose box makes a value."""
    while isinstance(node.op, Item):
        node = node.inputs[0]
    return node


def constant_work(graph: Graph) -> set[Node]:
    """The nodes that depend on weights and constants alone, and so do not run at every call."""
    written = {effect.inputs[0] for effect in graph.effects if isinstance(effect.op, Write)}
    found: set[Node] = set()
    for node in graph.nodes:
        if (weight(node) and node not in written) or (
            not isinstance(node.op, Input)
            and not node.op.effect
            and all(x in found for x in node.inputs)
        ):
            found.add(node)
    return found
