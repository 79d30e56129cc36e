"""What happened behind the user's back: flushes and recompiles, with their reasons and cost."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class Event:
    """One flush, recompile or refresh of what was made of weights, or one function whose gradients
    are eager's own."""

    kind: Literal["flush", "recompile", "refresh", "backward"]
    where: str
    reason: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind:9} {self.seconds * 1e3:8.2f} ms  {self.where}: {self.reason}"


class Report:
    """The last events of the process; bounded."""

    events: ClassVar[deque[Event]] = deque(maxlen=1000)

    @classmethod
    def add(cls, event: Event) -> None:
        """Remember an event; the oldest makes room."""
        cls.events.append(event)


def report() -> str:
    """Flushes, recompiles and refreshes so far, oldest first: kind, cost, place, reason."""
    if not Report.events:
        return "no flushes, no recompiles"
    return "\n".join(map(str, Report.events))
