"""`pad_products`: products whose operands' rows begin on boundaries."""

from functools import partial

import pytest
import torch
from check import Check
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.passes import pad_products

everywhere = partial(pad_products, fits=lambda x: True, smallest=0)


def test_sums_and_rows_get_zeros(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%g: bf16[4, 11], %w: bf16[11, 8], %x: bf16[4, 8]) {
          %0 = mul %g 2.0
          %1 = mm %0 %w
          %2 = permute{perm=(1, 0)} %0
          %3 = mm %2 %x
          return %1, %3
        }
        """,
        """
        graph(%g: bf16[4, 11], %w: bf16[11, 8], %x: bf16[4, 8]) {
          %0: bf16[4, 11] = mul %g 2.0
          %1: bf16[4, 16] = pad{pad=(0, 5)} %0
          %2: bf16[16, 8] = pad{pad=(0, 0, 0, 5)} %w
          %3: bf16[4, 8] = mm %1 %2
          %4: bf16[16, 4]{1, 16} = permute{perm=(1, 0)} %1
          %5: bf16[16, 8] = mm %4 %x
          %6: bf16[11, 8] = slice{dim=0, start=0, stop=11} %5
          return %3, %6
        }
        """,
        close=1e-2,
    )


def test_what_was_padded_already_is_read_as_it_is(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%g: bf16[4, 11], %w: bf16[11, 8]) {
          %0 = pad{pad=(0, 0, 0, 5)} %w
          %1 = slice{dim=0, start=0, stop=11} %0
          %2 = neg %g
          %3 = mm %2 %1
          return %3
        }
        """,
        """
        graph(%g: bf16[4, 11], %w: bf16[11, 8]) {
          %0: bf16[4, 11] = neg %g
          %1: bf16[4, 16] = pad{pad=(0, 5)} %0
          %2: bf16[16, 8] = pad{pad=(0, 0, 0, 5)} %w
          %3: bf16[4, 8] = mm %1 %2
          return %3
        }
        """,
        close=1e-2,
    )


def test_declines_on_inputs_aligned_rows_and_additional_columns(check: Check) -> None:
    check.declines(
        everywhere,
        """
        graph(%a: f32[3, 5], %b: f32[4, 8], %w: f32[5, 8], %v: f32[8, 5], %s: f32[5, 5] state) {
          %0 = mm %a %w
          %1 = neg %b
          %2 = mm %1 %v
          %3 = neg %s
          %4 = mm %3 %w
          return %0, %2, %4
        }
        """,
    )


def test_declines_on_small_products_and_where_nothing_gains(check: Check) -> None:
    text = """
        graph(%g: bf16[4, 11], %w: bf16[11, 8]) {
          %0 = neg %g
          %1 = mm %0 %w
          return %1
        }
        """
    check.declines(partial(pad_products, fits=lambda x: True), text)
    check.declines(partial(pad_products, fits=lambda x: False, smallest=0), text)


@pytest.mark.parametrize(("precision", "pads"), [("highest", False), ("high", True)])
def test_float32_is_padded_where_it_is_multiplied_in_tf32(precision: str, pads: bool) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.device("meta"):
            model, batch = nn.Linear(256, 4099), (torch.empty(1024, 256), torch.empty(1024, 4099))
        sgd = lambda ps: torch.optim.SGD(ps, 0.1)  # noqa: E731
        step = lt.plan(model, batch, device="h200", loss_fn=functional.mse_loss, optimizer=sgd)
    finally:
        torch.set_float32_matmul_precision(before)
    assert any("pad" in line for line in step.timeline.lines) == pads
