"""Attention and recurrent layers as torch's overloads name them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lazytorch.errors import ShapeError
from lazytorch.frontend.imports import imports
from lazytorch.ir import Builder, Item, Node
from lazytorch.ops.attention import RandomScaledDotProductAttention, ScaledDotProductAttention
from lazytorch.ops.attention_backward import Kernel
from lazytorch.ops.attention_random import RandomAttentionSaving, droppable
from lazytorch.ops.compare import LogicalNot, MaskedFill
from lazytorch.ops.create import Full
from lazytorch.ops.layout import Expand, Reshape
from lazytorch.ops.recurrent import Gru, Lstm, RandomRecurrent, Recurrent, RnnRelu, RnnTanh
from lazytorch.ops.reduction import tensor
from lazytorch.types import TensorType


def enabled_kernels() -> tuple[str, ...]:
    """The attention backends that are switched on, empty when none is switched off."""
    cuda = torch.backends.cuda
    switches = {
        "FLASH_ATTENTION": cuda.flash_sdp_enabled(),
        "EFFICIENT_ATTENTION": cuda.mem_efficient_sdp_enabled(),
        "MATH": cuda.math_sdp_enabled(),
        "CUDNN_ATTENTION": cuda.cudnn_sdp_enabled(),
    }
    if all(switches.values()):
        return ()
    return tuple(name for name, on in switches.items() if on)


@imports("scaled_dot_product_attention")
def scaled_dot_product_attention(
    b: Builder,
    query: Node,
    key: Node,
    value: Node,
    attn_mask: Node | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Node:
    if isinstance(dropout_p, Node) or isinstance(scale, Node):
        return NotImplemented
    op = ScaledDotProductAttention(0.0, is_causal, scale, enable_gqa, enabled_kernels())
    operands = (query, key, value, *(() if attn_mask is None else (attn_mask,)))
    if dropout_p > 0:
        types = [tensor(x) for x in operands]
        each = types[0].rank == 4 and types[0].shape[1] == types[1].shape[1]
        saving = op.keeping(*types) if each and types[0].device.type == "cuda" else None
        if saving is not None and droppable(saving.kernel, *operands):
            made = RandomAttentionSaving(saving.kernel, float(dropout_p), is_causal, scale)
            bias = [added(b, x, types[0], types[1]) for x in operands[3:]]
            return b(Item(0), b(made, *operands[:3], *bias))
        kept = (is_causal, scale, enable_gqa, enabled_kernels())
        return b(RandomScaledDotProductAttention(dropout_p, *kept), *operands)
    return b(op, *operands)


def added(b: Builder, mask: Node, query: TensorType, key: TensorType) -> Node:
    """A mask as torch hands it to a kernel on a GPU: numbers, one for every score."""
    if tensor(mask).dtype is torch.bool:
        zeros = b(Full(tensor(mask).shape, 0.0, query.dtype, query.device))
        mask = b(MaskedFill(), zeros, b(LogicalNot(), mask), -math.inf)
    return b(Expand((*query.shape[:3], key.shape[2])), mask)


@imports("_scaled_dot_product_flash_attention")
def flash_attention(
    b: Builder,
    query: Node,
    key: Node,
    value: Node,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> Any:
    """Torch's choice of kernel where attention drops weights."""
    if return_debug_mask:
        return NotImplemented
    found = dropping(b, "flash", (query, key, value), dropout_p, is_causal, scale)
    if found is NotImplemented:
        return found
    out, sums, seed, offset = found
    return out, sums, None, None, *lengths(query, key), seed, offset, None


@imports("_scaled_dot_product_efficient_attention")
def efficient_attention(
    b: Builder,
    query: Node,
    key: Node,
    value: Node,
    attn_bias: Node | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> Any:
    """Torch's choice of kernel where attention drops weights, with numbers added to the scores."""
    bias = () if attn_bias is None else (attn_bias,)
    return dropping(b, "efficient", (query, key, value, *bias), dropout_p, is_causal, scale)


@imports("_scaled_dot_product_cudnn_attention")
def cudnn_attention(
    b: Builder,
    query: Node,
    key: Node,
    value: Node,
    attn_bias: Node | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> Any:
    """Torch's choice of kernel where attention drops weights, on the newer GPUs."""
    if return_debug_mask:
        return NotImplemented
    bias = () if attn_bias is None else (attn_bias,)
    found = dropping(b, "cudnn", (query, key, value, *bias), dropout_p, is_causal, scale)
    if found is NotImplemented:
        return found
    out, sums, seed, offset = found
    sums = b(Reshape((*tensor(sums).shape, 1)), sums)
    return out, sums, None, None, *lengths(query, key), seed, offset, None


def dropping(
    b: Builder, kernel: Kernel, operands: tuple[Node, ...], dropout_p: Any, causal: bool, scale: Any
) -> Any:
    """The results of attention that drops weights, with what its derivative needs."""
    if isinstance(dropout_p, Node) or isinstance(scale, Node) or dropout_p <= 0:
        return NotImplemented
    if not droppable(kernel, *operands):
        return NotImplemented
    made = b(RandomAttentionSaving(kernel, float(dropout_p), causal, scale), *operands)
    return tuple([b(Item(i), made) for i in range(4)])


def lengths(query: Node, key: Node) -> tuple[int, int]:
    """How many queries and keys there are."""
    return tensor(query).shape[2], tensor(key).shape[2]


def recur(b: Builder, op: Recurrent, operands: Sequence[Node]) -> tuple[Node, ...]:
    """The results one by one; dropout between layers draws random numbers."""
    directions, gates = (2 if op.bidirectional else 1), (4 if op.has_biases else 2)
    weights = len(operands) - 1 - op.states
    if weights not in (
        op.num_layers * directions * gates,
        op.num_layers * directions * (gates + 1),
    ):
        raise ShapeError(f"{op.name()}: {weights} weights do not fit {op.num_layers} layers")
    random = op.dropout > 0 and op.train and op.num_layers > 1
    results = b(RandomRecurrent(op) if random else op, *operands)
    return tuple([b(Item(i), results) for i in range(1 + op.states)])


@imports("lstm.input")
def lstm(
    b: Builder,
    input: Node,
    hx: Sequence[Node],
    params: Sequence[Node],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Node, ...]:
    op = Lstm(num_layers, has_biases, bidirectional, batch_first, dropout, train)
    return recur(b, op, (input, *hx, *params))


@imports("gru.input")
def gru(
    b: Builder,
    input: Node,
    hx: Node,
    params: Sequence[Node],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Node, ...]:
    op = Gru(num_layers, has_biases, bidirectional, batch_first, dropout, train)
    return recur(b, op, (input, hx, *params))


@imports("rnn_tanh.input")
def rnn_tanh(
    b: Builder,
    input: Node,
    hx: Node,
    params: Sequence[Node],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Node, ...]:
    op = RnnTanh(num_layers, has_biases, bidirectional, batch_first, dropout, train)
    return recur(b, op, (input, hx, *params))


@imports("rnn_relu.input")
def rnn_relu(
    b: Builder,
    input: Node,
    hx: Node,
    params: Sequence[Node],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Node, ...]:
    op = RnnRelu(num_layers, has_biases, bidirectional, batch_first, dropout, train)
    return recur(b, op, (input, hx, *params))
