"""Finds how much a training step has to compute again to stay within a number of bytes.

The choices of what is computed again are nested (`segments`), so a step is a number: how many of
them are taken. The search goes for the smallest that fits, by an estimate: the bytes alive in the
graph in order, before anything is lowered. The number that it ends at is tried by the plan of the
program that would run, and those beside it where the estimate was wrong: the plan alone decides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from lazytorch.errors import BudgetError
from lazytorch.ir import Graph, Node
from lazytorch.lower.memory_plan import MemoryPlan, size
from lazytorch.lower.program import Program
from lazytorch.lower.workspaces import call_key
from lazytorch.offload import Link
from lazytorch.passes import Choose, Memo, Observer, fuse, horizontal, order, rematerialize
from lazytorch.peak import Scratch, levels, scratch
from lazytorch.segments import Again, choices

PATIENCE = 3
"""Last choices that may be worse than those before them, when the smallest peak is looked for."""

FEW = 4 * PATIENCE
"""So few choices are not halved before the smallest peak is looked for."""

MANY = 256
"""Searches whose results are remembered."""

FOUND: dict[tuple[int, int, bool], int] = {}
"""How many choices were taken for a graph, by its hash, and a limit, with or without a link."""


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
    takes: Scratch = scratch,
    link: Link | None = None,
) -> P:
    """What `made` gives with as few choices as the plan's peak allows; BudgetError, with the
    smallest peak there is, where none stays within `limit`. By a `link` values may wait in the
    host's memory.

    A step is planned before its first call and again at its second: what was found is tried first.
    """
    search = Search(made, planned, takes, link)
    key = hash(graph), limit, link is not None
    best = FOUND.get(key, 0)
    if not best or search.peak(best) > limit:
        best = search.fewest(limit)
    FOUND[key] = best
    while len(FOUND) > MANY:
        FOUND.pop(next(iter(FOUND)), None)  # which another thread may have done
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
        if plan.needed_bytes > limit:
            raise over(plan, limit)


def over(plan: MemoryPlan, limit: float, otherwise: int = 0) -> BudgetError:
    """Why a plan cannot be kept to, and what could be; `otherwise` are its bytes if it computed
    nothing again."""
    more = {"without computing anything again": size(otherwise)} if otherwise else {}
    return BudgetError(
        f"{plan.name} does not fit in {size(int(limit))}: it takes {size(plan.needed_bytes)}",
        plan.needed_bytes,
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

    def __init__(
        self,
        made: Callable[[Observer, Choose, Memo], P],
        planned: Planned,
        takes: Scratch = scratch,
        link: Link | None = None,
    ) -> None:
        self.made = made
        self.planned = planned
        self.takes = takes
        self.link = link
        self.found: dict[int, P] = {}
        self.plans: dict[int, MemoryPlan] = {}
        self.steps: dict[int, list[tuple[str, Graph, Graph]]] = {}
        self.memo: Memo = {}
        self.known: list[tuple[Graph, list[Again]]] = []
        self.chosen: dict[int, Choose] = {}
        self.estimates: dict[int, int] = {}

    def fewest(self, limit: int) -> int:
        """The smallest number that fits, as far as estimates tell.

        What is looked at first does not depend on the limit, or moves down as that grows, so that
        more bytes never mean more work. Where half of the choices are enough, nothing is planned
        to find out how low the peak can get.
        """
        if self.peak(0) <= limit:
            return 0
        if self.narrows() and self.peak(1) <= limit:
            return 1
        half = self.most() // 2 if self.most() >= FEW else 0
        at = self.guessed(limit - self.beyond(0))
        while at < half and self.peak(at) > limit:
            at += 1
        if at >= half:
            lowest = self.lowest(half)
            if self.peak(lowest) > limit:
                raise over(self.plans[lowest], limit, self.plans[0].peak_bytes)
            at = min(at, lowest)
        while self.peak(at) > limit:
            at += 1
        while at > 1 and self.promises(at - 1, limit) and self.peak(at - 1) <= limit:
            at -= 1
        return at

    def narrows(self) -> bool:
        """Whether the first choice computes nothing again, but changes the graph in which others
        are made: estimates are of that once it was planned."""
        return any(some and not some[0].changes for _, some in self.known)

    def lowest(self, least: int) -> int:
        """The number, of those from `least` on, with the lowest peak: the last choices may have
        made it higher again. By the estimates first, then by the plans of those that they cannot
        tell from it."""
        best = self.descended(self.most(), self.estimate, lambda at: at >= least)
        error = abs(self.beyond(best) - self.beyond(0))
        alike = self.estimate(best) + error
        return self.descended(
            best, self.peak, lambda at: at >= least and self.estimate(at) <= alike
        )

    def descended(
        self, best: int, height: Callable[[int], int], among: Callable[[int], bool]
    ) -> int:
        """The lowest of some numbers in a row, from the last on."""
        at = best
        while at > 0 and best - at < PATIENCE and among(at - 1):
            at -= 1
            if height(at) <= height(best):
                best = at
        return best

    def guessed(self, room: int) -> int:
        """The smallest number whose estimate fits, of those that halving finds; else the last."""
        low, high = 0, self.most()
        while high - low > 1:
            middle = (low + high) // 2
            if self.estimate(middle) <= room:
                high = middle
            else:
                low = middle
        return high

    def beyond(self, again: int) -> int:
        """What the plan takes more than the estimate."""
        return self.peak(again) - self.estimate(again)

    def promises(self, less: int, limit: int) -> bool:
        """Whether one choice less may fit, by the plan and what the estimates differ in."""
        grows = self.estimate(less) - self.estimate(less + 1)
        return self.peak(less + 1) + grows <= limit

    def most(self) -> int:
        """How many choices there are, once a plan was made."""
        return max([len(some) for _, some in self.known], default=0)

    def peak(self, again: int) -> int:
        """The planned bytes with so many choices."""
        if again not in self.plans:
            steps: list[tuple[str, Graph, Graph]] = []
            observe = lambda *step: steps.append(step)  # noqa: E731
            one = self.made(observe, self.choose(again), self.memo)
            self.found[again], self.steps[again] = one, steps
            self.plans[again] = self.planned(one.prologue, one.main)
        return self.plans[again].needed_bytes

    def estimate(self, again: int) -> int:
        """What a call takes at once with so many choices: all that they change of the plan but an
        allocator's units, in a fifth of its time."""
        if again not in self.estimates:
            if steps := self.steps.get(again):
                ordered = steps[-1][2]
            else:
                graph, _ = self.known[-1]
                ordered = order(fuse(rematerialize(graph, self.choose(again))), self.takes)
            self.estimates[again] = max(levels(ordered, self.taken).values(), default=0)
        return self.estimates[again]

    @cached_property
    def taken(self) -> Scratch:
        """What calls take in the plan without choices: what is computed again takes the same."""
        plan, lines = self.plans[0], self.found[0].main.lines
        sums: dict[int, int] = {}
        for x in plan.timeline.blocks:
            if x.kind == "workspace" and x.born >= plan.prologue_lines:
                line = x.born - plan.prologue_lines
                sums[line] = sums.get(line, 0) + x.nbytes  # in several pieces, maybe
        calls = {
            call_key(node): nbytes
            for line, nbytes in sums.items()
            if (node := lines[line].node) is not None
        }
        names = {key.split(":")[0] for key in calls}

        def takes(node: Node) -> int:
            own = scratch(node)
            return calls.get(call_key(node), own) if node.op.name() in names else own

        return takes

    def choose(self, again: int) -> Choose:
        """So many choices, always the same function: what it made is in the memo."""
        return self.chosen.setdefault(again, lambda graph: self.choices(graph)[:again])

    def choices(self, graph: Graph) -> list[Again]:
        """All choices for a graph, looked for once."""
        for known, some in self.known:
            if known is graph:
                return some
        offload = None if self.link is None else self.link.along(horizontal(fuse(graph)))
        self.known.append((graph, choices(graph, offload)))
        return self.known[-1][1]
