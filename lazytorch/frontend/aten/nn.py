"""Attention and recurrent layers as torch's overloads name them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lazytorch.errors import ShapeError
from lazytorch.frontend.imports import imports
from lazytorch.ir import Builder, Item, Node
from lazytorch.ops.attention import RandomScaledDotProductAttention, ScaledDotProductAttention
from lazytorch.ops.recurrent import Gru, Lstm, RandomRecurrent, Recurrent, RnnRelu, RnnTanh


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
    kind = RandomScaledDotProductAttention if dropout_p > 0 else ScaledDotProductAttention
    op = kind(dropout_p, is_causal, scale, enable_gqa, enabled_kernels())
    return b(op, query, key, value, *(() if attn_mask is None else (attn_mask,)))


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
