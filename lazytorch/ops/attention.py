"""Scaled dot product attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from lazytorch.errors import ShapeError
from lazytorch.ir import Item, Op
from lazytorch.ops.attention_backward import AttentionBackward, AttentionSaving, kernel_for
from lazytorch.ops.checks import check_alike, check_devices, optional
from lazytorch.ops.reduce import Amax, Softmax
from lazytorch.ops.reduction import tensor
from lazytorch.types import Shape, TensorType, broadcast, tensor_type

if TYPE_CHECKING:
    from lazytorch.ir import Node
    from lazytorch.ops.calculus import Calculus, Cotangents

BACKENDS = {
    "FLASH_ATTENTION": False,
    "CUDNN_ATTENTION": False,
    "EFFICIENT_ATTENTION": True,
}
"""Torch's backends on a GPU that hold no scores in memory, and whether one takes any mask and gives
zeros for a row of it that lets nothing through."""


class ScaledDotProductAttention(Op):
    """`softmax(query @ key.T * scale + mask) @ value`; a fourth operand is the mask.

    query is (..., L, E), key (..., S, E), value (..., S, Ev). `kernels` names the backends that
    were enabled when it was recorded; empty means torch's usual choice.
    """

    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False
    kernels: tuple[str, ...] = ()

    def infer(
        self,
        query: TensorType,
        key: TensorType,
        value: TensorType,
        mask: TensorType | None = None,
    ) -> TensorType:
        operands = {"query": query, "key": key, "value": value}
        if mask is not None:
            operands["mask"] = mask
        check_alike(self, query, key, value)
        check_devices(self, *operands.values())
        if min(query.rank, key.rank, value.rank) < 2:
            raise ShapeError(f"{self.name()}: expected at least 2 dimensions", operands)
        if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
            raise ShapeError(f"{self.name()}: sizes of query, key and value do not fit", operands)
        if mask is not None and self.is_causal:
            raise ShapeError(f"{self.name()}: a mask and is_causal exclude each other", operands)
        if self.enable_gqa:
            batch = query.shape[:-2]
        else:
            try:
                scores = broadcast([query.shape[:-2], key.shape[:-2]])
                if mask is not None:
                    whole = broadcast([(*scores, query.shape[-2], key.shape[-2]), mask.shape])
                    scores = whole[:-2]
                batch = broadcast([scores, value.shape[:-2]])
            except ValueError as error:
                raise ShapeError(f"{self.name()}: {error}", operands) from None
        shape = (*batch, query.shape[-2], value.shape[-1])
        typed = tensor_type(shape, query.dtype, query.device)
        return query.dense() if self.fused(query, key, value, mask) else typed

    def fused(
        self, query: TensorType, key: TensorType, value: TensorType, mask: TensorType | None
    ) -> bool:
        """Whether the flash kernel runs, whose result lies in memory as the query does.

        The conditions are those of the CPU: ATen/native/transformers/sdp_utils_cpp.cpp.
        """
        return (
            self.dropout_p == 0
            and not (self.kernels and "FLASH_ATTENTION" not in self.kernels)
            and query.rank == key.rank == value.rank == 4
            and query.dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
            and query.shape[0] == key.shape[0]
            and key.shape[:2] == value.shape[:2]
            and (query.shape[1] == key.shape[1] or self.grouped(query, key))
            and query.shape[-1] == key.shape[-1] == value.shape[-1]
            and query.shape[-2] > 0
            and key.shape[-2] > 0
            and query.strides[-1] == key.strides[-1] == value.strides[-1] == 1
            and (mask is None or self.mask_fits(query, key, mask))
        )

    def grouped(self, query: TensorType, key: TensorType) -> bool:
        """Whether groups of query heads share a head of key and value."""
        return self.enable_gqa and key.shape[1] > 0 and query.shape[1] % key.shape[1] == 0

    def mask_fits(self, query: TensorType, key: TensorType, mask: TensorType) -> bool:
        """Whether the fused kernel takes the mask."""
        if mask.rank not in (2, 4):
            return False
        whole = (*query.shape[:3], key.shape[2])[-mask.rank :]
        return all(size in (1, full) for size, full in zip(mask.shape, whole, strict=True))

    def alternatives(self, *xs: TensorType) -> Mapping[str, Op]:
        """The same by each backend alone, on a GPU; what a backend does not take, it refuses.

        With a mask only those that give zeros where a query may look at nothing.
        """
        if xs[0].device.type != "cuda" or len(self.kernels) == 1:
            return {}
        mask = len(xs) > 3
        return {
            name.lower(): self.with_attributes(kernels=(name,))
            for name, masked in BACKENDS.items()
            if (not self.kernels or name in self.kernels) and (masked or not mask)
        }

    def run(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        with self.allowed():
            return functional.scaled_dot_product_attention(
                query,
                key,
                value,
                mask,
                self.dropout_p,
                self.is_causal,
                scale=self.scale,
                enable_gqa=self.enable_gqa,
            )

    def allowed(self) -> AbstractContextManager[object]:
        """The recorded choice of backends, in force."""
        if not self.kernels:
            return nullcontext()
        backends = [getattr(SDPBackend, name) for name in self.kernels]
        return cast(AbstractContextManager[object], sdpa_kernel(backends))

    def keeping(self, *xs: TensorType) -> AttentionSaving | None:
        """What also keeps what the derivative needs; None where scores are held in memory."""
        query, key, value, mask = optional(xs, True, True, True, len(xs) > 3)
        if not self.fused(query, key, value, mask) or not query.numel or not key.numel:
            return None  # the kernels divide by the number of heads
        kernel = kernel_for(query, key, mask, self.is_causal)
        return None if kernel is None else AttentionSaving(kernel, self.is_causal, self.scale)

    def saving(self, *xs: TensorType) -> Op | None:
        return self.keeping(*xs)

    def recordable(self) -> Op:
        return self.with_attributes(kernels=("MATH",))

    def vjp(self, s: Calculus, g: Node, out: Node, *xs: Node) -> Cotangents:
        types = [tensor(x) for x in xs]
        query, key, value, *mask = xs
        each = [query, key, value]  # with a head of key and value for each head of the query
        if types[0].rank == 4 and types[0].shape[1] != types[1].shape[1]:
            if not self.grouped(*types[:2]):
                return NotImplemented
            each = [query, *[repeated(s, x, types[0].shape[1]) for x in (key, value)]]
        op, given = self.keeping(*types), xs
        if op is None and each[1] is not key:  # no kernel takes groups and keeps what is needed
            plain, given = self.with_attributes(enable_gqa=False), (*each, *mask)
            op = plain.keeping(*[tensor(x) for x in given])
        if op is None:
            return NotImplemented
        kept = s(op, *given)
        back = AttentionBackward(op.kernel, op.is_causal, op.scale)
        pulled = s(back, g, *each, s(Item(0), kept), s(Item(1), kept), *mask)
        found = [s(Item(i), pulled) for i in range(3)]
        for i, x in enumerate((key, value), 1):
            if each[i] is not x:
                found[i] = s.sum(s.reshape(found[i], grouped_shape(x, found[i])), (2,))
        return [*found, *[self.by_mask(s, g, *each, x) for x in mask]]

    def by_mask(self, s: Calculus, g: Node, *xs: Node) -> Node:
        """What flows to numbers that are added to the scores, from scores in memory."""
        query, key, value, mask = xs
        if tensor(mask).dtype is torch.bool:
            return g  # which nothing reads: conditions have no derivative
        scale = 1 / math.sqrt(tensor(query).shape[-1]) if self.scale is None else self.scale
        scores = s.add(s.matmul(s.scaled(query, scale), s.transpose(key)), mask)
        last = tensor(scores).rank - 1
        hidden = s.eq(s(Amax((last,), True), scores), -math.inf)  # rows that let nothing through
        weights = s(Softmax(last), s.choose(hidden, 0.0, scores))
        weights = s.choose(hidden, 0.0, weights)
        by_weights = s.matmul(g, s.transpose(value))
        total = s.sum(s.mul(by_weights, weights), (last,), True)
        return s.mul(weights, s.sub(by_weights, total))


def repeated(s: Calculus, x: Node, heads: int) -> Node:
    """Heads of (B, H, L, E) repeated one by one until there are so many."""
    batch, there, length, size = tensor(x).shape
    spread = s.expand(s.unsqueeze(x, 2), (batch, there, heads // there, length, size))
    return s.reshape(spread, (batch, heads, length, size))


def grouped_shape(x: Node, repeats: Node) -> Shape:
    """The shape in which repeats of the heads of `x` lie along dimension 2."""
    batch, heads, length, size = tensor(x).shape
    return (batch, heads, tensor(repeats).shape[1] // heads, length, size)


class RandomScaledDotProductAttention(ScaledDotProductAttention):
    """Attention that drops weights with probability `dropout_p`: draws from torch's generator."""

    effect: ClassVar[bool] = True

    def alternatives(self, *xs: TensorType) -> Mapping[str, Op]:
        """None: each draws its own numbers."""
        return {}

    def keeping(self, *xs: TensorType) -> AttentionSaving | None:
        return None

    def recordable(self) -> Op:
        return self
