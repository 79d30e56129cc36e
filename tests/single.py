"""The importers alone, without the recorder: a torch call on real tensors as a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lazytorch.frontend.aten  # noqa: F401  # enters the importers
from lazytorch.frontend.imports import IMPORTERS, VIEWERS
from lazytorch.ir import Builder, Graph, Node, input
from lazytorch.ops.aten import value_type

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


class Importing(TorchDispatchMode):
    """Imports every call whose operands are known, and runs it, to know its results too."""

    def __init__(self, known: list[tuple[torch.Tensor, Node]]) -> None:
        super().__init__()
        self.known = known
        self.b = Builder()

    def node(self, value: Any) -> Any:
        """The node that stands for a value: a tensor's own, a list's elements'."""
        if isinstance(value, torch.Tensor):
            found = [node for tensor, node in self.known if tensor is value]
            assert found, "a tensor that was neither given nor made here"
            return found[-1]
        if isinstance(value, list | tuple):
            return type(value)(self.node(v) for v in value)
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = self.imported(func, args, kwargs)
        if made is NotImplemented:
            assert torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), COMPOSITE), (
                f"{func} has no importer"
            )
            with self:
                return func._op_dk(COMPOSITE, *args, **kwargs)
        result = func(*args, **kwargs)
        self.remember(result, made)
        return result

    def imported(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The node or nodes that the importers make of a call."""
        named = {k: self.node(v) for k, v in kwargs.items()}
        if func in IMPORTERS:
            return IMPORTERS[func](self.b, *self.node(args), **named)
        if func in VIEWERS:
            base, *rest = args
            steps = VIEWERS[func](value_type(base), *rest, **kwargs)
            if isinstance(steps, list):
                return [self.through(self.node(base), one) for one in steps]
            return steps if steps is NotImplemented else self.through(self.node(base), steps)
        return NotImplemented

    def through(self, x: Node, steps: tuple[Any, ...]) -> Node:
        """A view of x, one window after the other."""
        for step in steps:
            x = self.b(step, x)
        return x

    def remember(self, result: Any, made: Any) -> None:
        """Which node stands for which result."""
        if isinstance(result, torch.Tensor):
            self.known.append((result, made))
        elif isinstance(result, tuple | list):
            for one, other in zip(result, made, strict=True):
                self.remember(one, other)


def import_single(function: Callable[..., Any], *operands: Any) -> Graph:
    """What the importers make of `function(*operands)`; AssertionError where they decline."""
    tensors = [x for x in operands if isinstance(x, torch.Tensor)]
    inputs = [input(f"x{i}", value_type(x)) for i, x in enumerate(tensors)]
    mode = Importing(list(zip(tensors, inputs, strict=True)))
    with torch.no_grad(), torch._C._AutoDispatchBelowAutograd(), mode:
        result = function(*operands)
    listed = result if isinstance(result, tuple | list) else (result,)
    return Graph(tuple(inputs), tuple(mode.node(x) for x in listed))
