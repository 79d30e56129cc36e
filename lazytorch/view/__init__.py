"""Pictures and words about graphs and compiled functions."""

from lazytorch.view.draw import view
from lazytorch.view.explain import explain

__all__ = ["explain", "view"]
