"""What is measured: a model and the arguments of one call, built the same way every time."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lazytorch import zoo
from lazytorch.errors import LazyTorchError
from lazytorch.frontend import trees


@dataclass(frozen=True)
class Model:
    """A module with the arguments of one call."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        """The module's result."""
        return self.module(*self.args, **self.kwargs)

    def in_float64(self) -> Model:
        """A copy with weights and inputs in float64: what results are judged by."""
        args, kwargs = converted((self.args, self.kwargs), torch.float64, None)
        return Model(copy.deepcopy(self.module).double(), args, kwargs)


@dataclass(frozen=True)
class Case:
    """A model of the zoo by name, or `package.module:callable`, with what it is run on and in."""

    model: str
    batch: int = 1
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def build(self) -> Model:
        """The model with random weights, in inference mode; equal in every process.

        A model of the user's own is moved to the device and the dtype; its inputs have the batch
        that they have. LazyTorchError says which models there are, or which package is missing.
        """
        try:
            self.check()
            if ":" not in self.model:
                return Model(*zoo.build(self.model, self.dtype, self.device, self.batch))
            module, args, kwargs = zoo.load(self.model)
        except ImportError as error:
            raise LazyTorchError(f"{self.model} cannot be built: {error}") from error
        args, kwargs = converted((args, kwargs), self.dtype, self.device)
        return Model(module.eval().to(self.device, self.dtype), args, kwargs)

    def without_memory(self, train: bool) -> Model:
        """The model and its arguments on "meta"; a model of the user's own is what it is."""
        self.check()
        if ":" not in self.model:
            return Model(*zoo.build(self.model, self.dtype, "meta", self.batch, train))
        try:
            module, args, kwargs = zoo.load(self.model)
        except ImportError as error:
            raise LazyTorchError(f"{self.model} cannot be built: {error}") from error
        return Model(module.train(train), args, kwargs)

    def check(self) -> None:
        """LazyTorchError where the zoo has no model of that name."""
        if ":" not in self.model and self.model not in zoo.models():
            raise LazyTorchError(
                f"no model is called {self.model!r}",
                {"the zoo has": ", ".join(zoo.models())},
                hint="a model of your own is package.module:callable, which returns (module, args)",
            )


class MeanSquare(nn.Module):
    """A model whose result is a loss whatever it returns: the mean square of all floating tensors,
    summed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss."""
        found = [x for x in tensors(self.model(*args, **kwargs)) if x.is_floating_point()]
        return torch.stack([x.float().square().mean() for x in found]).sum()


def tensors(result: Any) -> list[torch.Tensor]:
    """The tensors of a result in order."""
    return [x for x in trees.flatten(result)[0] if isinstance(x, torch.Tensor)]


def converted(tree: Any, dtype: torch.dtype, device: torch.device | None) -> Any:
    """The same nest of tensors on a device, floating ones in a dtype."""
    leaves, spec = trees.flatten(tree)
    moved = [
        x.to(device, dtype if x.is_floating_point() else x.dtype)
        if isinstance(x, torch.Tensor)
        else x
        for x in leaves
    ]
    return trees.unflatten(spec, moved)
