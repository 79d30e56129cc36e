"""Samples of forms that keep what derivatives need, and of derivatives by torch's kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from samples import Sample

from lazytorch.ops.attention_backward import AttentionBackward, AttentionSaving
from lazytorch.ops.attention_random import RandomAttentionBackward, RandomAttentionSaving
from lazytorch.ops.batch_norm import BatchNormBackward, BatchNormSaving
from lazytorch.ops.pool import MaxPoolOffsets


def kept_norm(op: BatchNormSaving) -> Callable[..., Any]:
    """torch's batch norm with the statistics it saves."""

    def reference(x: torch.Tensor, *xs: torch.Tensor) -> Any:
        weight, bias, mean, var, _ = op.given(xs)
        stats = (mean.clone(), var.clone()) if op.stats else ()
        y, *saved = torch.native_batch_norm(
            x, weight, bias, *(stats or (None, None)), True, op.momentum, op.eps
        )
        return (y, *stats, *saved)

    return reference


def norms() -> list[Sample]:
    """Every layout and mix of dtypes, with and without parameters."""
    found: list[Sample] = []
    for dtype, other in (
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ):
        for last in (False, True):
            x = torch.randn(2, 3, 4, 5).to(dtype)
            x = x.contiguous(memory_format=torch.channels_last) if last else x
            g = torch.randn_like(x)
            weight, bias = torch.randn(3).to(other), torch.randn(3).to(other)
            mean, var = torch.randn(3).to(other), torch.rand(3).to(other)
            for op, given in (
                (BatchNormSaving(0.1, 1e-5), (weight, bias, mean, var)),
                (BatchNormSaving(0.1, 1e-5, False, False, False), ()),
            ):
                found.append(Sample(op, (x, *given), kept_norm(op), imported=False))
                saved = op.run(x, *given)[-2:]
                back = BatchNormBackward(1e-5, op.weight)
                operands = (g, x, *given[: int(op.weight)], *saved)
                found.append(Sample(back, operands, back.run, imported=False))
    return found


def offset_of(op: MaxPoolOffsets) -> Callable[..., Any]:
    """Which element of each window is the largest, found window by window as torch compares them:
    row by row, a NaN or what is larger takes its place."""

    def reference(x: torch.Tensor) -> torch.Tensor:
        found = torch.empty_like(op.run(x))
        for place in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
            best, at = None, -1
            for k, (i, j) in enumerate(torch.cartesian_prod(*map(torch.arange, op.kernel))):
                row = place[-2] * op.stride[0] - op.padding[0] + int(i) * op.dilation[0]
                column = place[-1] * op.stride[1] - op.padding[1] + int(j) * op.dilation[1]
                if 0 <= row < x.shape[-2] and 0 <= column < x.shape[-1]:
                    value = float(x[(*place[:-2], row, column)])
                    if best is None or value > best or value != value:
                        best, at = value, k
            found[tuple(place)] = at
        return found

    return reference


def pools() -> list[Sample]:
    """Padding, gaps and windows that hang over; equal elements, NaN and images of -inf."""
    found: list[Sample] = []
    for op in (
        MaxPoolOffsets((3, 3), (2, 2), (1, 1), (1, 1)),
        MaxPoolOffsets((2, 3), (1, 2), (1, 0), (2, 1)),
        MaxPoolOffsets((3, 2), (2, 2), (0, 0), (1, 1), True),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(2, 3, 7, 8).mul(2).round().to(dtype)
            x[0, 0], x[1, 1, 3, 3], x[1, 1, 3, 4] = -torch.inf, torch.nan, torch.nan
            for image in (x, x.contiguous(memory_format=torch.channels_last), x[0]):
                found.append(Sample(op, (image,), offset_of(op), imported=False))
    return found


def attentions() -> list[Sample]:
    """With and without masks, as the model's layouts have it."""
    found: list[Sample] = []
    for causal, mask in ((False, None), (True, None), (False, torch.randn(2, 1, 6, 6))):
        for inside in (False, True):
            shape = (2, 6, 4, 8) if inside else (2, 4, 6, 8)
            q, k, v, g = (torch.randn(shape) for _ in range(4))
            operands = [x.transpose(1, 2) if inside else x for x in (q, k, v, g)]
            q, k, v, g = operands
            rest = () if mask is None else (mask,)
            op = AttentionSaving("cpu", causal, 0.3)
            found.append(Sample(op, (q, k, v, *rest), plain(op), imported=False))
            out, sums = op.run(q, k, v, *rest)
            back = AttentionBackward("cpu", causal, 0.3)
            found.append(Sample(back, (g, q, k, v, out, sums, *rest), back.run, imported=False))
    return found


def plain(op: AttentionSaving) -> Callable[..., Any]:
    """torch's own call."""

    def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *mask: torch.Tensor) -> Any:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, op.is_causal, attn_mask=mask[0] if mask else None, scale=op.scale
        )

    return reference


def dropping() -> list[Sample]:
    """Attention that drops weights, written out: a GPU has kernels for it."""
    found: list[Sample] = []
    for causal, mask in ((False, None), (True, None), (False, torch.randn(2, 4, 6, 6))):
        q, k, v, g = (torch.randn(2, 4, 6, 8) for _ in range(4))
        rest = () if mask is None else (mask,)
        op = RandomAttentionSaving("cpu", 0.4, causal, 0.3)
        found.append(Sample(op, (q, k, v, *rest), op.run, imported=False))
        saved = op.run(q, k, v, *rest)
        back = RandomAttentionBackward("cpu", 0.4, causal, 0.3, mask is not None)
        found.append(Sample(back, (g, q, k, v, *saved, *rest), back.run, imported=False))
    return found


SAMPLES = [*norms(), *pools(), *attentions(), *dropping()]
