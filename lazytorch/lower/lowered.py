"""A recorded graph on its way to what runs: passes, the cut of the prologue, two programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Graph
from lazytorch.lower.budget import Planned, within
from lazytorch.lower.costs import NOTHING_KNOWN, Costs
from lazytorch.lower.kernel import Target
from lazytorch.lower.optimize import optimize
from lazytorch.lower.program import Program, lower
from lazytorch.lower.prologue import split
from lazytorch.options import Options
from lazytorch.passes import Choose, Memo, Observer, horizontal


@dataclass(frozen=True)
class Lowered:
    """The graph that runs, in two programs: `prologue` when state changed, `main` at every call.

    `steady` and `rest` are their graphs; `read` are the inputs that the prologue takes.
    """

    graph: Graph
    steady: Graph
    rest: Graph
    prologue: Program
    main: Program

    @property
    def read(self) -> tuple[int, ...]:
        """Which of the graph's inputs the prologue takes."""
        return tuple(self.graph.inputs.index(x) for x in self.steady.inputs)


def lowered(
    graph: Graph,
    options: Options,
    target_of: Callable[[Graph], Target | None],
    observe: Observer | None = None,
    planned: Planned | None = None,
    expect: Callable[[Graph], None] | None = None,
    costs: Costs = NOTHING_KNOWN,
) -> Lowered:
    """Both programs of a recorded graph; nothing is compiled. With `max_bytes`, they are the first
    that are `planned` to stay within them. `costs` is what is known of its device.

    `expect` is told of the graph whose kernels will be wanted as soon as its groups are final; with
    `max_bytes` once it is chosen.
    """
    if options.max_bytes is None or planned is None:
        return attempt(graph, options, target_of, costs, telling(expect, observe))
    if options.offload and costs.link is None:
        raise UnsupportedError(
            "offload is for GPUs whose rates are known, and nothing is known of this device's",
            hint="leave offload out; lazytorch.devices has the GPUs that are known",
        )
    made = partial(attempt, graph, options, target_of, costs)
    link = costs.link if options.offload else None
    found = within(int(options.max_bytes), graph, made, planned, observe, costs.takes, link)
    if expect is not None:
        expect(found.graph)
    return found


def telling(expect: Callable[[Graph], None] | None, observe: Observer | None) -> Observer | None:
    """An observer that says when groups are final, while order, plan and programs are to come."""
    if expect is None:
        return observe

    def seen(name: str, before: Graph, after: Graph) -> None:
        if observe is not None:
            observe(name, before, after)
        if name == horizontal.__name__:
            expect(after)

    return seen


def attempt(
    graph: Graph,
    options: Options,
    target_of: Callable[[Graph], Target | None],
    costs: Costs,
    observe: Observer | None = None,
    again: Choose | None = None,
    memo: Memo | None = None,
) -> Lowered:
    """Both programs, with what `again` chooses computed again."""
    if costs.resident and target_of(graph) is None:  # without kernels torch draws
        costs = replace(costs, resident=0)
    graph = optimize(graph, options.freeze, options.numerics, observe, again, memo, costs)
    steady, rest = split(graph)
    target = target_of(graph)
    main = lower(rest, target, "program")
    return Lowered(graph, steady, rest, lower(steady, target, "prologue", owned=False), main)
