"""Losses. `reduction` is torch's number: 0 none, 1 mean, 2 sum."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from lazytorch.errors import ShapeError
from lazytorch.ir import Op
from lazytorch.ops.base import Rowwise, elementwise_strides
from lazytorch.ops.checks import check_devices
from lazytorch.ops.emitter import RowEmitter, Value
from lazytorch.ops.norm import optional
from lazytorch.types import TensorType, Type, broadcast, promote, tensor_type

REDUCTIONS = ("none", "mean", "sum")


class ElementwiseLoss(Op, abstract=True):
    """A loss of each element of (input, target), reduced."""

    reduction: int = 1

    def infer(self, x: TensorType, target: TensorType, *more: TensorType) -> TensorType:
        operands = (x, target, *more)
        dtype = promote(operands)
        check_devices(self, *[t for t in operands if t.shape or t.device.type != "cpu"])
        try:
            shape = broadcast([t.shape for t in operands])
        except ValueError as error:
            raise ShapeError(f"{self.name()}: {error}", {"input": x, "target": target}) from None
        if self.reduction:
            return tensor_type((), dtype, x.device)
        layouts = tuple([(t.shape, t.strides) for t in operands])
        return tensor_type(shape, dtype, x.device, elementwise_strides(shape, layouts, False))

    def how(self) -> str:
        """The reduction by name."""
        return REDUCTIONS[self.reduction]


class MseLoss(ElementwiseLoss):
    """Squared error."""

    def run(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.mse_loss(x, target, self.reduction)


class SmoothL1Loss(ElementwiseLoss):
    """Squared error below `beta`, absolute error above."""

    beta: float = 1.0

    def run(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.smooth_l1_loss(x, target, self.reduction, self.beta)


class HuberLoss(ElementwiseLoss):
    """Squared error below `delta`, `delta` times absolute error above."""

    delta: float = 1.0

    def run(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.huber_loss(x, target, self.reduction, self.delta)


class BinaryCrossEntropy(ElementwiseLoss):
    """Cross entropy of probabilities; a third operand weighs the elements."""

    def run(
        self, x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.ops.aten.binary_cross_entropy(x, target, weight, self.reduction)


class BinaryCrossEntropyWithLogits(ElementwiseLoss):
    """Cross entropy of sigmoid(x). Operands: x, target, weight and pos_weight where present."""

    weight: bool = False
    pos_weight: bool = False

    def run(self, x: torch.Tensor, target: torch.Tensor, *xs: torch.Tensor) -> torch.Tensor:
        weight, pos_weight = optional(xs, self.weight, self.pos_weight)
        return torch.ops.aten.binary_cross_entropy_with_logits(
            x, target, weight, pos_weight, self.reduction
        )


class RowCrossEntropy(Rowwise):
    """Negative log likelihood of softmax over the last dimension, for each row; 0 if ignored.

    Operands: x (..., C), and the number of each row's class (..., 1), NaN where there is no such
    class. The result is of float32 at least.
    """

    ignore_index: int = -100

    def infer(self, x: TensorType, target: TensorType) -> TensorType:
        check_devices(self, x, target)
        if target.shape != (*x.shape[:-1], 1) or target.dtype is not torch.int64:
            raise ShapeError(f"{self.name()}: target does not fit", {"input": x, "target": target})
        dtype = torch.promote_types(x.dtype, torch.float32)
        return tensor_type(target.shape, dtype, x.device)

    def along_rows(self, x: TensorType) -> bool:
        return True

    def operand_dtypes(self, *xs: Type) -> tuple[torch.dtype, ...]:
        return (super().operand_dtypes(xs[0], xs[1])[0], torch.int64)

    def emit(self, s: RowEmitter, *xs: Value) -> Value:
        x, target = xs
        there = s.logical_and(s.ge(target, 0), s.lt(target, s.row_size()))
        chosen = s.where(there, target, -1).to(torch.int32)
        largest, total = s.row_exp_sum(x)
        found = s.row_pick(x, chosen)
        loss = s.where(there, (largest - found) + s.log(total), math.nan)
        return s.where(s.eq(target, self.ignore_index), 0.0, loss)

    def run(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        there = (target >= 0) & (target < x.shape[-1])
        loss = -torch.log_softmax(x, -1).gather(-1, target.where(there, 0)).where(there, math.nan)
        return loss.where(target != self.ignore_index, 0.0)


class CrossEntropyLoss(Op):
    """Negative log likelihood of softmax over the classes: dimension 1, or 0 of a single sample.

    The target holds class indices, or probabilities in the shape of x. A third operand weighs the
    classes.
    """

    reduction: int = 1
    ignore_index: int = -100
    label_smoothing: float = 0.0

    def infer(
        self, x: TensorType, target: TensorType, weight: TensorType | None = None
    ) -> TensorType:
        check_devices(self, x, target, *(() if weight is None else (weight,)))
        shape = without_classes(self, x)
        if target.shape not in (shape, x.shape):
            raise ShapeError(f"{self.name()}: target does not fit", {"input": x, "target": target})
        return tensor_type(() if self.reduction else shape, x.dtype, x.device)

    def run(
        self, x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        return functional.cross_entropy(
            x,
            target,
            weight,
            ignore_index=self.ignore_index,
            reduction=REDUCTIONS[self.reduction],
            label_smoothing=self.label_smoothing,
        )


class NllLoss(Op):
    """Minus the log probability, given in x, of each target class; a third operand weighs them."""

    reduction: int = 1
    ignore_index: int = -100

    def infer(
        self, x: TensorType, target: TensorType, weight: TensorType | None = None
    ) -> TensorType:
        check_devices(self, x, target, *(() if weight is None else (weight,)))
        shape = without_classes(self, x)
        if target.shape != shape:
            raise ShapeError(f"{self.name()}: target does not fit", {"input": x, "target": target})
        return tensor_type(() if self.reduction else shape, x.dtype, x.device)

    def run(
        self, x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        return functional.nll_loss(
            x, target, weight, ignore_index=self.ignore_index, reduction=REDUCTIONS[self.reduction]
        )


def without_classes(op: Op, x: TensorType) -> tuple[int, ...]:
    """The shape of one loss per sample."""
    if not x.rank:
        raise ShapeError(f"{op.name()}: expected at least 1 dimension", {"input": x})
    return () if x.rank == 1 else (x.shape[0], *x.shape[2:])
