"""`early_views`: arithmetic behind the views through which a reduction across reads it."""

import pytest
import torch
from check import Check

import lazytorch as lt
from lazytorch.passes import early_views


def test_arithmetic_is_done_the_way_the_reduction_goes(check: Check) -> None:
    check(
        early_views,
        """
        graph(%x: f32[9, 64], %y: f32[9, 64], %b: f32[64]) {
          %0 = mul %x %y
          %1 = add %0 %b
          %2 = permute{perm=(1, 0)} %1
          %3 = sum{dims=(1,), keepdim=True} %2
          return %3
        }
        """,
        """
        graph(%x: f32[9, 64], %y: f32[9, 64], %b: f32[64]) {
          %0: f32[64, 9]{1, 64} = permute{perm=(1, 0)} %x
          %1: f32[64, 9]{1, 64} = permute{perm=(1, 0)} %y
          %2: f32[64, 9]{1, 64} = mul %0 %1
          %3: f32[9, 64]{0, 1} = expand{shape=(9, 64)} %b
          %4: f32[64, 9]{1, 0} = permute{perm=(1, 0)} %3
          %5: f32[64, 9]{1, 64} = add %2 %4
          %6: f32[64, 1] = sum{dims=(1,), keepdim=True} %5
          return %6
        }
        """,
        close=1e-6,
    )


def test_what_others_read_too_is_computed_once_more_from_as_many_bytes(check: Check) -> None:
    check(
        early_views,
        """
        graph(%x: f32[9, 64], %m: f32[9, 1], %g: f32[9, 64]) {
          %0 = sub %x %m
          %1 = mul %g %0
          %2 = permute{perm=(1, 0)} %1
          %3 = sum{dims=(1,), keepdim=True} %2
          %4 = mul %0 2.0
          return %3, %4
        }
        """,
        """
        graph(%x: f32[9, 64], %m: f32[9, 1], %g: f32[9, 64]) {
          %0: f32[64, 9]{1, 64} = permute{perm=(1, 0)} %g
          %1: f32[64, 9]{1, 64} = permute{perm=(1, 0)} %x
          %2: f32[9, 64]{1, 0} = expand{shape=(9, 64)} %m
          %3: f32[64, 9]{0, 1} = permute{perm=(1, 0)} %2
          %4: f32[64, 9]{1, 64} = sub %1 %3
          %5: f32[64, 9]{1, 64} = mul %0 %4
          %6: f32[64, 1] = sum{dims=(1,), keepdim=True} %5
          %7: f32[9, 64] = sub %x %m
          %8: f32[9, 64] = mul %7 2.0
          return %6, %8
        }
        """,
        close=1e-6,
    )


def test_a_tensor_without_dimensions_promotes_nothing(check: Check) -> None:
    check(
        early_views,
        """
        graph(%x: f16[9, 64], %s: f32[]) {
          %0 = mul %x %s
          %1 = permute{perm=(1, 0)} %0
          %2 = sum{dims=(1,), keepdim=True, dtype=f32} %1
          return %2
        }
        """,
        """
        graph(%x: f16[9, 64], %s: f32[]) {
          %0: f16[64, 9]{1, 64} = permute{perm=(1, 0)} %x
          %1: f16[64, 9]{1, 64} = mul %0 %s
          %2: f32[64, 1] = sum{dims=(1,), keepdim=True, dtype=f32} %1
          return %2
        }
        """,
        close=1e-6,
    )


@pytest.mark.parametrize(
    "text",
    [
        """
        graph(%x: f32[9, 64], %y: f32[9, 64]) {
          %0 = mul %x %y
          %1 = permute{perm=(1, 0)} %0
          %2 = sum{dims=(1,), keepdim=True} %1
          return %0, %2
        }
        """,
        """
        graph(%x: f32[9, 64], %y: f32[9, 64], %z: f32[9, 64], %w: f32[9, 64], %v: f32[9, 64]) {
          %0 = mul %x %y
          %1 = mul %z %w
          %2 = add %0 %1
          %3 = mul %2 %v
          %4 = permute{perm=(1, 0)} %3
          %5 = sum{dims=(1,), keepdim=True} %4
          %6 = mul %x %w
          %7 = mul %y %z
          %8 = add %v 1.0
          %9 = add %2 1.0
          return %5, %6, %7, %8, %9
        }
        """,
        """
        graph(%x: f32[6, 5, 64], %y: f32[6, 5, 64]{64, 384, 1}) {
          %0 = mul %x %y
          %1 = reshape{shape=(30, 64)} %0
          %2 = permute{perm=(1, 0)} %1
          %3 = sum{dims=(1,), keepdim=True} %2
          return %3
        }
        """,
        """
        graph(%x: f32[64, 9], %y: f32[64, 9]) {
          %0 = mul %x %y
          %1 = sum{dims=(1,), keepdim=True} %0
          return %1
        }
        """,
    ],
    ids=["a result", "more bytes", "an operand lies otherwise", "no views"],
)
def test_declines(check: Check, text: str) -> None:
    check.declines(early_views, text)


def test_a_sum_across_and_what_it_sums_are_one_kernel() -> None:
    x, b = torch.empty(4096, 1024, device="meta"), torch.empty(1024, device="meta")
    planned = lt.plan(lambda x, y, b: (x * y + b).sum(0), (x, x, b), device="cpu")
    (kernel,) = [line for line in planned.timeline.lines if ".call(" in line]
    assert "mul_add_sum" in kernel
    assert planned.values < x.nbytes // 4


def test_what_is_in_memory_is_read_there(check: Check) -> None:
    """A sum that a product reads too, as the next layer reads a residual, is not done again."""
    check(
        early_views,
        """
        graph(%x: f32[9, 64], %y: f32[9, 64], %z: f32[9, 64], %w: f32[64, 64]) {
          %0 = add %x %y
          %1 = mm %0 %w
          %2 = add %0 %z
          %3 = permute{perm=(1, 0)} %2
          %4 = sum{dims=(1,), keepdim=True} %3
          return %1, %4
        }
        """,
        """
        graph(%x: f32[9, 64], %y: f32[9, 64], %z: f32[9, 64], %w: f32[64, 64]) {
          %0: f32[9, 64] = add %x %y
          %1: f32[9, 64] = mm %0 %w
          %2: f32[64, 9]{1, 64} = permute{perm=(1, 0)} %0
          %3: f32[64, 9]{1, 64} = permute{perm=(1, 0)} %z
          %4: f32[64, 9]{1, 64} = add %2 %3
          %5: f32[64, 1] = sum{dims=(1,), keepdim=True} %4
          return %1, %5
        }
        """,
        close=1e-4,
    )
