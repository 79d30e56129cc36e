"""Which float arguments of a compiled function vary, and what its plans assume of those that do.

What varies is remembered for each structure of arguments. A float is a constant at first. Seen with
a second value, it becomes a value of the graph, unless Python turned out to need it: then it is a
constant for good, and why is remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lazytorch.frontend.sources import Assumed
from lazytorch.frontend.trees import Spec
from lazytorch.ir import Graph
from lazytorch.lower.program import lower
from lazytorch.op import attribute_key
from lazytorch.passes import cse

KEPT = 256  # structures that are remembered; the oldest is forgotten


@dataclass
class Decided:
    """What is known of the floats among the leaves of one structure of arguments, by leaf."""

    last: dict[int, float]
    varying: frozenset[int] = frozenset()
    constant: dict[int, str] = field(default_factory=dict[int, str])


class Numbers:
    """The decisions of one compiled function."""

    def __init__(self) -> None:
        self.decided: OrderedDict[Spec, Decided] = OrderedDict()

    def varying(self, spec: Spec) -> frozenset[int]:
        """The leaves whose value no plan is recorded for."""
        found = self.decided.get(spec)
        return frozenset() if found is None else found.varying

    def meet(self, spec: Spec, leaves: Sequence[Any], labels: Sequence[str]) -> list[str]:
        """No plan fits these arguments: decide on floats that changed, and say what was decided."""
        now = {i: x for i, x in enumerate(leaves) if type(x) is float}
        found = self.decided.get(spec)
        if found is None:
            self.decided[spec] = Decided(now)
            if len(self.decided) > KEPT:
                self.decided.popitem(last=False)
            return []
        said: list[str] = []
        for i, x in now.items():
            before = found.last.get(i, x)
            if x.hex() == before.hex() or i in found.varying:
                continue
            change = f"{labels[i]} was {before!r} and is {x!r}"
            if i in found.constant:
                said.append(f"{change}; it is a constant, because {found.constant[i]}")
            else:
                said.append(f"{change}: from now on it is an input")
                found.varying |= {i}
        found.last |= now
        return said

    def keep(self, spec: Spec, indices: Iterable[int], why: str, labels: Sequence[str]) -> str:
        """Floats that cannot vary after all; what to say of it."""
        found = self.decided.get(spec)
        lost = [] if found is None else sorted(found.varying.intersection(indices))
        if found is None or not lost:
            return ""
        found.varying -= frozenset(lost)
        found.constant |= dict.fromkeys(lost, why)
        return f"{', '.join(labels[i] for i in lost)} stays a constant, because {why}"

    def learn(self, spec: Spec, assumed: Iterable[Assumed], labels: Sequence[str]) -> list[str]:
        """Floats whose very value a recording needed are constants; what to say of it."""
        said = [
            self.keep(spec, a.arguments, f"Python needs its value at {a.where}", labels)
            for a in assumed
            if a.exact
        ]
        return [text for text in said if text]


class Assumptions:
    """What one plan assumes of numbers, all together: one straight piece of Python checks it."""

    def __init__(self, assumed: Sequence[Assumed]) -> None:
        self.each = list(assumed)
        sources = {x: i for a in assumed for x, i in zip(a.graph.inputs, a.arguments, strict=True)}
        asked = cse(Graph(tuple(sources), tuple([a.graph.outputs[0] for a in assumed])))
        answers = {x: a.value for x, a in zip(asked.outputs, assumed, strict=True)}
        self.arguments = tuple(sources.values())
        self.answers = tuple(map(attribute_key, answers.values()))
        self.run = lower(Graph(asked.inputs, tuple(answers)), None, "assumed").run

    def hold(self, leaves: Sequence[Any]) -> bool:
        """Whether every answer is the same for these arguments, bit for bit."""
        if not self.each:
            return True
        try:
            now = self.run(*[leaves[i] for i in self.arguments])
        except (ArithmeticError, ValueError):  # the original raises it; so will a new recording
            return False
        return tuple(map(attribute_key, now)) == self.answers

    def broken(self, leaves: Sequence[Any]) -> str:
        """Where the first question was asked that has another answer now; empty if none has."""
        for a in self.each:
            if not Assumptions([a]).hold(leaves):
                return a.where
        return ""
