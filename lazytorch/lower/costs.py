"""What is known of a device before anything runs on it."""

from __future__ import annotations

from dataclasses import dataclass

from lazytorch.offload import Link
from lazytorch.passes import Pass, draws
from lazytorch.peak import Scratch, scratch


@dataclass(frozen=True)
class Costs:
    """`takes` are bytes that libraries allocate while they compute; `link` is the way to the host's
    memory, None where nothing is known of it; `resident` is how many threads the device holds at
    once, 0 where kernels are not to draw what torch's would; inputs `apart` may begin anywhere in
    memory."""

    takes: Scratch = scratch
    link: Link | None = None
    resident: int = 0
    apart: frozenset[int] = frozenset()

    @property
    def draws(self) -> tuple[Pass, ...]:
        """The passes that let kernels draw."""
        return draws(self.resident, self.apart)


NOTHING_KNOWN = Costs()
