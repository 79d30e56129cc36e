"""Samples of what passes make: a GPU's library calls, which run by parts elsewhere, and losses."""

from __future__ import annotations

from typing import Any

import torch
from samples import Sample
from torch.nn import functional

from lazytorch.ops.counting import Counting
from lazytorch.ops.cublas import LinearActivation
from lazytorch.ops.cudnn import CudnnConvolution, CudnnConvolutionRelu
from lazytorch.ops.depthwise import DepthwiseConvolution
from lazytorch.ops.linalg import RowDots
from lazytorch.ops.loss import CheckedClasses, RowCrossEntropy
from lazytorch.ops.philox import Dropout, PhiloxMask, PhiloxState
from lazytorch.ops.pixel_products import PixelProducts

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


def depthwise(x: torch.Tensor, taps: torch.Tensor, bias: Any = None) -> torch.Tensor:
    weight = taps.permute(2, 0, 1)[:, None]
    y = functional.conv2d(x, weight, bias, *SIZES, groups=taps.shape[2])
    return y.contiguous(memory_format=torch.channels_last)


def of_pixels(x: torch.Tensor, packed: torch.Tensor, bias: Any = None) -> torch.Tensor:
    weight = packed.permute(0, 2, 1).reshape(-1, x.shape[1])[:20, :, None, None]
    y = functional.conv2d(x, weight, None if bias is None else bias[:20])
    return y.contiguous(memory_format=torch.channels_last)


IMAGE, WEIGHT, BIAS = torch.randn(2, 3, 7, 5), torch.randn(4, 3, 3, 2), torch.randn(4)
TAPS, PANELS = torch.randn(3, 2, 3), torch.randn(2, 3, 16)
RESIDUAL = torch.randn(2, 4, 4, 4)
ROWS, MATRIX = torch.randn(2, 3, 5), torch.randn(4, 5)

SCORES = torch.randn(5, 11)
CLASSES = torch.tensor([[0], [10], [-100], [3], [3]])


def row_losses(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    loss = functional.cross_entropy(x.float(), target[:, 0], reduction="none")
    return loss[:, None].to(torch.promote_types(x.dtype, torch.float32))


def row_dots(x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return (x @ vector)[..., None]


def counted(seed: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """What two threads draw that compute four elements at a time, one number after the other."""
    drawn: list[bool] = []
    for place in range(24):
        counter = int(offset) // 4 + place // 8
        words = [counter % 2**32, counter >> 32, place % 8 // 4, 0]
        keys = [int(seed) % 2**32, (int(seed) >> 32) % 2**32]
        for _ in range(10):
            high, low = divmod(0xD2511F53 * words[0], 2**32)
            other, least = divmod(0xCD9E8D57 * words[2], 2**32)
            words = [other ^ words[1] ^ keys[0], least, high ^ words[3] ^ keys[1], low]
            keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
        drawn.append(words[place % 4] < 2**31)
    return torch.tensor(drawn).as_strided((3, 8), (1, 3))


def state() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(1 << 62, ()), torch.zeros((), dtype=torch.int64)


def counting_down() -> torch.Tensor:
    return torch.tensor([7.0, 5.0, 3.0, 1.0, -1.0])[None, :, None].expand(2, 5, 3)


ON_CPU = (torch.float32, torch.device("cpu"))
STATE = (torch.tensor(-(2**62) - 5), torch.tensor(2**34 + 4))
MASK = PhiloxMask((3, 8), (1, 3), 2**31, 4, 2)
KEPT = (ROWS, ROWS > 0)


def dropped(x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return torch.where(kept, x * 1.25, x * 0)


SAMPLES = [
    Sample(PhiloxState(8, torch.device("cpu")), (), state, imported=False),
    Sample(MASK, STATE, counted, imported=False),
    Sample(Counting((2, 5, 3), 1, 7, -2, *ON_CPU), (), counting_down, imported=False),
    Sample(Dropout(1.25), KEPT, dropped, imported=False),
    Sample(CudnnConvolution(*SIZES), (IMAGE, WEIGHT), convolved, imported=False),
    Sample(CudnnConvolutionRelu(*SIZES), (IMAGE, WEIGHT, BIAS), rectified, imported=False),
    Sample(
        CudnnConvolutionRelu(*SIZES), (IMAGE, WEIGHT, BIAS, RESIDUAL), rectified, imported=False
    ),
    Sample(DepthwiseConvolution(*SIZES), (IMAGE, TAPS), depthwise, imported=False),
    Sample(DepthwiseConvolution(*SIZES), (IMAGE, TAPS, TAPS[0, 0]), depthwise, imported=False),
    Sample(PixelProducts(20), (IMAGE, PANELS), of_pixels, exact=False, imported=False),
    Sample(
        PixelProducts(20),
        (IMAGE, PANELS, PANELS[:, 0].flatten()),
        of_pixels,
        exact=False,
        imported=False,
    ),
    Sample(LinearActivation("gelu"), (ROWS, MATRIX, BIAS), activated, imported=False),
    Sample(LinearActivation("relu"), (ROWS, MATRIX, BIAS), rectified_linear, imported=False),
    Sample(CheckedClasses(11), (CLASSES,), torch.clone, imported=False),
    Sample(RowCrossEntropy(), (SCORES, CLASSES), row_losses, imported=False),
    Sample(RowDots(), (SCORES, SCORES[0]), row_dots, imported=False),
    Sample(RowDots(), (SCORES[0], SCORES[1]), row_dots, imported=False, label="one row"),
]
