"""`late_factors`: numbers that scale products rather than their operands."""

import pytest
import torch
from check import Check

import lazytorch as lt
from lazytorch.accuracy import accuracy
from lazytorch.passes import late_factors


def test_a_factor_moves_behind_the_products_of_forward_and_backward(check: Check) -> None:
    check(
        late_factors,
        """
        graph(%x: f32[2, 9, 8], %w: f32[8, 8], %k: f32[2, 8, 9], %g: f32[2, 9, 9]) {
          %0 = matmul %x %w
          %1 = mul %0 0.5
          %2 = matmul %1 %k
          %3 = softmax{dim=2} %2
          %4 = permute{perm=(0, 2, 1)} %1
          %5 = matmul %4 %g
          %6 = permute{perm=(0, 2, 1)} %5
          %7 = add %6 1.0
          return %3, %7
        }
        """,
        """
        graph(%x: f32[2, 9, 8], %w: f32[8, 8], %k: f32[2, 8, 9], %g: f32[2, 9, 9]) {
          %0: f32[2, 9, 8] = matmul %x %w
          %1: f32[2, 9, 9] = matmul %0 %k
          %2: f32[2, 9, 9] = mul %1 0.5
          %3: f32[2, 9, 9] = softmax{dim=2} %2
          %4: f32[2, 8, 9]{72, 1, 8} = permute{perm=(0, 2, 1)} %0
          %5: f32[2, 8, 9] = matmul %4 %g
          %6: f32[2, 9, 8]{72, 1, 9} = permute{perm=(0, 2, 1)} %5
          %7: f32[2, 9, 8]{72, 1, 9} = mul %6 0.5
          %8: f32[2, 9, 8]{72, 1, 9} = add %7 1.0
          return %3, %8
        }
        """,
        close=1e-5,
    )


def test_factors_of_both_operands_and_divisors(check: Check) -> None:
    check(
        late_factors,
        """
        graph(%q: f32[2, 6, 8], %k: f32[2, 8, 6]) {
          %0 = mul 0.5 %q
          %1 = div %k 3.0
          %2 = matmul %0 %1
          %3 = add %2 1.0
          return %3
        }
        """,
        """
        graph(%q: f32[2, 6, 8], %k: f32[2, 8, 6]) {
          %0: f32[2, 6, 6] = matmul %q %k
          %1: f32[2, 6, 6] = mul %0 0.5
          %2: f32[2, 6, 6] = div %1 3.0
          %3: f32[2, 6, 6] = add %2 1.0
          return %3
        }
        """,
        close=1e-5,
    )


@pytest.mark.parametrize(
    "lines",
    [
        """
          %1 = exp %q
          %2 = mul %1 0.5
          %3 = mm %2 %k
          %4 = add %3 1.0
        """,
        """
          %2 = mul %q 0.5
          %3 = mm %2 %k
          %4 = add %3 %2
        """,
        """
          %2 = mul %q 0.5
          %3 = mm %2 %k
          %5 = add %3 1.0
          %4 = mm %3 %5
        """,
        """
          %2 = mul %q 0.5
          %4 = mm %2 %k
        """,
        """
          %1 = slice{dim=1, start=0, stop=4} %q
          %2 = mul %1 0.5
          %5 = reshape{shape=(4, 8)} %2
          %3 = mm %5 %k
          %4 = add %3 1.0
        """,
        """
          %2 = mul %q 1e-30
          %3 = mm %2 %k
          %4 = add %3 1.0
        """,
        """
          %2 = mul %q %q
          %3 = mm %2 %k
          %4 = add %3 1.0
        """,
        """
          %1 = full{shape=(8, 8), value=0.5}
          %2 = mul %q %1
          %3 = mm %2 %k
          %4 = sum{dims=(1,), keepdim=True} %3
        """,
    ],
    ids=[
        "arithmetic makes what is scaled",
        "arithmetic reads it",
        "a product reads the product",
        "the product is returned",
        "a view would copy",
        "far from 1",
        "no number",
        "a tensor of one number",
    ],
)
def test_declines_where_it_is_not_free_or_not_safe(check: Check, lines: str) -> None:
    check.declines(late_factors, f"graph(%q: f32[8, 8], %k: f32[8, 8]) {{{lines}return %4\n}}")


def test_declines_in_float16(check: Check) -> None:
    check.declines(
        late_factors,
        """
        graph(%q: f16[8, 8], %k: f16[8, 8]) {
          %0 = mul %q 0.5
          %1 = mm %0 %k
          %2 = add %1 1.0
          return %2
        }
        """,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_through_a_scaled_query(dtype: torch.dtype) -> None:
    def loss(x: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        scores = ((x @ q) * 0.3) @ (x @ k).transpose(-2, -1)
        return ((scores + x.sum(-1, keepdim=True)).softmax(-1) @ x).square().sum()

    seed = torch.Generator().manual_seed(0)
    given = [torch.randn(*n, generator=seed).to(dtype) for n in ((3, 9, 9), (9, 9), (9, 9))]
    fast = lt.compile(lt.grad(loss, (0, 1, 2)), wait=True)
    got = fast(*given)
    assert any(x == "late_factors" and n != m for x, _, n, m in fast.stages), "nothing moved"
    eager, exact = [
        torch.autograd.grad(loss(*leaves), leaves)
        for leaves in ([y.to(to).requires_grad_() for y in given] for to in (dtype, torch.float64))
    ]
    assert not accuracy(got, eager, exact).fault


def test_an_attention_takes_in_the_factors_of_query_and_key(check: Check) -> None:
    check(
        late_factors,
        """
        graph(%x: f32[2, 6, 32], %w: f32[32, 32], %v: f32[2, 4, 6, 8]) {
          %0 = matmul %x %w
          %1 = mul %0 0.25
          %2 = reshape{shape=(2, 6, 4, 8)} %1
          %3 = permute{perm=(0, 2, 1, 3)} %2
          %4 = div %v 2.0
          %5 = scaled_dot_product_attention{scale=1.0} %3 %4 %v
          %6 = scaled_dot_product_attention{scale=2.0} %3 %v %v
          return %5, %6
        }
        """,
        """
        graph(%x: f32[2, 6, 32], %w: f32[32, 32], %v: f32[2, 4, 6, 8]) {
          %0: f32[2, 6, 32] = matmul %x %w
          %1: f32[2, 6, 4, 8] = reshape{shape=(2, 6, 4, 8)} %0
          %2: f32[2, 4, 6, 8]{192, 8, 32, 1} = permute{perm=(0, 2, 1, 3)} %1
          %3: f32[2, 4, 6, 8]{192, 8, 32, 1} = scaled_dot_product_attention{scale=0.125} %2 %v %v
          %4: f32[2, 4, 6, 8]{192, 8, 32, 1} = scaled_dot_product_attention{scale=0.5} %2 %v %v
          return %3, %4
        }
        """,
        close=1e-5,
    )


@pytest.mark.parametrize(
    "attention",
    [
        "%1 = mul %0 0.25\n%2 = scaled_dot_product_attention %1 %v %1",  # weighs what is scaled
        "%1 = mul %0 -0.25\n%2 = scaled_dot_product_attention %1 %v %v",  # turns the order
        "%1 = mul %n 0.25\n%2 = scaled_dot_product_attention %1 %v %v",  # lies otherwise then
        "%1 = mul %0 0.25\n%2 = scaled_dot_product_attention{dropout_p=0.5} %1 %v %v\n%3 = relu %1",
    ],
)
def test_other_attentions_keep_their_operands(check: Check, attention: str) -> None:
    last = attention.count("\n") + 1
    check.declines(
        late_factors,
        f"""
        graph(%x: f32[2, 4, 6, 8], %w: f32[8, 8], %v: f32[2, 4, 6, 8],
              %n: f32[2, 4, 1, 8]{{64, 8, 1, 1}}) {{
          %0 = matmul %x %w
          {attention}
          return %2, %{last}
        }}
        """,
    )
