"""scale_batch_norm: evaluation-mode norms as arithmetic that fuses with what follows."""

# ruff: noqa: E501  golden text is as wide as it is

import pytest
import torch
from check import Check
from torch import nn

import lazytorch as lt
from lazytorch.lower.optimize import optimize
from lazytorch.lower.prologue import split
from lazytorch.passes import scale_batch_norm

CLOSE = 1e-5


def test_a_norm_becomes_one_product_and_one_sum(check: Check) -> None:
    check(
        scale_batch_norm,
        """
        graph(%x: f32[2, 5, 4, 4]{80, 1, 20, 5}, %g: f32[5] state, %b: f32[5] state, %m: f32[5] state, %v: f32[5] state) {
          %0 = batch_norm{eps=1e-05} %x %g %b %m %v
          return %0
        }
        """,
        """
        graph(%x: f32[2, 5, 4, 4]{80, 1, 20, 5}, %g: f32[5] state, %b: f32[5] state, %m: f32[5] state, %v: f32[5] state) {
          %0: f32[5] = add %v 1e-05
          %1: f32[5] = rsqrt %0
          %2: f32[5] = mul %g %1
          %3: f32[5, 1, 1] = reshape{shape=(5, 1, 1)} %2
          %4: f32[2, 5, 4, 4]{80, 1, 20, 5} = mul %x %3
          %5: f32[5] = mul %m %2
          %6: f32[5] = sub %b %5
          %7: f32[5, 1, 1] = reshape{shape=(5, 1, 1)} %6
          %8: f32[2, 5, 4, 4]{80, 1, 20, 5} = add %4 %7
          return %8
        }
        """,
        close=CLOSE,
    )


def test_16_bit_values_without_affine_parameters_are_rounded_once(check: Check) -> None:
    check(
        scale_batch_norm,
        """
        graph(%x: bf16[2, 5], %m: f32[5] state, %v: f32[5] state) {
          %0 = batch_norm{eps=0.001, weight=False, bias=False} %x %m %v
          return %0
        }
        """,
        """
        graph(%x: bf16[2, 5], %m: f32[5] state, %v: f32[5] state) {
          %0: f32[2, 5] = cast{dtype=f32} %x
          %1: f32[5] = add %v 0.001
          %2: f32[5] = rsqrt %1
          %3: f32[5] = reshape{shape=(5,)} %2
          %4: f32[2, 5] = mul %0 %3
          %5: f32[5] = mul %m %2
          %6: f32[5] = neg %5
          %7: f32[5] = reshape{shape=(5,)} %6
          %8: f32[2, 5] = add %4 %7
          %9: bf16[2, 5] = cast{dtype=bf16} %8
          return %9
        }
        """,
        close=0.01,
    )


STATE = "%m: f32[3] state, %v: f32[3] state"
NORM = "%1 = batch_norm{eps=1e-05, weight=False, bias=False} %x %m %v"


@pytest.mark.parametrize(
    "text",
    [
        f"graph(%x: f32[2, 3, 4], {STATE.replace(' state', '', 1)}) {{ {NORM} return %1 }}",
        f"graph(%x: f32[2, 3, 4], {STATE}) {{ {NORM} %2 = exp %m %3 = write %m %2 effects %3 return %1 }}",
        f"graph(%x: f32[2, 3, 4]{{12, 1, 3}}, {STATE}) {{ {NORM} return %1 }}",
        f"graph(%x: f32[2, 3, 4], {STATE}) {{ %1 = batch_norm_train{{momentum=0.1, eps=1e-05, weight=False, bias=False}} %x %m %v %2 = item{{index=0}} %1 return %2 }}",
    ],
    ids=["statistics from an argument", "statistics written", "other strides", "training"],
)
def test_declines(check: Check, text: str) -> None:
    check.declines(scale_batch_norm, text)


def test_each_convolution_is_followed_by_one_kernel() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.m, self.n = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.n(self.b(self.m(self.a(x)).relu())) + x).relu()

    graph = optimize(lt.trace(Block().eval(), torch.randn(1, 8, 9, 9)), freeze=False)
    main = split(graph)[1]
    after = [x.op.name() for x in main.nodes if x.inputs and not x.op.view]
    assert [x for x in after if x != "clone"] == ["convolution", "fused"] * 2
