"""Samples of what passes make: a GPU's library calls, which run by parts elsewhere, and losses."""

from __future__ import annotations

from typing import Any

import torch
from samples import Sample
from torch.nn import functional

from lazytorch.ops.cublas import LinearActivation
from lazytorch.ops.cudnn import CudnnConvolution, CudnnConvolutionRelu
from lazytorch.ops.loss import CheckedClasses, RowCrossEntropy

SIZES = ((2, 1), (1, 0), (1, 1))


def convolved(x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
    y = functional.conv2d(x, weight, bias, *SIZES)
    return y.contiguous(memory_format=torch.channels_last)


def rectified(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor | None = None
) -> torch.Tensor:
    y = convolved(x, weight, bias)
    return torch.relu(y if residual is None else y + residual)


def activated(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")


def rectified_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, weight, bias).relu()


IMAGE, WEIGHT, BIAS = torch.randn(2, 3, 7, 5), torch.randn(4, 3, 3, 2), torch.randn(4)
RESIDUAL = torch.randn(2, 4, 4, 4)
ROWS, MATRIX = torch.randn(2, 3, 5), torch.randn(4, 5)

SCORES = torch.randn(5, 11)
CLASSES = torch.tensor([[0], [10], [-100], [3], [3]])


def row_losses(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    loss = functional.cross_entropy(x.float(), target[:, 0], reduction="none")
    return loss[:, None].to(torch.promote_types(x.dtype, torch.float32))


SAMPLES = [
    Sample(CudnnConvolution(*SIZES), (IMAGE, WEIGHT), convolved, imported=False),
    Sample(CudnnConvolutionRelu(*SIZES), (IMAGE, WEIGHT, BIAS), rectified, imported=False),
    Sample(
        CudnnConvolutionRelu(*SIZES), (IMAGE, WEIGHT, BIAS, RESIDUAL), rectified, imported=False
    ),
    Sample(LinearActivation("gelu"), (ROWS, MATRIX, BIAS), activated, imported=False),
    Sample(LinearActivation("relu"), (ROWS, MATRIX, BIAS), rectified_linear, imported=False),
    Sample(CheckedClasses(11), (CLASSES,), torch.clone, imported=False),
    Sample(RowCrossEntropy(), (SCORES, CLASSES), row_losses, imported=False),
]
