"""`lt.view`: a picture of a graph or of a compiled function, written to a file.

What draws is imported when it is asked to: `import lazytorch` has to stay quick.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lazytorch.errors import LazyTorchError
from lazytorch.ir import Graph
from lazytorch.lower.kernel import Kernel
from lazytorch.lower.memory_plan import MemoryPlan
from lazytorch.runtime.stage import Stage
from lazytorch.text import print_graph
from lazytorch.view.explain import explain

if TYPE_CHECKING:
    from lazytorch.compiled import Compiled
    from lazytorch.compiled_module import CompiledModule

Drawing = Callable[["Graph | Compiled"], str]


def view(
    shown: Graph | Compiled | CompiledModule | MemoryPlan, path: str | os.PathLike[str]
) -> Path:
    """Draw into `path` and return it; its suffix (.html, .svg or .dot) chooses the form.

    A memory plan becomes a page (.html) with its timeline: every block, its name and its line.

    .html is a page of its own: it pans, zooms, searches and folds modules, and of a compiled
    function shows the recorded graph, the optimized graph, the program and its kernels. .svg and
    .dot show the graph, optimized for a compiled function; .svg needs graphviz's `dot` program.

    Raises LazyTorchError for another suffix, a compiled function that was not called yet, or a
    missing `dot`. Nothing is written then.
    """
    file = Path(path)
    form = FORMS.get(file.suffix.lower())
    if form is None:
        raise LazyTorchError(
            f"a picture is an .html, .svg or .dot file, not {file.name!r}", {"path": file}
        )
    if isinstance(shown, MemoryPlan):
        if form is not as_html:
            raise LazyTorchError("a memory plan is drawn as an .html file", {"path": file})
        from lazytorch.view.timeline import page

        text = page(shown)
    else:
        text = form(cast(Any, getattr(shown, "_compiled", shown)))  # of a module, what records it
    file.write_text(text, encoding="utf-8")
    return file


def as_html(shown: Graph | Compiled) -> str:
    """The page with a tab for each thing to see."""
    from lazytorch.view.html import Tab, page

    if isinstance(shown, Graph):
        return page("graph", [Tab("graph", graph=shown), Tab("text", text=text(shown))])
    tabs: list[Tab] = [Tab("explain", text=explain(shown))]
    kernels: dict[str, Kernel] = {}
    for name, stage in named(shown).items():
        tabs.append(Tab(f"{name}recorded", graph=stage.piece.graph))
        tabs.append(Tab(f"{name}optimized", graph=stage.optimized))
        sources = (stage.prologue.source, stage.main.source)
        tabs.append(Tab(f"{name}program", text="\n\n".join(sources)))
        kernels |= {**stage.prologue.kernels(), **stage.main.kernels()}
    if kernels:
        tabs.append(Tab("kernels", text="\n\n".join(k.source for k in kernels.values())))
    return page(shown.name, [*tabs[1:], tabs[0]])


def as_dot(shown: Graph | Compiled) -> str:
    """Graphviz source."""
    from lazytorch.view.dot import dot

    return dot(graphs(shown))


def as_svg(shown: Graph | Compiled) -> str:
    """What graphviz draws."""
    from lazytorch.view.dot import svg

    return svg(graphs(shown))


def graphs(shown: Graph | Compiled) -> dict[str, Graph]:
    """The graphs of a drawing by name."""
    if isinstance(shown, Graph):
        return {"graph": shown}
    return {name: stage.optimized for name, stage in named(shown).items()}


def named(compiled: Compiled) -> dict[str, Stage]:
    """Every compiled piece; a single one needs no name."""
    found = compiled.programs()
    if not found:
        raise LazyTorchError(
            f"{compiled.name} has nothing to show: it is recorded at its first call",
            hint="call it once, or view lt.trace(fn, x)",
        )
    return {"": found[0]} if len(found) == 1 else {f"{i} ": s for i, s in enumerate(found, 1)}


def text(graph: Graph) -> str:
    """The graph's text with the user's lines."""
    return print_graph(graph, where=True)


FORMS: dict[str, Drawing] = {".html": as_html, ".svg": as_svg, ".dot": as_dot}
