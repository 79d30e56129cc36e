"""Attention that drops weights: on the CPU torch writes the scores out, and so is it recorded."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

import lazytorch as lt
from lazytorch.ops.attention import RandomScaledDotProductAttention
from lazytorch.report import Report

Q, K = (2, 3, 5, 8), (2, 3, 7, 8)

CASES: dict[str, Callable[[torch.dtype], tuple[list[torch.Tensor], dict[str, Any]]]] = {
    "plain": lambda t: ([rand(Q, t), rand(K, t), rand(K, t)], {}),
    "strided": lambda t: (
        [rand((2, 5, 3, 8), t).transpose(1, 2), rand(K, t), rand((2, 3, 8, 7), t).mT],
        {},
    ),
    "causal": lambda t: ([rand(Q, t), rand(K, t), rand(K, t)], {"is_causal": True, "scale": 0.3}),
    "added mask": lambda t: ([rand(Q, t), rand(K, t), rand(K, t), rand((5, 7), t)], {}),
    "true mask": lambda t: ([rand(Q, t), rand(K, t), rand(K, t), torch.ones(5, 7).tril() > 0], {}),
    "row without keys": lambda t: (
        [rand(Q, t), rand(K, t), rand(K, t), torch.ones(5, 7).tril(-1) > 0],
        {},
    ),
    "groups": lambda t: (
        [rand((2, 4, 5, 8), t), rand((2, 2, 7, 8), t), rand((2, 2, 7, 8), t)],
        {"enable_gqa": True},
    ),
    "three dimensions": lambda t: (
        [rand((2, 5, 8), t), rand((2, 7, 8), t), rand((2, 7, 4), t)],
        {},
    ),
}


def rand(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", list(CASES))
def test_the_same_weights_are_dropped_and_the_derivative_knows_them(
    name: str, dtype: torch.dtype
) -> None:
    Report.events.clear()
    torch.manual_seed(0)
    operands, settings = CASES[name](dtype)

    def attention(*xs: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(*xs, dropout_p=0.4, **settings)

    fast = lt.compile(attention, wait=True)
    near = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    for i in range(2):
        found: list[Any] = []
        for f in (fast, attention):
            leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in operands]
            torch.manual_seed(i)
            y = f(*leaves)
            y.float().square().sum().backward()
            found.append([y.detach(), *[x.grad for x in leaves]])
        torch.testing.assert_close(found[0], found[1], rtol=near, atol=near)
    assert [e for e in Report.events if e.kind == "backward"] == []


def test_nothing_is_written_out_without_dropout_or_off_the_cpu() -> None:
    q = torch.randn(Q)
    plain = lt.trace(functional.scaled_dot_product_attention, q, q, q)
    assert "= scaled_dot_product_attention" in str(plain)
    dropped = lt.trace(lambda x: functional.scaled_dot_product_attention(x, x, x, None, 0.4), q)
    assert "scaled_dot_product_attention" not in str(dropped)
    assert "bernoulli" in str(dropped)
    meta = torch.empty(Q, device="meta")
    kept = lt.trace(lambda x: functional.scaled_dot_product_attention(x, x, x, None, 0.4), meta)
    assert any(isinstance(n.op, RandomScaledDotProductAttention) for n in kept.nodes)
