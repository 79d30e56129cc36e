"""Derivatives as transforms of graphs: rules of the operations, and rules recorded from torch."""

from lazytorch.autodiff.custom import wrap_functions
from lazytorch.autodiff.engine import wrap_engine
from lazytorch.autodiff.rules import rule
from lazytorch.autodiff.vjp import vjp


def install() -> None:
    """Record `torch.autograd.grad` and `torch.autograd.Function` where they meet lazy tensors."""
    wrap_engine()
    wrap_functions()


__all__ = ["install", "rule", "vjp"]
