"""`channel_means`: one mean for each channel as that of rows beside each other."""

# ruff: noqa: E501  golden text is as wide as it is

import pytest
import torch
from check import Check
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.accuracy import accuracy
from lazytorch.ops.library import libraries
from lazytorch.passes import channel_means

HERE = libraries()


def test_one_mean_for_each_channel_is_that_of_rows(check: Check) -> None:
    check(
        channel_means,
        "graph(%x: bf16[2, 256, 8, 8]{16384, 1, 2048, 256}) { %0 = adaptive_avg_pool{size=(1, 1)} %x return %0 }",
        """
        graph(%x: bf16[2, 256, 8, 8]{16384, 1, 2048, 256}) {
          %0: bf16[2, 256, 64]{16384, 1, 256} = reshape{shape=(2, 256, 64)} %x
          %1: bf16[2, 256, 1] = mean{dims=(2,), keepdim=True} %0
          %2: bf16[2, 1, 1, 256] = reshape{shape=(2, 1, 1, 256)} %1
          %3: bf16[2, 256, 1, 1]{256, 1, 256, 256} = permute{perm=(0, 3, 1, 2)} %2
          return %3
        }
        """,
        close=1e-2,
    )


@pytest.mark.parametrize(
    "text",
    [
        "graph(%x: bf16[2, 256, 8, 8]{16384, 1, 2048, 256}) { %0 = adaptive_avg_pool{size=(2, 1)} %x return %0 }",
        "graph(%x: bf16[2, 256, 8, 8]) { %0 = adaptive_avg_pool{size=(1, 1)} %x return %0 }",
        "graph(%x: bf16[1, 64, 8, 8]{4096, 1, 512, 64}) { %0 = adaptive_avg_pool{size=(1, 1)} %x return %0 }",
        "graph(%x: f32[2, 256, 8, 8]{16384, 1, 2048, 256}) { %0 = adaptive_avg_pool{size=(1, 1)} %x return %0 }",
        "graph(%x: f64[2, 256, 8, 8]{16384, 1, 2048, 256}) { %0 = adaptive_avg_pool{size=(1, 1)} %x return %0 }",
        "graph(%x: bf16[2, 8, 32, 32]{8192, 1, 256, 8}) { %0 = adaptive_avg_pool{size=(1, 1)} %x return %0 }",
    ],
    ids=[
        "more than one mean", "row-major", "small", "small for float32", "float64",
        "few channels beside each other",
    ],
)  # fmt: skip
def test_channel_means_decline(check: Check, text: str) -> None:
    check.declines(channel_means, text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 2048, 7, 7), (3, 520, 11, 13), (2, 64, 56, 56)])
def test_it_is_as_exact_as_eager(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
    compiled = lt.compile(lambda x: functional.adaptive_avg_pool2d(x, 1), wait=True)
    found = compiled(x)
    assert "adaptive_avg_pool" not in compiled.source()
    eager, true = functional.adaptive_avg_pool2d(x, 1), x.double().mean((2, 3), keepdim=True)
    assert found.stride() == eager.stride() and found.dtype == dtype
    assert accuracy([found], [eager], [true]).right


def test_a_net_on_row_major_images_gets_it() -> None:
    net = nn.Sequential(nn.Conv2d(3, 256, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    compiled = lt.compile(net.eval().bfloat16(), wait=True, freeze=True)
    x = torch.randn(2, 3, 20, 20).bfloat16()
    torch.testing.assert_close(compiled(x), net(x))
    assert ("adaptive_avg_pool" in compiled.source()) == (torch.bfloat16 not in HERE.onednn)
