"""`additive_masks`: one tensor of 0 and -inf for all attentions that read a bool mask."""

import torch
from check import Check

from lazytorch.interpret import interpret
from lazytorch.passes import additive_masks
from lazytorch.text import parse


def test_additive_masks_makes_the_numbers_once(check: Check) -> None:
    check(
        additive_masks,
        """
        graph(%q: f32[1, 2, 3, 4], %k: f32[1, 2, 5, 4], %m: bool[1, 1, 3, 5]) {
          %0 = scaled_dot_product_attention %q %k %k %m
          %1 = scaled_dot_product_attention %0 %k %k %m
          return %1
        }
        """,
        """
        graph(%q: f32[1, 2, 3, 4], %k: f32[1, 2, 5, 4], %m: bool[1, 1, 3, 5]) {
          %0: f32[1, 1, 3, 5] = where %m 0.0 -inf
          %1: f32[1, 2, 3, 4] = scaled_dot_product_attention %q %k %k %0
          %2: f32[1, 2, 3, 4] = scaled_dot_product_attention %1 %k %k %0
          return %2
        }
        """,
        close=1e-5,
    )


def test_additive_masks_casts_to_the_querys_dtype(check: Check) -> None:
    check(
        additive_masks,
        """
        graph(%q: bf16[1, 2, 3, 4], %k: bf16[1, 2, 5, 4], %m: bool[1, 1, 3, 5]) {
          %0 = scaled_dot_product_attention %q %k %k %m
          return %0
        }
        """,
        """
        graph(%q: bf16[1, 2, 3, 4], %k: bf16[1, 2, 5, 4], %m: bool[1, 1, 3, 5]) {
          %0: f32[1, 1, 3, 5] = where %m 0.0 -inf
          %1: bf16[1, 1, 3, 5] = cast{dtype=bf16} %0
          %2: bf16[1, 2, 3, 4] = scaled_dot_product_attention %q %k %k %1
          return %2
        }
        """,
        close=1e-2,
    )


def test_additive_masks_declines_on_numbers_and_without_a_mask(check: Check) -> None:
    check.declines(
        additive_masks,
        """
        graph(%q: f32[1, 2, 3, 4], %k: f32[1, 2, 5, 4], %m: f32[1, 1, 3, 5]) {
          %0 = scaled_dot_product_attention %q %k %k %m
          %1 = scaled_dot_product_attention %0 %k %k
          return %1
        }
        """,
    )


def test_rows_that_look_nowhere_come_out_as_before() -> None:
    graph = parse(
        """graph(%q: f32[1, 2, 3, 4], %m: bool[3, 3]) {
          %0 = scaled_dot_product_attention %q %q %q %m
          return %0
        }"""
    )
    q, mask = torch.randn(1, 2, 3, 4), torch.ones(3, 3, dtype=torch.bool).tril(-1)
    (before,) = interpret(graph, q, mask)
    (after,) = interpret(additive_masks(graph), q, mask)
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
