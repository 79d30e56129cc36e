"""Masks of attention whose rows are of odd lengths: a derivative holds no scores then either."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.ops.attention_backward import (
    MASK_ALIGNMENT,
    AttentionSaving,
    as_query,
    heads_inside,
    spread,
)
from lazytorch.types import TensorType, tensor_type

BATCH, HEADS, LENGTH, SIZE = 3, 2, 37, 16


class Attention(nn.Module):
    """Attention from a mask that is an argument, or from one that lets everything through."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(HEADS * SIZE, 3 * HEADS * SIZE)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        length = x.shape[1]
        q, k, v = self.inner(x).view(-1, length, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        if mask is None:
            there = torch.arange(length, device=x.device)[:, None] >= 0
            mask = there.expand(x.shape[0], 1, length, length)
        return functional.scaled_dot_product_attention(q, k, v, mask).square().mean()


@pytest.mark.parametrize("masked", [True, False], ids=["a mask", "a mask that hides nothing"])
def test_a_training_step_on_a_gpu_holds_no_scores(masked: bool) -> None:
    x = torch.empty(BATCH, LENGTH, HEADS * SIZE, device="meta")
    mask = torch.empty(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool, device="meta")
    with torch.device("meta"):
        model = Attention()
    example = (x, mask) if masked else (x,)
    planned = lt.plan(model, example, device="h200", optimizer=torch.optim.AdamW)
    made = [b.operation for b in planned.timeline.blocks]
    assert {"attention_saving", "attention_backward"}.issubset(made)
    scores = BATCH * HEADS * LENGTH * LENGTH * x.element_size()
    assert all(b.nbytes != scores for b in planned.timeline.blocks)


@pytest.mark.parametrize(
    "mask",
    [
        torch.randn(BATCH, 1, LENGTH, 40),
        torch.randn(LENGTH, 37),
        torch.randn(BATCH, 1, 1, LENGTH),
        torch.randn(BATCH, 1, LENGTH, LENGTH).transpose(2, 3),
        torch.randn(BATCH, 1, LENGTH, 1),
        torch.randn(BATCH, HEADS, LENGTH, 40)[..., :LENGTH],
    ],
    ids=["even", "square", "row", "transposed", "column", "cut"],
)
def test_rows_begin_where_the_kernel_reads(mask: torch.Tensor) -> None:
    keys = 40 if mask.shape[-1] == 40 and mask.stride(-1) == 1 else LENGTH
    query, key = (torch.randn(BATCH, HEADS, n, SIZE) for n in (LENGTH, keys))
    found = spread(mask, query, key)
    assert found is not None and found.stride(-1) == 1
    assert all(step % MASK_ALIGNMENT == 0 for step in found.stride()[:-1])
    torch.testing.assert_close(found, mask.expand(found.shape), rtol=0, atol=0)


@pytest.mark.parametrize("inside", [True, False], ids=["heads inside", "heads outside"])
def test_the_derivative_finds_attention_where_its_kernel_reads(inside: bool) -> None:
    shape = (BATCH, HEADS, LENGTH, SIZE)
    x = tensor_type(shape, torch.bfloat16, torch.device("cuda", 0))
    x = x.with_strides(heads_inside(x)) if inside else x
    kept = AttentionSaving("efficient").infer(x, x, x).items[0]
    assert isinstance(kept, TensorType) and kept.strides == heads_inside(x)


def hiding(dtype: torch.dtype) -> torch.Tensor:
    """A mask whose second row lets nothing through."""
    mask = torch.zeros(4, 4, dtype=dtype)
    mask[1] = -math.inf
    return mask == 0 if dtype is torch.bool else mask


def attention(*xs: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(*xs).square().sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_nothing_flows_to_a_row_of_a_mask_that_lets_nothing_through(dtype: torch.dtype) -> None:
    xs = [torch.randn(1, 2, 4, 8, dtype=dtype) for _ in range(3)]
    mask = hiding(dtype)
    got = lt.grad(attention, 3)(*xs, mask)
    leaf = mask.clone().requires_grad_()
    (want,) = torch.autograd.grad(attention(*xs, leaf), leaf)
    near = 1e-2 if dtype is torch.float16 else 1e-5
    torch.testing.assert_close(got, want, rtol=near, atol=near)
    assert not got[1].any()


@pytest.mark.parametrize("kind", [torch.bool, torch.float64], ids=["conditions", "numbers"])
def test_second_derivatives_of_a_hidden_row_are_numbers(kind: torch.dtype) -> None:
    xs = [torch.randn(1, 2, 4, 8, dtype=torch.float64) for _ in range(3)]
    mask = hiding(torch.float64) == 0 if kind is torch.bool else hiding(kind)

    def size(*given: torch.Tensor) -> torch.Tensor:
        return sum(g.square().sum() for g in lt.grad(attention, (0, 1, 2))(*given, mask))

    got = lt.grad(size, (0, 1, 2))(*xs)
    leaves = [x.clone().requires_grad_() for x in xs]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        first = torch.autograd.grad(attention(*leaves, mask), leaves, create_graph=True)
        want = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    torch.testing.assert_close(list(got), list(want))


def test_attention_without_heads_has_a_gradient() -> None:
    x = torch.randn(2, 0, 6, 8)
    assert lt.grad(lambda q: functional.scaled_dot_product_attention(q, q, q).sum())(x).shape == (
        2, 0, 6, 8,
    )  # fmt: skip


def test_cotangents_lie_as_the_query_for_cudnn() -> None:
    shape = (BATCH, HEADS, LENGTH, SIZE)
    query = torch.randn(BATCH, LENGTH, HEADS, SIZE).transpose(1, 2)
    wide = torch.randn(BATCH, LENGTH, 3 * HEADS * SIZE)[..., : HEADS * SIZE]
    for g in (
        torch.randn(shape),
        torch.randn(1, HEADS, LENGTH, SIZE).expand(shape),
        wide.unflatten(2, (HEADS, SIZE)).transpose(1, 2),
    ):
        (moved, same, _), out = as_query((g, query, query), torch.randn(shape))
        assert same is query and moved.stride() == out.stride() == query.stride()
        assert torch.equal(moved, g)
    assert as_query((query, query), query)[0][0] is query


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(BATCH, 1, LENGTH, LENGTH), (LENGTH, LENGTH)], ids=str)
@pytest.mark.parametrize("boolean", [True, False], ids=["conditions", "numbers"])
def test_gradients_on_a_gpu(dtype: torch.dtype, shape: tuple[int, ...], boolean: bool) -> None:
    drawn = torch.rand(shape, device="cuda")
    mask = drawn > 0.3 if boolean else drawn.masked_fill(drawn < 0.3, -math.inf).to(dtype)
    given = [torch.randn(BATCH, HEADS, LENGTH, SIZE, device="cuda", dtype=dtype) for _ in range(3)]

    def loss(*xs: torch.Tensor) -> torch.Tensor:
        y = functional.scaled_dot_product_attention(*xs, mask)
        return y.float().square().sum()

    got = lt.compile(lt.grad(loss, (0, 1, 2)), wait=True)(*given)
    leaves = [x.detach().requires_grad_() for x in given]
    want = torch.autograd.grad(loss(*leaves), leaves)
    near = 1e-4 if dtype is torch.float32 else 5e-2
    torch.testing.assert_close(list(got), list(want), rtol=near, atol=near)


def test_queries_that_see_nothing_have_no_attention_and_no_gradient() -> None:
    """A bias that wants a derivative takes attention apart, down to a softmax of hidden rows."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4) for _ in range(3))
    bias = torch.randn(2, 3, 5, 5)
    bias[1, :, 2] = -torch.inf
    bias[0, 1, :, 3] = -torch.inf

    def attend(bias: torch.Tensor) -> torch.Tensor:
        weights = torch.ops.aten._safe_softmax(query @ key.mT / 2 + bias, -1)
        return weights @ value

    def gradient(run: Any) -> tuple[torch.Tensor, torch.Tensor]:
        given = bias.clone().requires_grad_()
        out = run(given)
        out.square().sum().backward()
        assert given.grad is not None
        return out.detach(), given.grad

    ours, theirs = gradient(lt.compile(attend, wait=True)), gradient(attend)
    torch.testing.assert_close(ours, theirs)
    assert not ours[0][1, :, 2].any() and not ours[1][1, :, 2].any()
