"""A folder of results, one JSON file for each case, that a later run goes on with."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lazytorch.bench.case import Case
from lazytorch.bench.machine import machine, same
from lazytorch.types import dtype_name


@dataclass(frozen=True)
class Shards:
    """Where results are kept, if anywhere, and for how many minutes new cases are started."""

    folder: Path | None = None
    minutes: float | None = None
    began: float = field(default_factory=time.monotonic)

    def file(self, name: str) -> Path | None:
        """The file of a case."""
        if self.folder is None:
            return None
        return self.folder / (re.sub(r"[^\w.-]+", "_", name) + ".json")

    def there(
        self, name: str, device: torch.device, whole: Callable[[dict[str, Any]], bool]
    ) -> bool:
        """Whether a case was measured on this machine with these sources, and wholly so."""
        file = self.file(name)
        if file is None or not file.exists():
            return False
        found = json.loads(file.read_text(encoding="utf-8"))
        return same(found["machine"], machine(device)) and whole(found)

    def write(self, name: str, result: dict[str, Any]) -> None:
        """Keep a case's result, whole or not at all."""
        file = self.file(name)
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".new")
        new.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        new.replace(file)

    def over(self) -> bool:
        """Whether the minutes are over."""
        return self.minutes is not None and time.monotonic() - self.began > 60 * self.minutes


def case_name(case: Case) -> str:
    """`cuda_resnet50_b32_f16`: what a case's file is called."""
    return f"{case.device.type}_{case.model}_b{case.batch}_{dtype_name(case.dtype)}"


def holds(names: Collection[str], started: bool) -> Callable[[dict[str, Any]], bool]:
    """Whether a result has all sides that are asked for, those that failed included."""

    def whole(found: dict[str, Any]) -> bool:
        (one,) = found["comparisons"]
        sides, failed = one["sides"], one["failed"]
        timed = all(name in sides or name in failed for name in names)
        right = [sides[name] for name in names if name in sides and name not in failed]
        return timed and (not started or all("cold_start_s" in side for side in right))

    return whole
