"""cuBLASLt's product with what follows it in its epilogue."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from lazytorch.ir import Op
from lazytorch.ops.linalg import Linear
from lazytorch.types import TensorType


class LinearActivation(Op):
    """relu, or gelu in its tanh form, of `x @ weight.T + bias`, rounded once.

    x is (..., in), weight (out, in), bias (out). On tensors that are not on a GPU it is done by
    parts, so that every graph can be interpreted.
    """

    activation: Literal["relu", "gelu"]

    def infer(self, x: TensorType, weight: TensorType, bias: TensorType) -> TensorType:
        return Linear().infer(x, weight, bias)

    def run(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if not x.is_cuda:
            y = functional.linear(x, weight, bias)
            return y.relu() if self.activation == "relu" else functional.gelu(y, approximate="tanh")
        flat = x.reshape(-1, x.shape[-1])
        gelu = self.activation == "gelu"
        y = torch._addmm_activation(bias, flat, weight.t(), use_gelu=gelu)
        return y.view(*x.shape[:-1], y.shape[-1])
