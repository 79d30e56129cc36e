"""The operations, one file for each family; loading this fills the registry."""

from lazytorch.ops import (
    activation,
    after,
    aten,
    attention,
    compare,
    conv,
    copies,
    create,
    custom,
    elementary,
    foreach,
    fused,
    index,
    layout,
    library,
    linalg,
    loss,
    norm,
    number,
    pointwise,
    pool,
    random,
    recurrent,
    reduce,
    windows,
    writes,
)

__all__ = [
    "activation", "after", "aten", "attention", "compare", "conv", "copies", "create", "custom",
    "elementary", "foreach", "fused", "index", "layout", "library", "linalg", "loss", "norm",
    "number",
    "pointwise", "pool", "random", "recurrent", "reduce", "windows", "writes",
]  # fmt: skip
