"""Attention that drops weights and keeps what its derivative needs, by torch's kernels on a GPU.

The backward kernel draws the same numbers again, from the state of the generator that the forward
kernel leaves: `seed` and `offset`. One operation therefore is drawn from and differentiated, where
attention without dropout may be computed first and its saving form taken later.

Elsewhere than on a GPU it is written out, and the seed is that of a generator of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Item, Op
from lazytorch.ops.attention_backward import (
    AttentionSaving,
    Kernel,
    as_query,
    from_scores,
    heads_inside,
    numbers,
    placed,
    scores,
    softmax,
    spread,
    typed,
)
from lazytorch.ops.reduction import tensor
from lazytorch.types import TensorType, TupleType, tensor_type

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents


class RandomAttentionSaving(Op):
    """(attention, logarithms of sums of exponentials, seed, offset); a fourth operand is added to
    the scores."""

    effect: ClassVar[bool] = True
    kernel: Kernel
    dropout_p: float
    is_causal: bool = False
    scale: float | None = None

    def infer(
        self, query: TensorType, key: TensorType, value: TensorType, *mask: TensorType
    ) -> TupleType:
        _, sums = AttentionSaving(self.kernel).infer(query, key, value).items
        out = query.dense()
        if self.kernel == "efficient":
            out = query.with_shape((*query.shape[:3], value.shape[3]))
            out = out.with_strides(heads_inside(out))
        kind, count = (torch.uint64, (2,)) if self.kernel == "flash" else (torch.int64, ())
        seed, offset = (tensor_type(shape, kind, query.device) for shape in (count, ()))
        return TupleType((out, sums, seed, offset))

    def run(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        operands = (query, key, value)
        bias = spread(numbers(mask, query), query, key)
        aten, named = torch.ops.aten, {"scale": self.scale}
        if not query.is_cuda:
            found = self.written(*operands, bias)
        elif self.kernel == "flash":
            every = aten._scaled_dot_product_flash_attention(
                *operands, self.dropout_p, self.is_causal, False, **named
            )
            found = (every[0], every[1], every[6], every[7])
        elif self.kernel == "cudnn":
            every = aten._scaled_dot_product_cudnn_attention(
                *operands, bias, True, self.dropout_p, self.is_causal, False, **named
            )
            found = (every[0], every[1].reshape(query.shape[:3]), every[6], every[7])
        else:
            found = aten._scaled_dot_product_efficient_attention(
                *operands, bias, True, self.dropout_p, self.is_causal, **named
            )
        types = self.infer(*[typed(x) for x in operands]).items[:2]
        strides = [t.strides for t in types if isinstance(t, TensorType)]
        out, sums = (placed(x, y) for x, y in zip(found[:2], strides, strict=True))
        return out, sums, *found[2:]

    def written(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        """The same with every score in memory."""
        found = scores(query, key, bias, self.is_causal, self.scale)
        seed = torch.randint(1 << 62, ())
        weights = softmax(found, bias is not None)
        out = torch.matmul(weights * kept(seed, found, self.dropout_p), value)
        wide = torch.promote_types(query.dtype, torch.float32)
        sums = found.logsumexp(-1).to(wide)
        return out, sums, seed, torch.zeros((), dtype=torch.int64)

    def vjp(self, s: Calculus, g: Sequence[Node | None], out: Node, *xs: Node) -> Cotangents:
        if g[0] is None:
            return [None] * len(xs)
        back = RandomAttentionBackward(self.kernel, self.dropout_p, self.is_causal, self.scale)
        saved = [s(Item(i), out) for i in range(4)]
        operands = (g[0], *xs[:3], *saved, *xs[3:])
        pulled = s(back, *operands)
        found = [s(Item(i), pulled) for i in range(3)]
        # Scores in memory: by an operation of its own, which nobody runs for a mask that is fixed.
        masks = [s(Item(3), s(back.with_attributes(by_mask=True), *operands)) for _ in xs[3:]]
        return [*found, *masks]


class RandomAttentionBackward(Op):
    """The cotangents of query, key and value, and with `by_mask` of what is added to the scores.

    Operands: the cotangent of the result, query, key, value, what `RandomAttentionSaving` gave, and
    the mask where there is one.
    """

    kernel: Kernel
    dropout_p: float
    is_causal: bool = False
    scale: float | None = None
    by_mask: bool = False

    def infer(self, g: TensorType, *xs: TensorType) -> TupleType:
        query, key = xs[:2]
        found = [x.with_strides(heads_inside(x)) for x in xs[:3]]
        if self.by_mask:
            found.append(query.with_shape((*query.shape[:3], key.shape[2])))
        return TupleType(tuple(found))

    def run(self, g: torch.Tensor, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, out, sums, seed, offset, *mask = xs
        bias = spread(numbers(mask[0] if mask else None, query), query, key)
        g = g if g.stride(-1) == 1 else g.contiguous()
        if not query.is_cuda:
            size = (*query.shape[:3], key.shape[2])
            factor = kept(seed, query.new_empty(size), self.dropout_p)
            found = from_scores(g, query, key, value, bias, self.is_causal, self.scale, factor)
        else:
            found = self.on_gpu((g, query, key, value), bias, out, sums, (seed, offset))
        types = self.infer(*[typed(x) for x in (g, query, key, value)]).items
        wanted = [t.strides for t in types if isinstance(t, TensorType)]
        return tuple([placed(x, y) for x, y in zip(found, wanted, strict=False)])

    def on_gpu(
        self,
        operands: tuple[torch.Tensor, ...],
        bias: torch.Tensor | None,
        out: torch.Tensor,
        sums: torch.Tensor,
        drawn: tuple[torch.Tensor, ...],
    ) -> Any:
        """The cotangents by a kernel of CUDA's."""
        aten, named = torch.ops.aten, {"scale": self.scale}
        lengths = (operands[1].shape[2], operands[2].shape[2])
        more = (self.dropout_p, self.is_causal)
        if self.kernel == "flash":
            return aten._scaled_dot_product_flash_attention_backward(
                *operands, out, sums, None, None, *lengths, *more, *drawn, **named
            )
        if self.kernel == "cudnn":
            if self.by_mask:
                raise UnsupportedError("cuDNN's attention has no derivative by its mask")
            operands, out = as_query(operands, out)
            return aten._scaled_dot_product_cudnn_attention_backward(
                *operands, out, sums.unsqueeze(-1), *drawn, bias, None, None, *lengths, *more,
                **named,
            )  # fmt: skip
        out = placed(out, heads_inside(typed(out)))
        # This kernel's state is on the host, unless a graph is captured.
        place = "cuda" if torch.cuda.is_current_stream_capturing() else "cpu"
        return aten._scaled_dot_product_efficient_attention_backward(
            *operands, bias, out, sums, *[x.to(place) for x in drawn], self.dropout_p,
            [True, True, True, self.by_mask], self.is_causal, **named,
        )  # fmt: skip


def kept(seed: torch.Tensor, like: torch.Tensor, dropout_p: float) -> torch.Tensor:
    """What weights are multiplied by: zero for those that are dropped."""
    generator = torch.Generator().manual_seed(int(seed))
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64) >= dropout_p
    return drawn.to(like.dtype) / (1 - dropout_p)


def droppable(
    kernel: Kernel, query: Node, key: Node, value: Node, mask: Node | None = None
) -> bool:
    """Whether a call of a kernel with dropout can be recorded as `RandomAttentionSaving`."""
    fits = mask is None or tensor(mask).dtype in (tensor(query).dtype, torch.bool)
    if kernel == "efficient":
        return fits
    same = tensor(query).shape[3] == tensor(value).shape[3]
    return same and (mask is None if kernel == "flash" else fits)
