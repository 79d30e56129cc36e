"""Losses as torch's overloads name them; `l1_loss` and `kl_div` torch takes apart."""

from __future__ import annotations

from lazytorch.frontend.imports import imports
from lazytorch.ir import Builder, Node
from lazytorch.ops import loss as ops

Optional = Node | None


@imports("mse_loss")
def mse_loss(b: Builder, self: Node, target: Node, reduction: int = 1) -> Node:
    return b(ops.MseLoss(reduction), self, target)


@imports("smooth_l1_loss")
def smooth_l1_loss(
    b: Builder, self: Node, target: Node, reduction: int = 1, beta: float = 1.0
) -> Node:
    return b(ops.SmoothL1Loss(reduction, beta), self, target)


@imports("huber_loss")
def huber_loss(
    b: Builder, self: Node, target: Node, reduction: int = 1, delta: float = 1.0
) -> Node:
    return b(ops.HuberLoss(reduction, delta), self, target)


@imports("binary_cross_entropy")
def binary_cross_entropy(
    b: Builder, self: Node, target: Node, weight: Optional = None, reduction: int = 1
) -> Node:
    op = ops.BinaryCrossEntropy(reduction)
    return b(op, self, target, *(() if weight is None else (weight,)))


@imports("binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(
    b: Builder,
    self: Node,
    target: Node,
    weight: Optional = None,
    pos_weight: Optional = None,
    reduction: int = 1,
) -> Node:
    op = ops.BinaryCrossEntropyWithLogits(reduction, weight is not None, pos_weight is not None)
    return b(op, self, target, *[x for x in (weight, pos_weight) if x is not None])


@imports("cross_entropy_loss")
def cross_entropy_loss(
    b: Builder,
    self: Node,
    target: Node,
    weight: Optional = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Node:
    op = ops.CrossEntropyLoss(reduction, ignore_index, label_smoothing)
    return b(op, self, target, *(() if weight is None else (weight,)))


@imports("nll_loss", "nll_loss2d", "nll_loss_nd")
def nll_loss(
    b: Builder,
    self: Node,
    target: Node,
    weight: Optional = None,
    reduction: int = 1,
    ignore_index: int = -100,
) -> Node:
    op = ops.NllLoss(reduction, ignore_index)
    return b(op, self, target, *(() if weight is None else (weight,)))
