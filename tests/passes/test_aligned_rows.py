"""`aligned_rows`: products whose operands' rows begin on boundaries."""

from functools import partial

from check import Check

from lazytorch.passes import aligned_rows

everywhere = partial(aligned_rows, fits=lambda x: True, smallest=0)


def test_what_is_computed_gets_aligned_rows(check: Check) -> None:
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
          %1: bf16[4, 11]{16, 1} = clone{strides=(16, 1)} %0
          %2: bf16[4, 8] = mm %1 %w
          %3: bf16[11, 4]{1, 16} = permute{perm=(1, 0)} %1
          %4: bf16[11, 8] = mm %3 %x
          return %2, %4
        }
        """,
        close=1e-2,
    )


def test_leading_dimensions_follow(check: Check) -> None:
    check(
        everywhere,
        """
        graph(%g: f16[2, 3, 5], %w: f16[7, 5]) {
          %0 = neg %g
          %1 = linear %0 %w
          return %1
        }
        """,
        """
        graph(%g: f16[2, 3, 5], %w: f16[7, 5]) {
          %0: f16[2, 3, 5] = neg %g
          %1: f16[2, 3, 5]{24, 8, 1} = clone{strides=(24, 8, 1)} %0
          %2: f16[2, 3, 7] = linear %1 %w
          return %2
        }
        """,
        close=1e-2,
    )


def test_declines_on_inputs_aligned_rows_and_batches(check: Check) -> None:
    check.declines(
        everywhere,
        """
        graph(%a: f32[3, 5], %b: f32[4, 8], %w: f32[5, 8], %v: f32[8, 4], %t: f32[2, 5, 3]) {
          %0 = mm %a %w
          %1 = neg %b
          %2 = mm %1 %v
          %3 = neg %t
          %4 = permute{perm=(0, 2, 1)} %3
          %5 = matmul %3 %4
          return %0, %2, %5
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
    check.declines(partial(aligned_rows, fits=lambda x: True), text)
    check.declines(partial(aligned_rows, fits=lambda x: False, smallest=0), text)
