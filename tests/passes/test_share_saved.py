"""share_saved: an operation and the form of it that a derivative reads run once."""

# ruff: noqa: E501  # golden texts are as the printer has them
import torch
from check import Check

from lazytorch.passes import share_saved

NORM = "momentum=0.1, eps=1e-05, weight=False, bias=False, stats=False"


def test_a_batch_norm_is_taken_from_its_saving_form(check: Check) -> None:
    torch.manual_seed(0)
    check(
        share_saved,
        f"""
        graph(%x: f32[2, 3, 4, 4]) {{
          %0 = batch_norm_train{{{NORM}}} %x
          %1 = item{{index=0}} %0
          %2 = batch_norm_saving{{{NORM}}} %x
          %3 = item{{index=1}} %2
          return %1, %3
        }}
        """,
        """
        graph(%x: f32[2, 3, 4, 4]) {
          %0: (f32[2, 3, 4, 4], f32[3], f32[3]) = batch_norm_saving{momentum=0.1, eps=1e-05, weight=False, bias=False, stats=False} %x
          %1: f32[2, 3, 4, 4] = item{index=0} %0
          %2: f32[3] = item{index=1} %0
          return %1, %2
        }
        """,
    )


def test_attention_is_an_item_of_its_saving_form(check: Check) -> None:
    check(
        share_saved,
        """
        graph(%q: f32[1, 2, 4, 8], %k: f32[1, 2, 4, 8]) {
          %0 = scaled_dot_product_attention{is_causal=True} %q %k %k
          %1 = attention_saving{kernel="cpu", is_causal=True} %q %k %k
          %2 = item{index=1} %1
          return %0, %2
        }
        """,
        """
        graph(%q: f32[1, 2, 4, 8], %k: f32[1, 2, 4, 8]) {
          %0: (f32[1, 2, 4, 8], f32[1, 2, 4]{8, 1, 2}) = attention_saving{kernel="cpu", is_causal=True} %q %k %k
          %1: f32[1, 2, 4, 8] = item{index=0} %0
          %2: f32[1, 2, 4]{8, 1, 2} = item{index=1} %0
          return %1, %2
        }
        """,
    )


def test_declines_without_the_saving_form(check: Check) -> None:
    check.declines(
        share_saved,
        """
        graph(%q: f32[1, 2, 4, 8]) {
          %0 = scaled_dot_product_attention %q %q %q
          return %0
        }
        """,
    )


def test_declines_on_other_operands(check: Check) -> None:
    check.declines(
        share_saved,
        """
        graph(%q: f32[1, 2, 4, 8], %k: f32[1, 2, 4, 8]) {
          %0 = scaled_dot_product_attention %q %k %k
          %1 = attention_saving{kernel="cpu"} %k %q %q
          %2 = item{index=1} %1
          return %0, %2
        }
        """,
    )


def test_declines_on_attention_that_draws(check: Check) -> None:
    check.declines(
        share_saved,
        """
        graph(%q: f32[1, 2, 4, 8]) {
          %0 = random_scaled_dot_product_attention{dropout_p=0.5} %q %q %q
          %1 = attention_saving{kernel="cpu"} %q %q %q
          %2 = item{index=1} %1
          effects %0
          return %0, %2
        }
        """,
    )
