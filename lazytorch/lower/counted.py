"""Writes that torch does not see are counted as its own are: saved tensors and guards ask."""

from __future__ import annotations

import torch


def counted(*targets: torch.Tensor) -> None:
    """Move the versions of tensors that something else than torch has written to."""
    found = [x for x in targets if not x.is_inference()]  # those have no version
    torch.autograd.graph.increment_version(found)
