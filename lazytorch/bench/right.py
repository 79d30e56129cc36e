"""Checks a model of the zoo in every use: compiled and lazy, new inputs and weights, training."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator
from contextlib import contextmanager
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
    """Every use of a model: three calls each, with new inputs and changed weights in between.

    The three calls are judged together.
    """
    module, args, kwargs = zoo.build(name, dtype, device)
    exact_module = copy.deepcopy(module).cpu().double()  # some kernels have no float64 on a GPU
    if hasattr(exact_module, "set_experts_implementation"):
        cast(Any, exact_module).set_experts_implementation(
            "eager"
        )  # nor have grouped products anywhere
    fast = compile(module, wait=True)
    moved = lazy(copy.deepcopy(module))
    runs: dict[str, list[list[torch.Tensor]]] = {}
    for call in range(CALLS):
        args, kwargs = zoo.inputs(name, dtype, device, seed=call)
        with torch.no_grad():
            wide = converted((args, kwargs), torch.float64, torch.device("cpu"))
            deferred = [
                torch.clone(x.force())
                for x in tensors(moved(*args, **kwargs))
                if isinstance(x, LazyTensor)
            ]
            for use, results in {
                "eager": tensors(module(*args, **kwargs)),
                "exact": [x.to(device) for x in tensors(exact_module(*wide[0], **wide[1]))],
                "compiled": tensors(fast(*args, **kwargs)),
                "lazy": deferred,
            }.items():
                runs.setdefault(use, []).append(results)
            for model in (module, exact_module, moved):
                change(model)
    eager, exact = pooled(runs["eager"]), pooled(runs["exact"])
    for use in ("compiled", "lazy"):
        yield Check(use, accuracy(pooled(runs[use]), eager, exact, tf32_on(device)))
    yield from check_training(name, dtype, device)


def pooled(calls: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """The results of several calls as one: an error is a statistic, and some results are short.

    Of a single number eager may be exact by luck; of a model that chooses its experts by rounding,
    eager may choose as float64 does in one call and not in the next.
    """
    return [torch.stack(results) for results in zip(*calls, strict=True)]


def change(module: nn.Module) -> None:
    """Change every weight in place, by a factor that every dtype holds exactly."""
    for parameter in module.parameters():
        parameter.mul_(1.0078125)


def check_training(name: str, dtype: torch.dtype, device: torch.device) -> Iterator[Check]:
    """Training mode, dropout and batch norm included: eager's numbers for a seed, equal buffers.

    Batch norm enlarges rounding, so what is not close to eager is judged by the rule against a
    float64 run. That needs the same random numbers, which the CPU draws alike for all dtypes. TF32
    is off: what is looked for is another computation, not another rounding.
    """
    with float32_exactly():
        yield from train(name, dtype, device)


@contextmanager
def float32_exactly() -> Generator[None]:
    """Without TF32 in convolutions; products of matrices do not use it unless asked to."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def train(name: str, dtype: torch.dtype, device: torch.device) -> Iterator[Check]:
    """The training checks, as torch is set now."""
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
            eager = tensors(theirs(*args, **kwargs))
        mine, eagers = list(module.buffers()), list(theirs.buffers())
        found = {"training": close(ours, eager), "buffers": close(mine, eagers)}
        if device.type == "cpu" and not all(one.right for one in found.values()):
            while ran <= call:  # its buffers move with each call, as theirs did
                torch.manual_seed(ran)
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
