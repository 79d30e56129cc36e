"""`pool_channels`: max pools over channels-last images."""

# ruff: noqa: E501  golden text is as wide as it is

import pytest
import torch
from check import SPECIAL, Check

from lazytorch.interpret import interpret
from lazytorch.ops.copies import Clone
from lazytorch.ops.pool import MaxPoolIndices
from lazytorch.passes import pool_channels
from lazytorch.text import parse
from lazytorch.types import TensorType

SIZES = "kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1)"


def test_a_pool_reads_channels_last(check: Check) -> None:
    check(
        pool_channels,
        f"graph(%x: f32[2, 8, 5, 6]) {{ %0 = max_pool{{{SIZES}}} %x return %0 }}",
        """
        graph(%x: f32[2, 8, 5, 6]) {
          %0: f32[2, 8, 5, 6]{240, 1, 48, 8} = clone{strides=(240, 1, 48, 8)} %x
          %1: f32[2, 8, 3, 3]{72, 1, 24, 8} = max_pool{kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1)} %0
          %2: f32[2, 8, 3, 3] = clone{strides=(72, 9, 3, 1)} %1
          return %2
        }
        """,
    )


def test_so_does_one_that_tells_where_it_found_its_values(check: Check) -> None:
    check(
        pool_channels,
        f"""
        graph(%x: f32[2, 8, 5, 6]) {{
          %0 = max_pool_indices{{{SIZES}}} %x
          %1 = item{{index=0}} %0
          %2 = item{{index=1}} %0
          return %1, %2
        }}
        """,
        """
        graph(%x: f32[2, 8, 5, 6]) {
          %0: f32[2, 8, 5, 6]{240, 1, 48, 8} = clone{strides=(240, 1, 48, 8)} %x
          %1: (f32[2, 8, 3, 3]{72, 1, 24, 8}, i64[2, 8, 3, 3]{72, 1, 24, 8}) = max_pool_indices{kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1)} %0
          %2: f32[2, 8, 3, 3]{72, 1, 24, 8} = item{index=0} %1
          %3: f32[2, 8, 3, 3] = clone{strides=(72, 9, 3, 1)} %2
          %4: i64[2, 8, 3, 3]{72, 1, 24, 8} = item{index=1} %1
          %5: i64[2, 8, 3, 3] = clone{strides=(72, 9, 3, 1)} %4
          return %3, %5
        }
        """,
    )


@pytest.mark.parametrize(
    ("x", "sizes"),
    [
        ("f32[2, 7, 5, 6]", SIZES),
        ("f32[2, 8, 5, 6]{240, 1, 48, 8}", SIZES),
        ("f32[8, 5, 6]", SIZES),
        ("f32[0, 8, 5, 6]", SIZES),
        ("i64[2, 8, 5, 6]", SIZES),
        ("f32[2, 8, 5, 6] on cuda", SIZES),
        ("f32[2, 8, 6]", "kernel=(3,), stride=(2,), padding=(1,), dilation=(1,)"),
    ],
    ids=["few channels", "channels last", "one image", "no image", "integers", "a GPU", "1-d"],
)
def test_pool_channels_declines(check: Check, x: str, sizes: str) -> None:
    check.declines(pool_channels, f"graph(%x: {x}) {{ %0 = max_pool{{{sizes}}} %x return %0 }}")


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "f64"])
@pytest.mark.parametrize("channels", [8, 19, 32])
@pytest.mark.parametrize("ceil", ["", ", ceil_mode=True"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((3, 3), (2, 2), (1, 1), (1, 1)),
        ((2, 3), (2, 1), (1, 1), (1, 2)),
        ((1, 4), (1, 3), (0, 2), (1, 1)),
        ((5, 7), (5, 7), (0, 0), (1, 1)),
    ],
)
def test_values_and_places_stay_the_same(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int],
    dilation: tuple[int, int], ceil: str, channels: int, dtype: str,
) -> None:  # fmt: skip
    graph = parse(f"""graph(%x: {dtype}[3, {channels}, 5, 7]) {{
        %0 = max_pool_indices{{kernel={kernel}, stride={stride}, padding={padding}, dilation={dilation}{ceil}}} %x
        %1 = item{{index=0}} %0
        %2 = item{{index=1}} %0
        return %1, %2 }}""")
    after = pool_channels(graph)
    assert [type(x.op) for x in after.outputs] == [Clone, Clone]
    assert any(isinstance(x.op, MaxPoolIndices) for x in after.nodes)
    typed = graph.inputs[0].type
    assert isinstance(typed, TensorType)
    torch.manual_seed(0)
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), typed.shape)]
    equal = torch.randint(-2, 3, typed.shape)
    lowest = torch.full(typed.shape, -torch.inf)
    for x in (special, equal, lowest, torch.randn(typed.shape)):
        found, want = interpret(after, x.to(typed.dtype)), interpret(graph, x.to(typed.dtype))
        for got, expected in zip(found, want, strict=True):
            torch.testing.assert_close(
                got, expected, rtol=0, atol=0, equal_nan=True, check_stride=True
            )
