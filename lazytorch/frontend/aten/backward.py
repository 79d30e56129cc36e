"""Derivatives that torch names as operations: written by the operations' own rules, so they fuse.

A formula that is recorded from torch, or a user's own derivative, calls them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from lazytorch.frontend.imports import imports
from lazytorch.ir import Builder, Node, Op
from lazytorch.ops import activation, elementary, loss, reduce
from lazytorch.ops.calculus import Calculus, tensor
from lazytorch.ops.windows import Conj


def pulled(b: Builder, op: Op, g: Node, out: Node, *xs: Node) -> Node:
    """What flows to the first operand, in its dtype."""
    s = Calculus(b.where)
    found = op.vjp(s, g, out, *xs)[0]
    return s.match(s.sum_to(found, tensor(xs[0]).shape), xs[0])


def conjugated(b: Builder, x: Node) -> Node:
    """Complex numbers conjugated, as they stand in the derivatives by which gradients flow."""
    return b(Conj(), x) if tensor(x).dtype.is_complex else x


@imports("tanh_backward")
def tanh_backward(b: Builder, grad_output: Node, output: Node) -> Node:
    output = conjugated(b, output)
    return pulled(b, elementary.Tanh(), grad_output, output, output)


@imports("sigmoid_backward")
def sigmoid_backward(b: Builder, grad_output: Node, output: Node) -> Node:
    output = conjugated(b, output)
    return pulled(b, elementary.Sigmoid(), grad_output, output, output)


@imports("threshold_backward")
def threshold_backward(b: Builder, grad_output: Node, self: Node, threshold: float) -> Node:
    s = Calculus(b.where)
    return s.match(s.choose(s.le(self, threshold), 0.0, grad_output), self)


@imports("gelu_backward")
def gelu_backward(
    b: Builder, grad_output: Node, self: Node, *, approximate: Literal["none", "tanh"] = "none"
) -> Node:
    return pulled(b, activation.Gelu(approximate), grad_output, self, self)


@imports("silu_backward")
def silu_backward(b: Builder, grad_output: Node, self: Node) -> Node:
    return pulled(b, activation.Silu(), grad_output, self, self)


@imports("mish_backward")
def mish_backward(b: Builder, grad_output: Node, self: Node) -> Node:
    return pulled(b, activation.Mish(), grad_output, self, self)


@imports("hardtanh_backward")
def hardtanh_backward(
    b: Builder, grad_output: Node, self: Node, min_val: float, max_val: float
) -> Node:
    return pulled(b, activation.Hardtanh(min_val, max_val), grad_output, self, self)


@imports("hardsigmoid_backward")
def hardsigmoid_backward(b: Builder, grad_output: Node, self: Node) -> Node:
    return pulled(b, activation.Hardsigmoid(), grad_output, self, self)


@imports("hardswish_backward")
def hardswish_backward(b: Builder, grad_output: Node, self: Node) -> Node:
    return pulled(b, activation.Hardswish(), grad_output, self, self)


@imports("leaky_relu_backward")
def leaky_relu_backward(
    b: Builder, grad_output: Node, self: Node, negative_slope: float, self_is_result: bool
) -> Node:
    return pulled(b, activation.LeakyRelu(negative_slope), grad_output, self, self)


@imports("elu_backward")
def elu_backward(
    b: Builder,
    grad_output: Node,
    alpha: float,
    scale: float,
    input_scale: float,
    is_result: bool,
    self_or_result: Node,
) -> Node:
    if is_result:
        return NotImplemented
    op = activation.Elu(alpha, scale, input_scale)
    return pulled(b, op, grad_output, self_or_result, self_or_result)


@imports("softplus_backward")
def softplus_backward(
    b: Builder, grad_output: Node, self: Node, beta: float, threshold: float
) -> Node:
    return pulled(b, activation.Softplus(beta, threshold), grad_output, self, self)


@imports("_softmax_backward_data")
def softmax_backward(
    b: Builder, grad_output: Node, output: Node, dim: int, input_dtype: torch.dtype
) -> Node:
    found = pulled(b, reduce.Softmax(dim), grad_output, output, output)
    return Calculus(b.where).cast(found, input_dtype)


@imports("_log_softmax_backward_data")
def log_softmax_backward(
    b: Builder, grad_output: Node, output: Node, dim: int, input_dtype: torch.dtype
) -> Node:
    found = pulled(b, reduce.LogSoftmax(dim), grad_output, output, output)
    return Calculus(b.where).cast(found, input_dtype)


@imports("native_dropout_backward")
def native_dropout_backward(b: Builder, grad_output: Node, mask: Node, scale: float) -> Node:
    s = Calculus(b.where)
    return s.scaled(s.mul(grad_output, mask), scale)


@imports("log_sigmoid_backward")
def log_sigmoid_backward(b: Builder, grad_output: Node, self: Node, buffer: Node) -> Node:
    return pulled(b, activation.LogSigmoid(), grad_output, self, self)


@imports("mse_loss_backward")
def mse_loss_backward(
    b: Builder, grad_output: Node, self: Node, target: Node, reduction: int
) -> Node:
    return pulled(b, loss.MseLoss(reduction), grad_output, self, self, target)


@imports("smooth_l1_loss_backward")
def smooth_l1_loss_backward(
    b: Builder, grad_output: Node, self: Node, target: Node, reduction: int, beta: float
) -> Node:
    return pulled(b, loss.SmoothL1Loss(reduction, beta), grad_output, self, self, target)


@imports("huber_loss_backward")
def huber_loss_backward(
    b: Builder, grad_output: Node, self: Node, target: Node, reduction: int, delta: float
) -> Node:
    return pulled(b, loss.HuberLoss(reduction, delta), grad_output, self, self, target)


@imports("slice_backward")
def slice_backward(
    b: Builder,
    grad_output: Node,
    input_sizes: Sequence[int],
    dim: int,
    start: int,
    end: int,
    step: int,
) -> Node:
    if step != 1:
        return NotImplemented
    dim %= len(input_sizes)
    size = input_sizes[dim]
    start = min(max(start + size if start < 0 else start, 0), size)
    after = size - start - tensor(grad_output).shape[dim]
    return Calculus(b.where).pad(grad_output, dim, start, after)


@imports("select_backward")
def select_backward(
    b: Builder, grad_output: Node, input_sizes: Sequence[int], dim: int, index: int
) -> Node:
    s = Calculus(b.where)
    dim %= len(input_sizes)
    index %= input_sizes[dim]
    return s.pad(s.unsqueeze(grad_output, dim), dim, index, input_sizes[dim] - 1 - index)
