"""Imports of torch's overloads, one file for each family; loading this fills the tables."""

import lazytorch.ops as ops
from lazytorch.frontend.aten import (
    backward,
    conv,
    create,
    index,
    layout,
    linalg,
    loss,
    moves,
    nn,
    norm,
    pointwise,
    pool,
    random,
    reduce,
)
from lazytorch.frontend.imports import import_pointwise

import_pointwise()

__all__ = [
    "backward", "conv", "create", "index", "layout", "linalg", "loss", "moves", "nn", "norm", "ops",
    "pointwise", "pool", "random", "reduce",
]  # fmt: skip
