"""The table from torch overloads to operations: `@imports` for values, `@views` for windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from lazytorch.ir import Builder, Node, Op
from lazytorch.ops.base import Pointwise, View

Importer = Callable[..., Any]
"""`(b, *args, **kwargs)`: tensors arrive as nodes, the rest as torch's schema gives it. Returns a
node, a tuple or list of nodes, or NotImplemented, which leaves the call to `Aten`."""
Viewer = Callable[..., Any]
"""`(x: TensorType, *args, **kwargs)`: the steps (tuple of View operations) from x to the view, or
a list of such tuples where torch returns several views."""

Rule = TypeVar("Rule")


@dataclass(frozen=True, slots=True)
class Written:
    """What an importer returns for an overload that updates operands its schema calls read-only.

    `writes` are pairs of an operand's position among the schema's arguments and its new value.
    """

    results: Any
    writes: tuple[tuple[int, Node], ...]


class Table(Generic[Rule]):
    """Rules by overload. Declared by name, since resolving a thousand overloads takes torch 100 ms;
    looked up by overload object, once by name and then by identity."""

    def __init__(self) -> None:
        self.named: dict[str, Rule] = {}
        self.found: dict[Any, Rule | None] = {}

    def get(self, func: Any) -> Rule | None:
        """The overload's rule; None when it has none."""
        try:
            return self.found[func]
        except KeyError:
            rule = self.found[func] = self.named.get(str(func))
            return rule

    def __getitem__(self, func: Any) -> Rule:
        rule = self.get(func)
        if rule is None:
            raise KeyError(str(func))
        return rule

    def __contains__(self, func: Any) -> bool:
        return self.get(func) is not None

    def items(self) -> Iterator[tuple[Any, Rule]]:
        """Overload and rule, for the overloads that this torch has."""
        for name, rule in self.named.items():
            if (func := overload(name.removeprefix("aten."))) is not None:
                yield func, rule

    def declare(self, names: Sequence[str]) -> Callable[[Rule], Rule]:
        """A decorator that enters a rule under overloads such as `softmax.int`."""

        def enter(rule: Rule) -> Rule:
            for name in names:
                self.named[spelled(name)] = rule
            return rule

        return enter


IMPORTERS: Table[Importer] = Table()
VIEWERS: Table[Viewer] = Table()


def spelled(name: str) -> str:
    """How torch prints the overload that `softmax.int` or `relu` (the default one) names."""
    return f"aten.{name}" if "." in name else f"aten.{name}.default"


def overload(name: str) -> Any:
    """The overload object that `softmax.int` names in `torch.ops.aten`; None if torch has none."""
    packet, _, variant = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet, None), variant or "default", None)


PLAIN: Table[Pointwise] = Table()
"""Elementwise operations that overloads are when they are called with nothing but operands."""


def imports(*names: str, plain: Pointwise | None = None) -> Callable[[Importer], Importer]:
    """Declare the importer of overloads such as `softmax.int`.

    `plain` is the operation that a call with nothing but two operands imports as.
    """
    if plain is not None:
        PLAIN.declare(names)(plain)
    return IMPORTERS.declare(names)


def views(*names: str) -> Callable[[Viewer], Viewer]:
    """Declare how overloads that return views of their first operand are windows on it."""
    return VIEWERS.declare(names)


def import_pointwise() -> None:
    """Enter elementwise operations under overloads that take just operands, unless imported yet."""
    for kind in Op.registry.values():
        if issubclass(kind, Pointwise) and not kind.__match_args__:
            names = kind.overloads or tuple(
                f"{kind.name()}.{variant}" for variant in ("default", "Tensor", "Scalar")
            )
            left = [name for name in names if spelled(name) not in IMPORTERS.named]
            op = kind()
            imports(*left, plain=op)(pointwise(op))


def pointwise(op: Pointwise) -> Importer:
    """The importer of an operation without attributes."""

    def importer(b: Builder, *xs: Any, **more: Any) -> Node:
        return NotImplemented if more else b(op, *xs)

    return importer


__all__ = ["IMPORTERS", "VIEWERS", "View", "import_pointwise", "imports", "overload", "views"]
