"""XLA, on models written in plain JAX with a torch model's weights, where one matches."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

from lazytorch.bench.case import Model, tensors
from lazytorch.bench.jax_models import matching
from lazytorch.bench.measure import Pending
from lazytorch.bench.side import Side
from lazytorch.errors import LazyTorchError


def xla(name: str, fold: bool = False) -> Callable[[Model], Side]:
    """A jitted function in JAX; `fold` gives it weights with the batch norms folded in."""

    def side(model: Model) -> Side:
        # Else the first array takes three quarters of the GPU's memory, and torch has the rest.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        jax: Any = importlib.import_module("jax")
        device = tensors((model.args, model.kwargs))[0].device
        where = place(jax, device)

        def to(x: torch.Tensor) -> Any:
            return array(jax, x, where)

        run, weights, inputs = matching(jax, model, to, fold)
        jitted = jax.jit(run)

        def call() -> Pending:
            found = jitted(weights, *inputs)
            return Pending(lambda: read(jax, found, device), lambda: jax.block_until_ready(found))

        return Side(name, call, foreign=True)

    return side


def place(jax: Any, device: torch.device) -> Any:
    """JAX's name for one of torch's devices; LazyTorchError where it does not see that one."""
    try:
        found = jax.devices("gpu" if device.type == "cuda" else device.type)
        return found[device.index or 0]
    except (RuntimeError, IndexError) as error:
        raise LazyTorchError(f"JAX sees no {device}") from error


def array(jax: Any, x: torch.Tensor, where: Any) -> Any:
    """A copy on JAX's side, with whole numbers in 32 bits, as JAX has them."""
    here = x.detach().cpu()
    if here.dtype is torch.bfloat16:  # which NumPy lacks, and float32 holds exactly
        return jax.device_put(here.float().numpy(), where).astype(jax.numpy.bfloat16)
    if here.dtype is torch.int64:
        here = here.to(torch.int32)
    return jax.device_put(here.numpy(), where)


def read(jax: Any, found: Any, device: torch.device) -> list[torch.Tensor]:
    """Copies of JAX's arrays as torch's tensors."""
    made: list[torch.Tensor] = []
    for x in jax.tree.leaves(found):
        wide = x.astype(jax.numpy.float32) if x.dtype == jax.numpy.bfloat16 else x
        copy = torch.tensor(jax.device_get(wide), device=device)
        made.append(copy.to(torch.bfloat16) if wide is not x else copy)
    return made
