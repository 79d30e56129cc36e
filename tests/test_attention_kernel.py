"""The generated kernel for short attention: against float64, and where torch's own stays."""

from __future__ import annotations

import math
import os

import pytest
import torch
from kernel_cases import type_of

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported
pytest.importorskip("triton")

from lazytorch.errors import UnsupportedError
from lazytorch.lower.cpp import CppTarget
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton.binary import interpreting
from lazytorch.ops.attention import ScaledDotProductAttention as Attention

DEVICE = "cpu" if interpreting() else "cuda"
HALVES = (torch.float16, torch.bfloat16)


def tensor(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).to(
        DEVICE, dtype
    )


def check(op: Attention, *operands: torch.Tensor) -> None:
    target, types = TritonTarget(), tuple(map(type_of, operands))
    kernel = target.prepare(op, types)
    target.build([kernel])
    found = target.launcher(kernel, op, types)(*operands)
    assert isinstance(found, torch.Tensor) and type_of(found) == op.infer(*types)
    wide = [x.double() if x.is_floating_point() else x for x in operands]
    exact = op.run(*[x.cpu() for x in wide]).to(DEVICE)
    eager = op.run(*operands)
    error, theirs = [(x.double() - exact).square().mean().sqrt().item() for x in (found, eager)]
    assert error <= max(3 * theirs, 1e-3 if found.dtype is torch.float16 else 8e-3)
    assert not found.isnan().any()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("length", "keys", "size"), [(128, 128, 64), (1, 77, 32), (65, 130, 16), (197, 197, 64)]
)
def test_lengths(length: int, keys: int, size: int, dtype: torch.dtype) -> None:
    q = tensor(2, 3, length, size, dtype=dtype)
    check(
        Attention(), q, tensor(2, 3, keys, size, dtype=dtype), tensor(2, 3, keys, size, dtype=dtype)
    )


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_operands_lie_as_they_were_made(dtype: torch.dtype) -> None:
    joined = tensor(2, 70, 3, 4, 32, dtype=dtype)
    q, k, v = joined.permute(2, 0, 3, 1, 4)
    check(Attention(scale=0.3), q, k, v)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.bool], ids=str)
@pytest.mark.parametrize("shape", [(2, 1, 40, 90), (40, 90), (2, 3, 1, 90)], ids=str)
def test_masks(shape: tuple[int, ...], kind: torch.dtype) -> None:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    mask = drawn > 0.3 if kind is torch.bool else drawn.masked_fill(drawn < 0.3, -math.inf).to(kind)
    dtype = torch.bfloat16 if kind is torch.bfloat16 else torch.float16
    q, k = (tensor(2, 3, n, 32, dtype=dtype) for n in (40, 90))
    check(Attention(), q, k, k * 0.5, mask)


def test_causal_and_grouped_heads() -> None:
    k = tensor(2, 2, 100, 64)
    check(Attention(is_causal=True), tensor(2, 2, 100, 64), k, k * 0.5)
    check(Attention(enable_gqa=True), tensor(2, 6, 33, 64), k, k * 0.5)


def test_a_query_without_keys_gives_zeros() -> None:
    mask = torch.ones(20, 20, dtype=torch.bool, device=DEVICE)
    mask[3] = False
    q = tensor(1, 1, 20, 16)
    target, types = TritonTarget(), tuple(map(type_of, (q, q, q, mask)))
    kernel = target.prepare(Attention(), types)
    target.build([kernel])
    found = target.launcher(kernel, Attention(), types)(q, q, q, mask)
    assert isinstance(found, torch.Tensor)
    assert not found[0, 0, 3].any() and found.isfinite().all()


@pytest.mark.parametrize(
    ("op", "shape", "dtype"),
    [
        (Attention(), (1, 1, 20, 16), torch.float32),
        (Attention(), (1, 1, 20, 24), torch.float16),
        (Attention(), (1, 1, 600, 16), torch.float16),
        (Attention(), (1, 20, 16), torch.float16),
        (Attention(dropout_p=0.5), (1, 1, 20, 16), torch.float16),
        (Attention(kernels=("MATH",)), (1, 1, 20, 16), torch.float16),
    ],
    ids=["float32", "size", "long", "rank", "dropout", "backends"],
)
def test_declines(op: Attention, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    types = (type_of(tensor(*shape, dtype=dtype)),) * 3
    with pytest.raises(UnsupportedError):
        TritonTarget().prepare(op, types)
    for target in (CppTarget(), TritonTarget(rounding=True)):
        with pytest.raises(UnsupportedError):
            target.prepare(Attention(), (type_of(tensor(1, 1, 20, 16)),) * 3)
