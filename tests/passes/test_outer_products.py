"""`outer_products`: products that sum over one element are multiplications."""

import pytest
from check import Check

from lazytorch.passes import outer_products


def test_a_column_times_a_row_is_a_multiplication(check: Check) -> None:
    check(
        outer_products,
        """
        graph(%f: f32[1, 5, 1], %p: f32[1, 1, 7], %x: f32[5, 1], %y: f32[1, 7]) {
          %0 = matmul %f %p
          %1 = mm %x %y
          %2 = bmm %f %p
          return %0, %1, %2
        }
        """,
        """
        graph(%f: f32[1, 5, 1], %p: f32[1, 1, 7], %x: f32[5, 1], %y: f32[1, 7]) {
          %0: f32[1, 5, 7] = mul %f %p
          %1: f32[5, 7] = mul %x %y
          %2: f32[1, 5, 7] = mul %f %p
          return %0, %1, %2
        }
        """,
        close=1e-30,
    )


@pytest.mark.parametrize(
    "product",
    [
        "matmul %x %y",  # a sum of two
        "matmul %v %v",  # a number
        "matmul %t %c",  # lies otherwise than a multiplication's result
        "mm %p %q",  # torch refuses it
    ],
)
def test_other_products_stay(check: Check, product: str) -> None:
    check.declines(
        outer_products,
        f"""
        graph(%x: f32[5, 2], %y: f32[2, 7], %v: f32[1],
              %t: f32[4, 5, 1]{{1, 4, 1}}, %c: f32[4, 1, 3]{{1, 1, 4}},
              %p: bool[5, 1], %q: bool[1, 7]) {{
          %0 = {product}
          return %0
        }}
        """,
    )
