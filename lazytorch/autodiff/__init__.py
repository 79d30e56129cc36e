"""Derivatives as transforms of graphs: rules of the operations, and rules recorded from torch."""

from lazytorch.autodiff.custom import Functions
from lazytorch.autodiff.engine import Engine
from lazytorch.autodiff.rules import rule
from lazytorch.autodiff.vjp import vjp


def install() -> None:
    """Record `torch.autograd.grad` and `torch.autograd.Function` where they meet lazy tensors."""
    Engine.install()
    Functions.install()


__all__ = ["install", "rule", "vjp"]
