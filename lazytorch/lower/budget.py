"""Finds how much a training step has to compute again to stay within a number of bytes.

The choices of what is computed again are nested (`segments`), so a step is a number: how many of
them are taken. Each number is tried by the plan of the program that would run, and the search goes
for the smallest that fits: more bytes never mean more work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from lazytorch.errors import BudgetError
from lazytorch.ir import Graph
from lazytorch.lower.memory_plan import MemoryPlan, size
from lazytorch.lower.program import Program
from lazytorch.passes import Choose, Memo, Observer
from lazytorch.segments import Again, choices

PATIENCE = 3
"""Last choices that may be worse than those before them, when the smallest peak is looked for."""


class Programs(Protocol):
    """What a plan is made of."""

    @property
    def prologue(self) -> Program:
        """What runs when state changed."""
        ...

    @property
    def main(self) -> Program:
        """What runs at every call."""
        ...


Planned = Callable[[Program, Program], MemoryPlan]
"""The plan of a prologue and a main program."""

P = TypeVar("P", bound=Programs)


def within(
    limit: int,
    graph: Graph,
    made: Callable[[Observer, Choose, Memo], P],
    planned: Planned,
    observe: Observer | None = None,
) -> P:
    """What `made` gives with as few choices as the plan's peak allows; BudgetError, with the
    smallest peak there is, where none stays within `limit`."""
    search = Search(made, planned)
    best = search.fewest(limit)
    if observe is not None:
        observe("budget", graph, graph)  # the time of the search
        for step in search.steps[best]:
            observe(*step)
    return search.found[best]


def check(limit: float | None, planned: Planned | None, prologue: Program, main: Program) -> None:
    """BudgetError where built programs exceed the limit after all: a compiler refused a kernel, and
    torch's kernels take its place."""
    if limit is not None and planned is not None:
        plan = planned(prologue, main)
        if plan.peak_bytes > limit:
            raise over(plan, limit)


def over(plan: MemoryPlan, limit: float, otherwise: int = 0) -> BudgetError:
    """Why a plan cannot be kept to, and what could be; `otherwise` are its bytes if it computed
    nothing again."""
    more = {"without computing anything again": size(otherwise)} if otherwise else {}
    return BudgetError(
        f"{plan.name} does not fit in {size(int(limit))}: it takes {size(plan.peak_bytes)}",
        plan.peak_bytes,
        {
            **more,
            "parameters, buffers, an optimizer's state": size(plan.parameters),
            "arguments": size(plan.arguments),
            "its own values at the peak": size(plan.activations),
            "workspaces": size(plan.workspaces),
        },
    )


class Search(Generic[P]):
    """The numbers of choices that were tried, with what they gave."""

    def __init__(self, made: Callable[[Observer, Choose, Memo], P], planned: Planned) -> None:
        self.made = made
        self.planned = planned
        self.most = sys.maxsize
        self.found: dict[int, P] = {}
        self.plans: dict[int, MemoryPlan] = {}
        self.steps: dict[int, list[tuple[str, Graph, Graph]]] = {}
        self.memo: Memo = {}
        self.known: list[tuple[Graph, list[Again]]] = []

    def fewest(self, limit: int) -> int:
        """The smallest number that fits."""
        if self.peak(0) <= limit:
            return 0
        self.peak(self.most)
        high = self.lowest()  # the same for every limit: more bytes then never mean more work
        if self.peak(high) > limit:
            raise over(self.plans[high], limit, self.plans[0].peak_bytes)
        low = 0
        while high - low > 1:
            middle = (low + high) // 2
            if self.peak(middle) <= limit:
                high = middle
            else:
                low = middle
        return high

    def lowest(self) -> int:
        """The number with the lowest peak: the last choices may have made it higher again."""
        best = at = self.most
        while at > 0 and best - at < PATIENCE:
            at -= 1
            if self.peak(at) <= self.peak(best):
                best = at
        return best

    def peak(self, again: int) -> int:
        """The planned bytes with so many choices."""
        if again not in self.plans:
            steps: list[tuple[str, Graph, Graph]] = []
            observe = lambda *step: steps.append(step)  # noqa: E731
            one = self.made(observe, lambda graph: self.choices(graph)[:again], self.memo)
            if again == sys.maxsize:
                again = self.most = max([len(some) for _, some in self.known], default=0)
            self.found[again], self.steps[again] = one, steps
            self.plans[again] = self.planned(one.prologue, one.main)
        return self.plans[again].peak_bytes

    def choices(self, graph: Graph) -> list[Again]:
        """All choices for a graph, looked for once."""
        for known, some in self.known:
            if known is graph:
                return some
        self.known.append((graph, choices(graph)))
        return self.known[-1][1]
