"""What `torch.amp.GradScaler` does around an update, for a step that is recorded: nothing asks the
host whether a gradient is finite.

Rounding is that of torch's kernels: gradients are unscaled in float32 at least, the scale changes
in float64 and is kept in float32. Source: ATen/native/cuda/AmpKernels.cu.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lazytorch.errors import UnsupportedError


def factors(scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """How a scale grows and shrinks: arguments of a step, so that they may change."""
    return {
        "growth": scaler.get_growth_factor(),
        "backoff": scaler.get_backoff_factor(),
        "interval": scaler.get_growth_interval(),
    }


def tensors(scaler: torch.amp.GradScaler, device: torch.device) -> dict[str, torch.Tensor]:
    """The scale and the count of finite steps since it grew, made as torch makes them."""
    if scaler._scale is None:
        scaler._lazy_init_scale_growth_tracker(device)
    scale, tracker = scaler._check_scale_growth_tracker("scale")
    return {"scale": scale, "growth_tracker": tracker}


def unscaled(
    grads: Sequence[torch.Tensor | None], scale: torch.Tensor
) -> tuple[list[torch.Tensor | None], torch.Tensor]:
    """Gradients divided by the scale, and whether one of them was not finite."""
    given = [g for g in grads if g is not None]
    if not given or any(g.dtype is torch.float16 for g in given):
        raise UnsupportedError("a scaler unscales gradients of parameters wider than float16")
    by = scale.double().reciprocal().float()
    found = torch.stack([g.isfinite().all() for g in given]).all().logical_not()
    return [None if g is None else divided(g, by) for g in grads], found


def divided(g: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """A gradient times the scale's reciprocal, rounded once."""
    return (g.to(torch.promote_types(g.dtype, by.dtype)) * by).to(g.dtype)


def rescale(
    scale: torch.Tensor, tracker: torch.Tensor, found: torch.Tensor, by: dict[str, Any]
) -> None:
    """Shrink the scale where a gradient was not finite; let it grow after enough steps, as far as
    it stays finite."""
    wide = scale.double()
    count = tracker + 1
    enough = count == by["interval"]
    grown = (wide * by["growth"]).float()
    kept = torch.where(enough & grown.isfinite(), grown, scale)
    scale.copy_(torch.where(found, (wide * by["backoff"]).float(), kept))
    tracker.copy_(count.masked_fill(found | enough, 0))
