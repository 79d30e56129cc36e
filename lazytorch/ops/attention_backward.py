"""Attention that keeps what its derivative needs, and the derivative, by torch's fused kernels.

Both hold no scores in memory. The kernel is chosen from the operands' types when the derivative is
recorded, so a machine without a GPU records what a GPU will run.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch.nn.functional import pad

from lazytorch.ir import Op
from lazytorch.ops.copies import relaid
from lazytorch.types import Strides, TensorType, TupleType, tensor_type

Kernel = Literal["cpu", "flash", "efficient", "cudnn"]
LOG_SUM_BLOCK = 32
"""The efficient kernel rounds the number of its logarithms of sums up to multiples of this."""

MASK_ALIGNMENT = 8
"""Elements: rows of the masks that the efficient kernel reads begin at multiples of this."""

WIDE = ((8, 0), (9, 0), (10, 0))
"""Compute capabilities with room for the flash kernel's derivative of heads above 192."""

GROUPING = ("cpu", "flash", "cudnn")
"""The kernels that let groups of query heads share a head of key and value; on a GPU their
derivatives do, too."""


def kernel_for(
    query: TensorType, key: TensorType, mask: TensorType | None, causal: bool
) -> Kernel | None:
    """The kernel for operands that `ScaledDotProductAttention.fused` takes; None where torch writes
    the scores out."""
    kernel = kernel_for_each(query, key, mask, causal)
    return kernel if query.shape[1] == key.shape[1] or kernel in GROUPING else None


def kernel_for_each(
    query: TensorType, key: TensorType, mask: TensorType | None, causal: bool
) -> Kernel | None:
    """The kernel where each query head has a head of key and value.

    Source: ATen/native/transformers/cuda/sdp_utils.cpp.
    """
    if query.device.type == "cpu":
        return "cpu"
    half = query.dtype in (torch.float16, torch.bfloat16)
    aligned = 8 if half else 4
    square = not causal or query.shape[2] == key.shape[2]
    if query.device.type != "cuda" or not square or query.shape[3] % aligned:
        return None
    if half and mask is None and flashes(query):
        return "flash"
    fits = mask is None or mask.dtype in (query.dtype, torch.bool)
    return "efficient" if fits and query.dtype is not torch.float64 else None


def flashes(query: TensorType) -> bool:
    """Whether the flash kernel and its derivative run on the GPU; of one that is not here that is
    assumed. Source: ATen/native/transformers/cuda/sdp_utils.cpp."""
    size = query.shape[3]
    if size > 256 or not torch.cuda.is_available():
        return size <= 256
    capability = torch.cuda.get_device_capability(query.device)
    return capability >= (8, 0) and (size <= 192 or capability in WIDE)


def heads_inside(x: TensorType) -> Strides:
    """Strides of (B, H, L, E) that lies in memory as (B, L, H, E), as the kernels write it."""
    _, heads, length, size = x.shape
    return (length * heads * size, size, heads * size, 1)


def numbers(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    """What is added to the scores."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -math.inf)


def placed(x: torch.Tensor, strides: Strides) -> torch.Tensor:
    """`x` with these strides, itself if it has them."""
    return x if tuple(x.stride()) == strides else relaid(x, strides)


class AttentionSaving(Op):
    """(attention, logarithms of the sums of its exponentials); a fourth operand is the mask. Groups
    of query heads may share a head of key and value (`GROUPING`).

    The efficient kernel's derivative assumes that attention lies with its heads inside, whatever
    its strides say. Source: ATen/native/transformers/cuda/mem_eff_attention/kernel_backward.h.
    """

    kernel: Kernel
    is_causal: bool = False
    scale: float | None = None

    def infer(
        self, query: TensorType, key: TensorType, value: TensorType, *mask: TensorType
    ) -> TupleType:
        batch, heads, length, _ = query.shape
        out = query.dense()
        if self.kernel == "efficient":
            out = out.with_strides(heads_inside(out))
            length = -(-length // LOG_SUM_BLOCK) * LOG_SUM_BLOCK
        wide = torch.promote_types(query.dtype, torch.float32)
        sums = tensor_type((batch, heads, length), wide, query.device)
        if self.kernel == "cpu":
            sums = sums.with_strides((length * heads, 1, heads))
        return TupleType((out, sums))

    def run(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        aten = torch.ops.aten
        bias = numbers(mask, query)
        operands = (query, key, value)
        if self.kernel == "cpu":
            found = aten._scaled_dot_product_flash_attention_for_cpu(
                *operands, 0.0, self.is_causal, attn_mask=bias, scale=self.scale
            )
        elif self.kernel == "flash":
            found = aten._scaled_dot_product_flash_attention(
                *operands, 0.0, self.is_causal, False, scale=self.scale
            )
        elif self.kernel == "cudnn":
            found = aten._scaled_dot_product_cudnn_attention(
                *operands, None, True, 0.0, self.is_causal, False, scale=self.scale
            )
            found = (found[0], found[1].reshape(query.shape[:3]))
        else:
            found = aten._scaled_dot_product_efficient_attention(
                *operands, spread(bias, query, key), True, 0.0, self.is_causal, scale=self.scale
            )
        types = self.infer(*[typed(x) for x in operands]).items
        out, sums = [t for t in types if isinstance(t, TensorType)]
        return placed(found[0], out.strides), placed(found[1], sums.strides)


class AttentionBackward(Op):
    """The cotangents of query, key and value.

    Operands: the cotangent of the result, query, key, value, what `AttentionSaving` gave, and the
    mask where there is one. `written` computes it from scores in memory, which torch can
    differentiate once more.
    """

    kernel: Kernel
    is_causal: bool = False
    scale: float | None = None
    written: bool = False

    def infer(self, g: TensorType, *xs: TensorType) -> TupleType:
        return TupleType(tuple([x.with_strides(heads_inside(x)) for x in xs[:3]]))

    def recordable(self) -> Op:
        return self.with_attributes(written=True)

    def run(self, g: torch.Tensor, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, out, sums, *mask = xs
        bias = numbers(mask[0] if mask else None, query)
        operands = (query, key, value)
        if self.written:
            key, value = [repeated(x, query.shape[1]) for x in (key, value)]
            found = from_scores(g, query, key, value, bias, self.is_causal, self.scale)[:3]
            return tuple([summed(x, y.shape[1]) for x, y in zip(found, operands, strict=True)])
        aten = torch.ops.aten
        g = g if g.stride(-1) == 1 else g.contiguous()
        if self.kernel == "cpu":
            found = aten._scaled_dot_product_flash_attention_for_cpu_backward(
                g, *operands, out, sums, 0.0, self.is_causal, attn_mask=bias, scale=self.scale
            )
        else:
            # What random numbers would have been drawn from: without dropout nothing reads it.
            draws = [torch.zeros((), dtype=torch.int64, device=g.device) for _ in range(2)]
            found = self.on_gpu(aten, (g, *operands), bias, out, sums, draws)
        return tuple(
            [placed(x, heads_inside(typed(y))) for x, y in zip(found, operands, strict=False)]
        )

    def on_gpu(
        self,
        aten: Any,
        operands: tuple[torch.Tensor, ...],
        bias: torch.Tensor | None,
        out: torch.Tensor,
        sums: torch.Tensor,
        draws: list[torch.Tensor],
    ) -> Any:
        """The cotangents by a kernel of CUDA's."""
        _, query, key, _ = operands
        if self.kernel == "flash":
            lengths = (query.shape[2], key.shape[2])
            return aten._scaled_dot_product_flash_attention_backward(
                *operands, out, sums, None, None, *lengths, 0.0, self.is_causal, *draws,
                scale=self.scale,
            )  # fmt: skip
        if self.kernel == "cudnn":
            lengths = (query.shape[2], key.shape[2])
            operands, out = as_query(operands, out)
            return aten._scaled_dot_product_cudnn_attention_backward(
                *operands, out, sums.unsqueeze(-1), *draws, None, None, None, *lengths, 0.0,
                self.is_causal, scale=self.scale,
            )  # fmt: skip
        out = placed(out, heads_inside(typed(out)))
        return aten._scaled_dot_product_efficient_attention_backward(
            *operands, spread(bias, query, key), out, sums, *draws, 0.0,
            [True, True, True, False], self.is_causal, scale=self.scale,
        )[:3]  # fmt: skip


def as_query(
    operands: tuple[torch.Tensor, ...], out: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """The operands and the result of cuDNN's attention with cotangent and result lying as the query
    does: torch keeps a plan for the strides of query, key and value, and runs it whatever the
    others' are. Source: ATen/native/cudnn/MHA.cpp."""
    g, query, *others = operands
    strides = typed(query).dense().strides

    def alike(x: torch.Tensor) -> torch.Tensor:
        own = zip(x.shape, x.stride(), strides, strict=True)  # a size of 1 has no step to take
        return placed(x, tuple([step if size == 1 else wanted for size, step, wanted in own]))

    return (alike(g), query, *others), alike(out)


def repeated(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Heads of (B, H, L, E), repeated one by one until there are so many."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def summed(x: torch.Tensor, heads: int) -> torch.Tensor:
    """The sums of what belongs to each of the heads that were repeated."""
    return x if x.shape[1] == heads else x.unflatten(1, (heads, -1)).sum(2)


def scores(
    query: torch.Tensor,
    key: torch.Tensor,
    bias: torch.Tensor | None,
    causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """What the softmax is taken of."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    found = torch.matmul(query * scale, key.transpose(-2, -1))
    found = found if bias is None else found + bias
    if causal:
        allowed = torch.ones(found.shape[-2:], dtype=torch.bool, device=query.device).tril()
        found = found.masked_fill(~allowed, -math.inf)
    return found


def softmax(scores: torch.Tensor, masked: bool) -> torch.Tensor:
    """The softmax of rows, 0 where a row lets nothing through; also in its derivatives."""
    if not masked:
        return scores.softmax(-1)
    hidden = (scores == -math.inf).all(-1, keepdim=True)
    return scores.masked_fill(hidden, 0.0).softmax(-1).masked_fill(hidden, 0.0)


def from_scores(
    g: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    causal: bool,
    scale: float | None,
    kept: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """The cotangents of query, key, value and scores with every score in memory; `kept` is what
    the weights are multiplied by."""
    weights = softmax(scores(query, key, bias, causal, scale), bias is not None)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    by_weights = torch.matmul(g, value.transpose(-2, -1))
    by_weights = by_weights if kept is None else by_weights * kept
    by_scores = weights * (by_weights - (by_weights * weights).sum(-1, keepdim=True))
    weights = weights if kept is None else weights * kept
    return (
        torch.matmul(by_scores, key) * scale,
        torch.matmul(by_scores.transpose(-2, -1), query) * scale,
        torch.matmul(weights.transpose(-2, -1), g),
        by_scores,
    )


def spread(
    bias: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor
) -> torch.Tensor | None:
    """A mask in the shape of the scores, as the efficient kernel wants it: rows in one piece that
    begin at multiples of `MASK_ALIGNMENT`. Source: ATen/native/transformers/attention.cpp."""
    if bias is None:
        return None
    length = key.shape[2]
    bias = bias.expand(*bias.shape[:-1], length)
    if bias.stride(-1) != 1 or any(step % MASK_ALIGNMENT for step in bias.stride()[:-1]):
        bias = pad(bias, (0, MASK_ALIGNMENT - length % MASK_ALIGNMENT))[..., :length]
    return bias.expand(*query.shape[:3], length)


def typed(x: torch.Tensor) -> TensorType:
    """A tensor's type."""
    return tensor_type(tuple(x.shape), x.dtype, x.device, tuple(x.stride()))
