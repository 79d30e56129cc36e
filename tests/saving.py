"""A small step of layers whose backward reads much of the forward, for what keeps less of that."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.interpret import interpret
from lazytorch.ir import Graph
from lazytorch.passes import REWRITES, optimize


def step(x: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A loss and its gradients."""
    y = x
    for w in weights:
        inside = functional.gelu(functional.linear(y, w)).softmax(-1)
        y = y + functional.dropout(torch.tanh(inside * inside.exp()), 0.3)
    loss = y.square().mean()
    return loss, *torch.autograd.grad(loss, weights)


def recorded(rows: int, width: int, deep: int) -> tuple[Graph, list[torch.Tensor]]:
    """Its graph in float64, with inputs for it."""
    torch.manual_seed(0)
    values = [torch.randn(rows, width, dtype=torch.float64)]
    values += [nn.Parameter(torch.randn(width, width, dtype=torch.float64)) for _ in range(deep)]
    return optimize(lt.trace(step, *values), REWRITES), values


def results(graph: Graph, values: list[torch.Tensor]) -> list[torch.Tensor]:
    """What the graph gives, with the same draws each time."""
    torch.manual_seed(1)
    with torch.no_grad():
        return list(interpret(graph, *values))
