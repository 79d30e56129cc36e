"""The `.grad` of tensors while a function is recorded.

A real tensor holds its gradient, lazy or real, in its own `.grad`, where the function and torch's
own code (an optimizer) look for it. When the recording ends, each gets back what it had, and the
recording says what a call leaves there.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.hooks import RemovableHandle

from lazytorch.errors import UnsupportedError
from lazytorch.frontend.sources import Argument, Grad, Held, Relied, Source, State, tensor_of

if TYPE_CHECKING:
    from lazytorch.frontend.recorder import Recorder
    from lazytorch.frontend.tensor import LazyTensor
    from lazytorch.ir import Node

Hook = Callable[[torch.Tensor], torch.Tensor | None]


class Grads:
    """Gradients of the tensors that a recording knows the places of, and what became of them.

    `used` says whether a derivative was taken, or a gradient read or replaced.
    """

    def __init__(
        self, origins: dict[int, tuple[Source, str]], leaves: Sequence[Any], used: bool
    ) -> None:
        self.before: list[tuple[torch.Tensor, Argument | State | Held, torch.Tensor | None]] = []
        self.used = used
        self.leaves: list[tuple[LazyTensor, Node]] = []  # made to require grad by the function
        self.made: list[weakref.ref[LazyTensor]] = []  # by factories, perhaps to require grad
        self.retained: list[LazyTensor] = []
        self.hooks: dict[Node, OrderedDict[int, Hook]] = {}
        self.spent: set[Node] = set()  # whose history a backward pass has used up
        for source, label in list(origins.values()):
            if isinstance(source, Argument | State | Held):
                self.meet(tensor_of(source, leaves), source, label, origins)

    def meet(
        self,
        tensor: torch.Tensor,
        source: Argument | State | Held,
        label: str,
        origins: dict[int, tuple[Source, str]],
    ) -> None:
        """Remember the gradient that a tensor has, and where a call finds it."""
        if tensor.is_leaf and (tensor.is_floating_point() or tensor.is_complex()):
            grad = tensor.grad
            self.before.append((tensor, source, grad))
            if grad is not None:
                origins.setdefault(id(grad), (Grad(source), f"{label}.grad"))

    def start(self, r: Recorder, tensor: torch.Tensor) -> Node:
        """The node at which a tensor's own gradient ends."""
        x = r.lazy(tensor)
        made = [node for y, node in self.leaves if y is x]
        if made:
            return made[0]
        if not x.is_leaf:
            return r.read(x)
        if x.window is not None:
            raise UnsupportedError(
                "a gradient of a tensor that shares its memory with others cannot be accumulated",
                {"tensor": x.typed},
                r.here(),
            )
        return x.cell.initial

    def hook(self, node: Node, hook: Hook) -> RemovableHandle:
        """Call `hook` on the cotangent of a node, once it is complete."""
        hooks = self.hooks.setdefault(node, OrderedDict[int, Hook]())
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        return handle

    def changed(self) -> list[tuple[Argument | State | Held, torch.Tensor | None]]:
        """Where there is another gradient than before, and which."""
        return [(s, t.grad) for t, s, grad in self.before if t.grad is not grad]

    def restore(self) -> None:
        """Give every tensor back what it had."""
        for tensor, _, grad in self.before:
            if tensor.grad is not grad:
                tensor.grad = grad

    def relied(self) -> tuple[Relied, ...]:
        """What a call must find for the recording to be right."""
        if not self.used and all(t.grad is grad for t, _, grad in self.before):
            return ()
        found = [
            Relied.of(s, t, grad)
            for t, s, grad in self.before
            if t.requires_grad or grad is not None
        ]
        return tuple(found)
