"""Stand-ins of tensors on a device that may not be here: geometry and device, but no memory.

They are torch's fake tensors, so that all code that asks a parameter for its device hears of the
one that is meant, and a recording sees what it would see there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from lazytorch.frontend import trees


class StandIns:
    """Makes copies of modules, optimizers and arguments whose tensors stand on `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.memo: dict[int, Any] = {}
        self.kept: list[Any] = []  # so that no id in the memo is given away
        self.storages: dict[int, torch.Tensor] = {}

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The stand-in of a tensor; tensors that share memory have stand-ins that do."""
        found = self.memo.get(id(tensor))
        if found is not None:
            return found
        whole = tensor.untyped_storage()
        key = whole._cdata
        with self.mode, torch.no_grad():
            base = self.storages.get(key)
            if base is None or base.dtype is not tensor.dtype:
                count = whole.nbytes() // tensor.itemsize
                base = torch.empty(count, dtype=tensor.dtype, device=self.device)
                self.storages[key] = base
            made = base.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        if isinstance(tensor, nn.Parameter):
            made = nn.Parameter(made, tensor.requires_grad)
        elif tensor.requires_grad:
            made = made.detach().requires_grad_()
        self.kept.append(tensor)
        self.memo[id(tensor)] = made
        return made

    def copied(self, value: Any, tensors: Iterable[torch.Tensor]) -> Any:
        """A deep copy of an object that holds such tensors, with their stand-ins in their place."""
        for x in tensors:
            self.of(x)
        return copy.deepcopy(value, self.memo)

    def module(self, module: nn.Module) -> nn.Module:
        """A module with stand-ins of its parameters and buffers; hooks and settings are its own."""
        every = [
            x for m in module.modules() for x in (*m._parameters.values(), *m._buffers.values())
        ]
        return self.copied(module, [x for x in every if x is not None])

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """An optimizer with stand-ins of its parameters, its state and its settings."""
        groups: list[dict[str, Any]] = optimizer.param_groups
        every: list[torch.Tensor] = [p for group in groups for p in group["params"]]
        for x in tensors([{**group, "params": None} for group in groups]):
            self.number(x)
        for p, state in optimizer.state.items():
            for name, value in state.items():
                if (
                    isinstance(value, torch.Tensor)
                    and not value.dim()
                    and (name == "step" or p.dim())
                ):
                    self.number(value)
                else:
                    every += tensors(value)
        return self.copied(optimizer, every)

    def number(self, tensor: torch.Tensor) -> torch.Tensor:
        """The stand-in of a number that an optimizer keeps as a tensor (a count of steps, a
        learning rate): with its value, which Python may ask for, and on the host, where such
        numbers are on a GPU too, unless it was on one."""
        place = self.device if tensor.is_cuda else torch.device("cpu")
        values = torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor
        listed: Any = values.tolist()
        with self.mode:
            made = torch.tensor(listed, dtype=tensor.dtype, device=place)
        self.kept.append(tensor)
        return self.memo.setdefault(id(tensor), made)

    def tree(self, value: Any, batch: tuple[int, int] | None = None) -> Any:
        """Arguments with stand-ins; with `batch`, dimension 0 of the first size has the second."""
        leaves, spec = trees.flatten(value)
        found = [self.sized(x, batch) if isinstance(x, torch.Tensor) else x for x in leaves]
        return trees.unflatten(spec, found)

    def sized(self, tensor: torch.Tensor, batch: tuple[int, int] | None) -> torch.Tensor:
        """The stand-in of an argument, in another batch size where it has the batch's."""
        if batch is None or not tensor.dim() or tensor.shape[0] != batch[0]:
            return self.of(tensor)
        shape = (batch[1], *tensor.shape[1:])
        order = sorted(range(tensor.dim()), key=lambda d: (-tensor.stride(d), d))
        with self.mode:
            made = torch.empty(
                [shape[d] for d in order], dtype=tensor.dtype, device=self.device
            ).permute([order.index(d) for d in range(tensor.dim())])
        return made.requires_grad_(tensor.requires_grad) if tensor.requires_grad else made


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in a structure."""
    return [x for x in trees.flatten(value)[0] if isinstance(x, torch.Tensor)]


def stands_in(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a stand-in."""
    return isinstance(tensor, FakeTensor)
