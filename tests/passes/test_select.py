"""`select`: library kernels, packed weights where they may be copied and are parameters."""

# ruff: noqa: E501  golden text is as wide as it is

from functools import partial

import pytest
import torch
from check import Check, recorded
from torch import nn

from lazytorch.interpret import interpret
from lazytorch.ops.conv import Convolution
from lazytorch.ops.library import (
    Libraries,
    PackedConvolution,
    PackedWeight,
    libraries,
)
from lazytorch.passes import select
from lazytorch.text import parse
from lazytorch.types import tensor_type
from lazytorch.verify import signature, verify

BOTH = Libraries(frozenset((torch.float32, torch.bfloat16)), mkl=True, threads=2)
HERE = libraries()
everywhere = partial(select, cpu=BOTH)
within_nothing = partial(select, cpu=BOTH, budget=0)
on_this_machine = partial(select, cpu=HERE)


def test_select_packs_a_convolution_whose_weight_is_a_parameter(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 2, 2] state) {
          %0: f32[1, 3, 3, 3] = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
          return %0
        }
        """,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 2, 2] state) {
          %0: opaque[512] = packed_weight{convolution=op(convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)}), input_shape=(1, 2, 4, 4), threads=2} %w
          %1: f32[1, 3, 3, 3]{27, 1, 9, 3} = packed_convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, kernel=(3, 2, 2, 2)} %x %0
          %2: f32[1, 3, 3, 3] = clone{strides=(27, 9, 3, 1)} %1
          return %2
        }
        """,
        close=1e-5,
    )


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            "the weight is an argument: it would be packed at every call",
            """
            graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1]) {
              %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
              return %0
            }
            """,
        ),
        (
            "oneDNN packs no float64",
            """
            graph(%x: f64[1, 2, 4, 4], %w: f64[3, 2, 1, 1] state) {
              %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
              return %0
            }
            """,
        ),
        (
            "batch norm in training mode follows: its statistics want row-major activations",
            """
            graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 1, 1] state) {
              %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
              %1 = batch_norm_train{momentum=0.1, eps=1e-05, weight=False, bias=False, stats=False} %0
              %2 = item{index=0} %1
              return %2
            }
            """,
        ),
        (
            "transposed",
            """
            graph(%x: f32[1, 2, 4, 4], %w: f32[2, 3, 1, 1] state) {
              %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1), transposed=True, output_padding=(0, 0)} %x %w
              return %0
            }
            """,
        ),
        (
            "no batch dimension",
            """
            graph(%x: f32[2, 4, 4], %w: f32[3, 2, 1, 1] state) {
              %0 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %w
              return %0
            }
            """,
        ),
    ],
)
def test_select_declines(check: Check, reason: str, text: str) -> None:
    check.declines(everywhere, text)
    check.declines(within_nothing, text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "net",
    [
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(4, 6, (1, 3), dilation=2, groups=2),
        nn.Conv2d(1, 1, 1),
        nn.Conv2d(2, 120, 1),
        nn.Conv2d(2, 120, 1, stride=(1, 2), bias=False),
        nn.Conv2d(2, 3, 1, stride=2),
        nn.Conv2d(2, 60, 3, padding=1),
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 2, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("budget", [None, 0, 100])
def test_select_keeps_meaning_types_and_nan(
    net: nn.Module, dtype: torch.dtype, batch: int, budget: int | None
) -> None:
    if dtype not in HERE.onednn:
        pytest.skip("oneDNN does not pack this dtype here")
    torch.manual_seed(0)
    net = net.to(dtype)
    channels = next(m for m in net.modules() if isinstance(m, nn.Conv2d)).in_channels
    on_this_machine = partial(select, cpu=HERE, budget=budget)
    for x in (
        torch.randn(batch, channels, 9, 11, dtype=dtype),
        torch.randn(batch, channels, 9, 11, dtype=dtype).to(memory_format=torch.channels_last),
        torch.full((batch, channels, 9, 11), float("nan"), dtype=dtype),
    ):
        graph, values = recorded(net, x)
        after = verify(on_this_machine(graph), after="select")
        assert signature(after) == signature(graph)
        assert on_this_machine(after) is after
        with torch.no_grad():
            found, expected = interpret(after, *values), interpret(graph, *values)
        near = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(
            found, expected, rtol=near, atol=near, equal_nan=True, check_stride=True
        )


def test_without_copies_convolutions_change_layout_and_products_replace_kernels_of_size_1(
    check: Check,
) -> None:
    check(
        within_nothing,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 3, 3] state, %v: f32[5, 3, 1, 1] state, %b: f32[5] state) {
          %0 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %w
          %1 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %0 %v %b
          return %1
        }
        """,
        """
        graph(%x: f32[1, 2, 4, 4], %w: f32[3, 2, 3, 3] state, %v: f32[5, 3, 1, 1] state, %b: f32[5] state) {
          %0: f32[1, 3, 4, 4] = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %w
          %1: f32[1, 3, 4, 4]{48, 1, 12, 3} = clone{strides=(48, 1, 12, 3)} %0
          %2: f32[1, 4, 4, 3] = permute{perm=(0, 2, 3, 1)} %1
          %3: f32[5, 3] = reshape{shape=(5, 3)} %v
          %4: f32[1, 4, 4, 5] = linear %2 %3 %b
          %5: f32[1, 5, 4, 4]{80, 1, 20, 5} = permute{perm=(0, 3, 1, 2)} %4
          %6: f32[1, 5, 4, 4] = clone{strides=(80, 16, 4, 1)} %5
          return %6
        }
        """,
        close=1e-5,
    )


def test_without_copies_a_weight_larger_than_its_input_runs_row_major(check: Check) -> None:
    check(
        within_nothing,
        """
        graph(%x: f32[1, 4, 2, 2]{16, 1, 8, 4}, %w: f32[6, 4, 3, 3] state, %v: f32[9, 6, 1, 1] state, %b: f32[9] state) {
          %0 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %w
          %1 = convolution{stride=(2, 2), padding=(0, 0), dilation=(1, 1)} %0 %v %b
          return %1
        }
        """,
        """
        graph(%x: f32[1, 4, 2, 2]{16, 1, 8, 4}, %w: f32[6, 4, 3, 3] state, %v: f32[9, 6, 1, 1] state, %b: f32[9] state) {
          %0: f32[9, 1] = reshape{shape=(9, 1)} %b
          %1: f32[1, 9, 1] = expand{shape=(1, 9, 1)} %0
          %2: f32[9, 6] = reshape{shape=(9, 6)} %v
          %3: f32[1, 9, 6] = expand{shape=(1, 9, 6)} %2
          %4: f32[1, 4, 2, 2] = clone{strides=(16, 4, 2, 1)} %x
          %5: f32[1, 6, 2, 2] = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %4 %w
          %6: f32[1, 6, 1, 2]{24, 4, 4, 1} = slice{dim=2, start=0, stop=2, step=2} %5
          %7: f32[1, 6, 1, 1]{24, 4, 4, 2} = slice{dim=3, start=0, stop=2, step=2} %6
          %8: f32[1, 6, 1, 1] = clone{strides=(6, 1, 1, 1)} %7
          %9: f32[1, 6, 1] = reshape{shape=(1, 6, 1)} %8
          %10: f32[1, 9, 1] = baddbmm %1 %3 %9
          %11: f32[1, 9, 1, 1] = reshape{shape=(1, 9, 1, 1)} %10
          %12: f32[1, 9, 1, 1]{9, 1, 9, 9} = clone{strides=(9, 1, 9, 9)} %11
          return %12
        }
        """,
        close=1e-5,
    )


def test_a_budget_goes_to_spatial_kernels_that_are_used_most() -> None:
    graph = parse("""
        graph(%x: f32[1, 16, 8, 8], %a: f32[16, 16, 3, 3] state, %b: f32[16, 16, 3, 3] state, %c: f32[16, 16, 1, 1] state) {
          %0 = convolution{stride=(2, 2), padding=(1, 1), dilation=(1, 1)} %x %a
          %1 = convolution{stride=(1, 1), padding=(1, 1), dilation=(1, 1)} %x %b
          %2 = convolution{stride=(1, 1), padding=(0, 0), dilation=(1, 1)} %x %c
          return %0, %1, %2
        }""")

    def chosen(budget: int) -> list[bool]:
        after = select(graph, BOTH, budget)
        assert select(after, BOTH, budget) is after
        found: list[bool] = []
        for x in after.outputs:
            while not isinstance(x.op, PackedConvolution) and x.inputs:
                x = x.inputs[0]
            found.append(isinstance(x.op, PackedConvolution))
        return found

    assert chosen(64 * 144 - 1) == [False, False, True]
    assert chosen(64 * 144) == [False, True, False]
    assert chosen(64 * 160) == [False, True, True]
    assert chosen(64 * 288) == [True, True, False]
    assert chosen(64 * 304) == [True, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((64, 3, 7, 7), 1), ((24, 96, 1, 1), 1), ((10, 20, 3, 3), 1), ((80, 33, 3, 3), 1),
        ((72, 1, 3, 3), 72), ((30, 5, 3, 3), 2), ((1, 1, 1, 1), 1), ((130, 67, 5, 5), 1),
    ],
)  # fmt: skip
def test_a_packed_weight_takes_no_more_than_its_type_says(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype
) -> None:
    if dtype not in HERE.onednn:
        pytest.skip("oneDNN does not pack this dtype here")
    weight, one = torch.randn(shape, dtype=dtype), (1, 1)
    pack = PackedWeight(
        Convolution(one, one, one, groups=groups), (2, shape[1] * groups, 9, 9), HERE.threads
    )
    taken = torch.ops.mkldnn._nbytes(pack.run(weight))
    said = pack.infer(tensor_type(shape, dtype)).nbytes
    assert weight.nbytes <= taken <= said <= 16 * max(taken, 4096)
