"""Recurrent layers, whole: all time steps and all stacked layers of one call.

Operands: input (T, N, in), or (N, T, in) with `batch_first`; the initial states (layers *
directions, N, hidden); then the weights, layer by layer and direction by direction, in the order
of `torch.nn`'s parameters.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from lazytorch.errors import ShapeError
from lazytorch.ir import Op
from lazytorch.ops.checks import check_alike
from lazytorch.types import TensorType, TupleType, tensor_type


class Recurrent(Op, abstract=True):
    """What the layers share: results are the output, then the final states."""

    states: ClassVar[int] = 1

    num_layers: int
    has_biases: bool = True
    bidirectional: bool = False
    batch_first: bool = False
    dropout: float = 0.0
    train: bool = False

    def infer(self, x: TensorType, *xs: TensorType) -> TupleType:
        states = xs[: self.states]
        operands = {"input": x} | {f"state {i}": h for i, h in enumerate(states)}
        directions = 2 if self.bidirectional else 1
        if x.rank != 3 or any(h.rank != 3 for h in states):
            raise ShapeError(f"{self.name()}: expected 3-d input and states", operands)
        check_alike(self, x, *xs)
        batch, steps = x.shape[:2] if self.batch_first else (x.shape[1], x.shape[0])
        for h in states:
            if h.shape[:2] != (self.num_layers * directions, batch):
                message = f"states need shape ({self.num_layers * directions}, {batch}, hidden)"
                raise ShapeError(f"{self.name()}: {message}", operands)
        width = directions * states[0].shape[2]
        output = tensor_type((steps, batch, width), x.dtype, x.device)
        if self.batch_first:  # computed with time first, seen transposed
            a, b, c = output.strides
            output = TensorType((batch, steps, width), x.dtype, x.device, (b, a, c))
        return TupleType((output, *[h.with_shape(h.shape) for h in states]))

    def arguments(self) -> tuple[bool, int, float, bool, bool, bool]:
        """What torch's functions take after the tensors."""
        return (
            self.has_biases,
            self.num_layers,
            self.dropout,
            self.train,
            self.bidirectional,
            self.batch_first,
        )


class Lstm(Recurrent):
    """Long short-term memory; states and results are (hidden, cell)."""

    states: ClassVar[int] = 2

    def run(self, x: torch.Tensor, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.lstm(x, xs[:2], xs[2:], *self.arguments())  # type: ignore[arg-type]


class Gru(Recurrent):
    """Gated recurrent unit."""

    def run(self, x: torch.Tensor, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.gru(x, xs[0], xs[1:], *self.arguments())  # type: ignore[arg-type]


class RnnTanh(Recurrent):
    """Plain recurrent layer with tanh."""

    def run(self, x: torch.Tensor, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.rnn_tanh(x, xs[0], xs[1:], *self.arguments())  # type: ignore[arg-type]


class RnnRelu(Recurrent):
    """Plain recurrent layer with relu."""

    def run(self, x: torch.Tensor, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.rnn_relu(x, xs[0], xs[1:], *self.arguments())  # type: ignore[arg-type]


class RandomRecurrent(Op):
    """One of the layers above with dropout between its layers: draws from torch's generator."""

    layer: Any
    effect: ClassVar[bool] = True

    def infer(self, *xs: TensorType) -> TupleType:
        return self.layer.infer(*xs)

    def run(self, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.layer.run(*xs)
