"""`known_masks`: attention without the masks that its kernels know by themselves."""

import pytest
import torch
from check import Check
from torch.nn import functional

import lazytorch as lt
from lazytorch.passes import known_masks
from lazytorch.text import parse
from lazytorch.verify import verify


def test_a_causal_mask_becomes_an_attribute(check: Check) -> None:
    check(
        known_masks,
        """
        graph(%q: f32[2, 2, 3, 4], %k: f32[2, 2, 3, 4]) {
          %0 = arange{start=0, end=3}
          %1 = reshape{shape=(3, 1)} %0
          %2 = le %0 %1
          %3 = reshape{shape=(1, 1, 3, 3)} %2
          %4 = expand{shape=(2, 1, 3, 3)} %3
          %5 = scaled_dot_product_attention %q %k %k %4
          return %5
        }
        """,
        """
        graph(%q: f32[2, 2, 3, 4], %k: f32[2, 2, 3, 4]) {
          %0: f32[2, 2, 3, 4] = scaled_dot_product_attention{is_causal=True} %q %k %k
          return %0
        }
        """,
        close=1e-5,
    )


def test_a_mask_of_zeros_is_dropped(check: Check) -> None:
    check(
        known_masks,
        """
        graph(%q: f32[1, 2, 3, 4], %k: f32[1, 2, 5, 4]) {
          %0 = full{shape=(3, 5), value=0.0}
          %1 = scaled_dot_product_attention %q %k %k %0
          return %1
        }
        """,
        """
        graph(%q: f32[1, 2, 3, 4], %k: f32[1, 2, 5, 4]) {
          %0: f32[1, 2, 3, 4] = scaled_dot_product_attention %q %k %k
          return %0
        }
        """,
        close=1e-5,
    )


@pytest.mark.parametrize(
    "mask",
    [
        "%2 = lt %0 %1",
        "%2 = ge %0 %1",
        "%2 = eq %m 0.0",
    ],
    ids=["the diagonal hidden too", "what lies behind hidden", "from an input"],
)
def test_declines_on_other_masks(check: Check, mask: str) -> None:
    check.declines(
        known_masks,
        f"""
        graph(%q: f32[1, 2, 3, 4], %k: f32[1, 2, 3, 4], %m: f32[3, 3]) {{
          %0 = arange{{start=0, end=3}}
          %1 = reshape{{shape=(3, 1)}} %0
          {mask}
          %3 = scaled_dot_product_attention %q %k %k %2
          return %3
        }}
        """,
    )


def test_declines_where_queries_and_keys_differ_in_number(check: Check) -> None:
    check.declines(
        known_masks,
        """
        graph(%q: f32[1, 2, 3, 4], %k: f32[1, 2, 5, 4]) {
          %0 = arange{start=0, end=5}
          %1 = arange{start=0, end=3}
          %2 = reshape{shape=(3, 1)} %1
          %3 = le %0 %2
          %4 = scaled_dot_product_attention %q %k %k %3
          return %4
        }
        """,
    )


def test_gradients_go_through_the_kernel_that_takes_no_mask() -> None:
    def loss(x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(5, 5, dtype=torch.bool).tril()
        return functional.scaled_dot_product_attention(x, x, x, mask).square().sum()

    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (want,) = torch.autograd.grad(loss(x), x)
    got = lt.compile(lt.grad(loss), wait=True)(x.detach())
    torch.testing.assert_close(got, want)


def test_a_mask_on_a_gpu_is_known_without_one() -> None:
    on = 'device=device("cuda:0")'
    graph = parse(
        f"""graph(%q: f32[1, 2, 3, 4] on cuda:0) {{
          %0 = arange{{start=0, end=3, {on}}}
          %1 = reshape{{shape=(3, 1)}} %0
          %2 = ge %1 0
          %3 = expand{{shape=(3, 3)}} %2
          %4 = scaled_dot_product_attention %q %q %q %3
          return %4
        }}"""
    )
    (attention,) = verify(known_masks(graph), after="known_masks").outputs
    assert len(attention.inputs) == 3
