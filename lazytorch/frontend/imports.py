"""The table from torch overloads to operations: `@imports` for values, `@views` for windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

from lazytorch.ir import Builder, Node, Op
from lazytorch.ops.base import Pointwise, View

Importer = Callable[..., Any]
"""`(b, *args, **kwargs)`: tensors arrive as nodes, the rest as torch's schema gives it. Returns a
node, a tuple or list of nodes, or NotImplemented, which leaves the call to `Aten`."""
Viewer = Callable[..., Any]
"""`(x: TensorType, *args, **kwargs)`: the steps (tuple of View operations) from x to the view, or
a list of such tuples where torch returns several views."""


@dataclass(frozen=True, slots=True)
class Written:
    """What an importer returns for an overload that updates operands its schema calls read-only.

    `writes` are pairs of an operand's position among the schema's arguments and its new value.
    """

    results: Any
    writes: tuple[tuple[int, Node], ...]


IMPORTERS: dict[Any, Importer] = {}
VIEWERS: dict[Any, Viewer] = {}


def overload(name: str) -> Any:
    """The overload object that `softmax.int` names in `torch.ops.aten`; None if torch has none."""
    packet, _, variant = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet, None), variant or "default", None)


def imports(*names: str) -> Callable[[Importer], Importer]:
    """Declare the importer of overloads such as `softmax.int`."""

    def declare(importer: Importer) -> Importer:
        for name in names:
            if (found := overload(name)) is not None:
                IMPORTERS[found] = importer
        return importer

    return declare


def views(*names: str) -> Callable[[Viewer], Viewer]:
    """Declare how overloads that return views of their first operand are windows on it."""

    def declare(viewer: Viewer) -> Viewer:
        for name in names:
            if (found := overload(name)) is not None:
                VIEWERS[found] = viewer
        return viewer

    return declare


def import_pointwise() -> None:
    """Enter elementwise operations under overloads that take just operands, unless imported yet."""
    for kind in Op.registry.values():
        if issubclass(kind, Pointwise) and not fields(kind):
            names = kind.overloads or tuple(
                f"{kind.name()}.{variant}" for variant in ("default", "Tensor", "Scalar")
            )
            left = [name for name in names if overload(name) not in IMPORTERS]
            imports(*left)(pointwise(kind()))


def pointwise(op: Pointwise) -> Importer:
    """The importer of an operation without attributes."""

    def importer(b: Builder, *xs: Any, **more: Any) -> Node:
        return NotImplemented if more else b(op, *xs)

    return importer


__all__ = ["IMPORTERS", "VIEWERS", "View", "import_pointwise", "imports", "overload", "views"]
