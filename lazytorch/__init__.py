"""lazytorch: a lazy graph compiler for PyTorch."""

from lazytorch.compile import compile, disable, reset, trace
from lazytorch.compiled import Compiled
from lazytorch.compiled_module import CompiledModule
from lazytorch.derivatives import grad, hessian, jacfwd, jacrev, jvp, value_and_grad, vjp
from lazytorch.errors import BudgetError
from lazytorch.forecast import plan
from lazytorch.lazy import (
    arange,
    empty,
    eval,
    eye,
    from_dlpack,
    from_numpy,
    full,
    lazy,
    ones,
    rand,
    randn,
    tensor,
    zeros,
)
from lazytorch.lower.memory_plan import MemoryPlan
from lazytorch.report import report
from lazytorch.text import parse
from lazytorch.training import TrainStep, train_step
from lazytorch.view import view

__version__ = "0.1.0"

__all__ = [
    "BudgetError", "Compiled", "CompiledModule", "MemoryPlan", "TrainStep", "arange", "compile",
    "disable", "empty", "eval", "eye", "from_dlpack", "from_numpy", "full", "grad", "hessian",
    "jacfwd", "jacrev", "jvp", "lazy", "ones", "parse", "plan", "rand", "randn", "report", "reset",
    "tensor", "trace", "train_step", "value_and_grad", "view", "vjp", "zeros",
]  # fmt: skip
