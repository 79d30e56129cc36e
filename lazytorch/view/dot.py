"""Graphs for graphviz: the source text always, a picture where its `dot` program is installed."""

from __future__ import annotations

from collections.abc import Mapping

import graphviz

from lazytorch.errors import LazyTorchError
from lazytorch.ir import Graph
from lazytorch.view.scene import Box, Scene, scene

LONGEST = 36
"""Characters of one line of a label."""


class DrawingError(LazyTorchError):
    """A picture cannot be made: the program that draws it is missing or failed."""


class Cluster:
    """A module with its boxes and the modules inside it."""

    def __init__(self) -> None:
        self.boxes: list[int] = []
        self.inside: dict[str, Cluster] = {}

    def at(self, module: str) -> Cluster:
        """The cluster of a module path, made if need be."""
        found = self
        for part in module.split(".") if module else ():
            found = found.inside.setdefault(part, Cluster())
        return found


def dot(graphs: Mapping[str, Graph]) -> str:
    """Graphviz source: one cluster for each named graph (none for a single one) and module."""
    drawing = graphviz.Digraph(
        graph_attr={"rankdir": "TB", "fontname": "Helvetica", "nodesep": "0.2", "ranksep": "0.3"},
        node_attr={"shape": "box", "style": "filled,rounded", "fontname": "Helvetica",
                   "fontsize": "11", "margin": "0.12,0.05", "color": "#5f6368"},
        edge_attr={"fontname": "Helvetica", "fontsize": "8", "color": "#80868b",
                   "fontcolor": "#5f6368", "arrowsize": "0.6"},
    )  # fmt: skip
    for name, graph in graphs.items():
        if len(graphs) == 1:
            add(drawing, scene(graph), "")
            continue
        part = graphviz.Digraph(f"cluster_{name}", graph_attr={"label": name, "style": "dashed"})
        add(part, scene(graph), f"{name.strip()}.")
        drawing.subgraph(part)
    return str(drawing.source)


def svg(graphs: Mapping[str, Graph]) -> str:
    """The drawing as SVG text; DrawingError where graphviz's `dot` program is missing."""
    try:
        return graphviz.Source(dot(graphs)).pipe(format="svg", encoding="utf-8")
    except graphviz.ExecutableNotFound as error:
        raise DrawingError(
            "an .svg is drawn by the program dot, which is not installed",
            hint="install graphviz (apt install graphviz, brew install graphviz); "
            "an .html and a .dot need nothing",
        ) from error
    except graphviz.CalledProcessError as error:
        raise DrawingError("the program dot failed", {"status": error.returncode}) from error


def add(drawing: graphviz.Digraph, shown: Scene, prefix: str) -> None:
    """The boxes in their clusters, then the edges."""
    root = Cluster()
    for i, one in enumerate(shown.boxes):
        root.at(one.module).boxes.append(i)
    fill(drawing, root, shown, prefix, "")
    for tail, head, typed in shown.edges:
        drawing.edge(f"{prefix}{tail}", f"{prefix}{head}", label=escaped(typed))


def fill(drawing: graphviz.Digraph, cluster: Cluster, shown: Scene, prefix: str, path: str) -> None:
    """Add a cluster's own boxes and the clusters in it."""
    for i in cluster.boxes:
        node(drawing, f"{prefix}{i}", shown.boxes[i])
    for name, inner in cluster.inside.items():
        inside = f"{path}.{name}" if path else name
        part = graphviz.Digraph(
            f"cluster_{prefix}{inside}",
            graph_attr={"label": escaped(inside), "style": "rounded", "color": "#bdc1c6"},
        )
        fill(part, inner, shown, prefix, inside)
        drawing.subgraph(part)


def node(drawing: graphviz.Digraph, name: str, one: Box) -> None:
    """One box: what it does, its attributes, the weights that it reads."""
    lines = [one.title, one.attributes, *one.weights]
    label = "\n".join(
        line if len(line) <= LONGEST else line[: LONGEST - 1] + "…" for line in lines if line
    )
    shape = "ellipse" if one.family in ("argument", "output") else "box"
    style = "filled,rounded,dashed" if one.once else "filled,rounded"
    tip = "\n".join(filter(None, (f"{one.name}: {one.type}", one.line, one.source)))
    drawing.node(
        name,
        escaped(label),
        fillcolor=one.color,
        shape=shape,
        style="filled" if shape == "ellipse" else style,
        tooltip=escaped(tip),
    )


def escaped(text: str) -> str:
    """Text that graphviz shows as it is."""
    return graphviz.escape(text).replace("\n", "\\n")
