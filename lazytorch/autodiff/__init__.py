"""Derivatives as transforms of graphs: rules of the operations, and rules recorded from torch."""

from lazytorch.autodiff.rules import rule
from lazytorch.autodiff.vjp import active, vjp

__all__ = ["active", "rule", "vjp"]
