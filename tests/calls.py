"""Arguments of torch calls: tensors of one dtype in one memory layout."""

from __future__ import annotations

from typing import Any

import torch

Call = tuple[tuple[Any, ...], dict[str, Any]]
LAYOUTS = ("contiguous", "channels_last", "permuted", "sliced", "expanded")


class Make:
    """Makes the tensors of a call: one dtype, one seed, memory laid out in one of the LAYOUTS."""

    def __init__(self, dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> None:
        self.dtype = dtype
        self.layout = layout
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> torch.Tensor:
        """Normally distributed values."""
        return arranged(self.plain(*shape), self.layout, self.generator)

    def plain(self, *shape: int) -> torch.Tensor:
        """Row-major in every layout."""
        if not (self.dtype.is_floating_point or self.dtype.is_complex):
            return torch.randint(0, 5, shape, generator=self.generator).to(self.dtype)
        return torch.randn(shape, generator=self.generator, dtype=torch.float32).to(self.dtype)

    def unit(self, *shape: int) -> torch.Tensor:
        """Values between 0 and 1."""
        values = torch.rand(shape, generator=self.generator) * 0.9 + 0.05
        return arranged(values.to(self.dtype), self.layout, self.generator)

    def classes(self, high: int, *shape: int) -> torch.Tensor:
        """Integers below `high`."""
        return torch.randint(0, high, shape, generator=self.generator)


def arranged(x: torch.Tensor, layout: str, generator: torch.Generator) -> torch.Tensor:
    """The same values in another memory layout; unchanged where it does not apply."""
    if layout == "channels_last" and x.dim() in (4, 5):
        last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        return x.contiguous(memory_format=last)
    if layout == "permuted" and x.dim() > 1:
        order = torch.randperm(x.dim(), generator=generator).tolist()
        return x.permute(order).contiguous().permute([order.index(d) for d in range(x.dim())])
    if layout == "sliced" and x.dim() > 0:
        return torch.cat([x, x], -1)[..., : x.shape[-1]]
    if layout == "expanded" and x.dim() > 1:
        return x[..., :1, :].expand(x.shape)
    return x


def call(*args: Any, **kwargs: Any) -> Call:
    """The arguments of one call."""
    return args, kwargs
