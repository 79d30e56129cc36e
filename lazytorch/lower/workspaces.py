"""What libraries take while they compute, measured once per device and call, in tables that ship.

A table is a JSON file beside this one: `device` (as torch names it), `torch` (the version that was
measured), `stays` (bytes that libraries keep once they were called) and `calls`, from a call's
signature to the bytes that it takes beside its results. `benchmarks/workspaces.py` measures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lazytorch.devices import Device
from lazytorch.ir import Node, Op
from lazytorch.lower.call import operand_text
from lazytorch.ops.affine import Affine
from lazytorch.ops.base import Pointwise, View
from lazytorch.ops.offload import Transfer
from lazytorch.ops.random import NativeDropout
from lazytorch.peak import Scratch, scratch
from lazytorch.types import ScalarType, TensorType, Type

FOLDER = Path(__file__).parent / "workspace_tables"

NONE = Pointwise | View | Affine | Transfer | NativeDropout
"""Operations whose kernels take no workspace."""


@dataclass(frozen=True)
class Workspaces:
    """The table of a device, empty where none was measured."""

    calls: Mapping[str, int] = field(default_factory=dict[str, int])
    stays: int = 0

    def find(self, node: Node) -> int | None:
        """Bytes that a node's library call takes; None where that was not measured."""
        if isinstance(node.op, NONE) or not node.inputs:
            return 0
        return self.calls.get(call_key(node))


def call_key(node: Node) -> str:
    """The operation and how its operands lie, shortened: what a table has entries for."""
    return key(node.op, tuple([x.type for x in node.inputs]))


@lru_cache(maxsize=16384)
def key(op: Op, types: tuple[Type, ...]) -> str:
    """The same of operands of these types."""
    texts = [operand_text(x) if isinstance(x, TensorType | ScalarType) else str(x) for x in types]
    digest = hashlib.sha256(f"{op!r}({', '.join(texts)})".encode()).hexdigest()
    return f"{op.name()}:{digest[:16]}"


@cache
def workspaces(device: Device) -> Workspaces:
    """The table that ships for a device."""
    for file in sorted(FOLDER.glob("*.json")):
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if device.kind == "cuda" and device.name.lower() in found["device"].lower():
            return Workspaces(found["calls"], found["stays"])
    return Workspaces()


@cache
def taking(device: Device) -> Scratch:
    """What libraries allocate on a device while they compute, as far as it is known."""
    table = workspaces(device)
    if not table.calls:
        return scratch

    def takes(node: Node) -> int:
        return max(scratch(node), table.find(node) or 0)

    return takes
