"""Refuses, by name, tensors that are not plain strided memory."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor

from lazytorch.errors import UnsupportedError, Where


def refuse_unusual(tensor: torch.Tensor, where: Where | None) -> None:
    """Refuse, by name, tensors that are not plain strided memory."""
    kind = type(tensor)
    name = ""
    if tensor.layout is not torch.strided:
        name = f"a {str(tensor.layout).removeprefix('torch.')} tensor"
    elif tensor.is_nested:
        name = "a nested tensor"
    elif tensor.is_quantized:
        name = "a quantized tensor"
    elif kind not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer, FakeTensor) and not (
        kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__  # type: ignore[comparison-overlap]
        and kind.__torch_function__.__func__ is torch.Tensor.__torch_function__.__func__  # type: ignore[attr-defined]
    ):
        name = f"a tensor subclass {kind.__qualname__}"
    elif tensor.is_conj() or tensor.is_neg():
        name = "a lazily conjugated or negated tensor"
    if name:
        raise UnsupportedError(
            f"{name} cannot be recorded",
            {"dtype": tensor.dtype, "device": tensor.device},
            where,
            "keep the function eager with lt.disable, or pass a dense torch.Tensor",
        )
