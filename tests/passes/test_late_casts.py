"""`late_casts`: casts to wider dtypes behind the views that read them."""

from check import Check

from lazytorch.passes import late_casts


def test_a_cast_moves_behind_views(check: Check) -> None:
    check(
        late_casts,
        """
        graph(%x: bf16[6, 4], %w: bf16[4, 4]) {
          %0 = mm %x %w
          %1 = cast{dtype=f32} %0
          %2 = reshape{shape=(2, 3, 4)} %1
          %3 = permute{perm=(1, 0, 2)} %2
          %4 = add %3 1.0
          return %4
        }
        """,
        """
        graph(%x: bf16[6, 4], %w: bf16[4, 4]) {
          %0: bf16[6, 4] = mm %x %w
          %1: bf16[2, 3, 4] = reshape{shape=(2, 3, 4)} %0
          %2: bf16[3, 2, 4]{4, 12, 1} = permute{perm=(1, 0, 2)} %1
          %3: f32[3, 2, 4]{4, 12, 1} = cast{dtype=f32} %2
          %4: f32[3, 2, 4]{4, 12, 1} = add %3 1.0
          return %4
        }
        """,
    )


def test_declines_on_other_readers_outputs_and_narrower_casts(check: Check) -> None:
    check.declines(
        late_casts,
        """
        graph(%x: bf16[6, 4], %y: f32[6, 4], %z: bf16[6, 4]) {
          %0 = cast{dtype=f32} %x
          %1 = reshape{shape=(24,)} %0
          %2 = add %0 1.0
          %3 = cast{dtype=bf16} %y
          %4 = reshape{shape=(24,)} %3
          %5 = cast{dtype=f32} %z
          %6 = reshape{shape=(24,)} %5
          return %1, %2, %4, %5, %6
        }
        """,
    )
