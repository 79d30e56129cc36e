"""Records what Python code does to tensors as graphs."""

from lazytorch.frontend import aten as aten
