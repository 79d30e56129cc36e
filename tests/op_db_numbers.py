"""Whether derivatives of the operator database's samples are eager's numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Tensors = Sequence[torch.Tensor]
TOLERANCE = {torch.float32: (2e-4, 1e-5), torch.float64: (1e-7, 1e-9)}


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest distance between two tensors, infinite where only one is finite."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    a, b = widest(a), widest(b)
    alike = (a == b) | (a.isnan() & b.isnan())
    distance = (a - b).abs().masked_fill(alike, 0).nan_to_num(nan=float("inf"))
    return float(distance.max()) if a.numel() else 0.0


def widest(x: torch.Tensor) -> torch.Tensor:
    """A tensor in double precision."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def difference(
    ours: Tensors, theirs: Tensors, dtype: torch.dtype, precise: Callable[[], Any]
) -> str:
    """How results differ from eager's, empty where they do not.

    In float32 both may be far from the truth: then we may be as far from float64 as eager is.
    """
    truth: Any = None
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a.device != b.device:
            return f"gradient {i}: on {a.device}, not on {b.device}"
        relative, absolute = TOLERANCE.get(b.dtype, TOLERANCE[dtype])
        finite = b.abs()[b.isfinite()] if b.numel() else b.abs()
        bound = absolute + relative * (float(finite.max()) if finite.numel() else 0.0)
        if error(a, b) <= bound:
            continue
        narrow = torch.float32 in (dtype, b.dtype)
        if narrow and a.shape == b.shape and a.dtype == b.dtype:
            truth = precise() if truth is None else truth
            exact = truth[i].to(widest(a).dtype)
            if error(widest(a), exact) <= 3 * error(widest(b), exact) + bound:
                continue
        return f"gradient {i}: off by {error(a, b):.3g}, bound {bound:.3g}"
    return ""
