"""Checks a model of the zoo in every use: compiled and lazy, new inputs and weights, training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from lazytorch import zoo
from lazytorch.accuracy import Accuracy, accuracy, tf32_on
from lazytorch.bench.case import converted, tensors
from lazytorch.compile import compile
from lazytorch.frontend.tensor import LazyTensor
from lazytorch.lazy import lazy

CALLS = 3
BATCH_NORM_BATCH = 2
"""Batch of the training checks: batch norm over one 1x1 map has no variance."""


@dataclass(frozen=True)
class Check:
    """One comparison: `use` says which."""

    use: str
    accuracy: Accuracy


def check(name: str, dtype: torch.dtype, device: torch.device) -> Iterator[Check]:
    """Every use of a model: three calls each, with new inputs and changed weights in between."""
    module, args, kwargs = zoo.build(name, dtype, device)
    exact_module = copy.deepcopy(module).cpu().double()  # some kernels have no float64 on a GPU
    if hasattr(exact_module, "set_experts_implementation"):
        cast(Any, exact_module).set_experts_implementation(
            "eager"
        )  # nor have grouped products anywhere
    fast = compile(module, wait=True)
    moved = lazy(copy.deepcopy(module))
    for call in range(CALLS):
        args, kwargs = zoo.inputs(name, dtype, device, seed=call)
        with torch.no_grad():
            eager = tensors(module(*args, **kwargs))
            wide = converted((args, kwargs), torch.float64, torch.device("cpu"))
            exact = [x.to(device) for x in tensors(exact_module(*wide[0], **wide[1]))]
            ours = tensors(fast(*args, **kwargs))
            deferred = [
                torch.clone(x.force())
                for x in tensors(moved(*args, **kwargs))
                if isinstance(x, LazyTensor)
            ]
            yield Check(f"compiled, call {call}", accuracy(ours, eager, exact, tf32_on(device)))
            yield Check(f"lazy, call {call}", accuracy(deferred, eager, exact, tf32_on(device)))
            for model in (module, exact_module, moved):
                change(model)
    yield from check_training(name, dtype, device)


def change(module: nn.Module) -> None:
    """Change every weight in place, by a factor that every dtype holds exactly."""
    for parameter in module.parameters():
        parameter.mul_(1.0078125)


def check_training(name: str, dtype: torch.dtype, device: torch.device) -> Iterator[Check]:
    """Training mode, dropout and batch norm included: eager's numbers for a seed, equal buffers.

    Batch norm enlarges rounding, so what is not close to eager is judged by the rule against a
    float64 run; that needs a model which draws no random numbers.
    """
    module, args, kwargs = zoo.build(name, dtype, device, BATCH_NORM_BATCH, train=True)
    theirs = copy.deepcopy(module)
    exact_module = copy.deepcopy(module).cpu().double()
    wide = converted((args, kwargs), torch.float64, torch.device("cpu"))
    fast = compile(module, wait=True)
    exact: list[torch.Tensor] = []
    ran = 0
    for call in range(2):
        with torch.no_grad():
            torch.manual_seed(call)
            ours = tensors(fast(*args, **kwargs))
            torch.manual_seed(call)
            before = torch.get_rng_state()
            eager = tensors(theirs(*args, **kwargs))
        mine, eagers = list(module.buffers()), list(theirs.buffers())
        found = {"training": close(ours, eager), "buffers": close(mine, eagers)}
        random = device.type != "cpu" or not torch.equal(before, torch.get_rng_state())
        if not random and not all(one.right for one in found.values()):
            while ran <= call:  # its buffers move with each call, as theirs did
                with torch.no_grad():
                    exact = tensors(exact_module(*wide[0], **wide[1]))
                ran += 1
            wides = list(exact_module.buffers())
            found = {
                "training": accuracy(ours, eager, exact),
                "buffers": accuracy(mine, eagers, wides),
            }
        for use, judged in found.items():
            yield Check(f"{use}, call {call}", judged)


def close(ours: list[Any], eager: list[Any]) -> Accuracy:
    """Nearness to eager itself, where there is no float64 run with the same random numbers."""
    limit = {2: 3e-2, 4: 1e-4, 8: 1e-10}
    worst = Accuracy(0.0, 0.0, 0.0)
    for i, (a, b) in enumerate(zip(ours, eager, strict=True)):
        if not b.dtype.is_floating_point:
            error = 0.0 if torch.equal(a, b) else float("inf")
            bound = 0.0
        else:
            a, b = a.detach().double(), b.detach().double()
            size = float(b.square().mean().sqrt()) or 1.0
            error = float((a - b).square().mean().sqrt()) / size if b.numel() else 0.0
            bound = limit[eager[i].dtype.itemsize]
        if not error <= worst.error:
            fault = "" if error <= bound else f"tensor {i} is {error:.2e} away from eager's"
            worst = Accuracy(error, 0.0, error, fault or worst.fault)
    return worst


def faults(name: str, dtype: torch.dtype, device: torch.device) -> list[str]:
    """What is wrong with a model, in words; empty when everything is right."""
    return [
        f"{found.use}: {found.accuracy.fault}"
        for found in check(name, dtype, device)
        if not found.accuracy.right
    ]
