"""The ways to run a model that are compared, by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch

from lazytorch.bench.case import Model, tensors
from lazytorch.bench.exported import onnxruntime, openvino
from lazytorch.bench.side import Side, nothing
from lazytorch.bench.xla import xla
from lazytorch.compile import compile
from lazytorch.errors import LazyTorchError
from lazytorch.frontend import trees


def eager(model: Model) -> Side:
    """The module as it is."""
    return Side("eager", model)


def channels_last(model: Model) -> Side:
    """Eager on a copy whose weights and images have their channels innermost in memory."""
    module = copy.deepcopy(model.module)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch documents it
    leaves, spec = trees.flatten((model.args, model.kwargs))
    moved = [
        x.to(memory_format=torch.channels_last)
        if isinstance(x, torch.Tensor) and x.dim() == 4
        else x
        for x in leaves
    ]
    args, kwargs = trees.unflatten(spec, moved)
    return Side("channels_last", Model(module, args, kwargs))


def lazytorch(name: str, freeze: bool = False) -> Callable[[Model], Side]:
    """lazytorch, whose kernels are compiled in the background."""

    def side(model: Model) -> Side:
        fast = compile(model.module, freeze=freeze)
        graphs = any(x.is_cuda for x in tensors((model.args, model.kwargs)))
        return Side(name, lambda: fast(*model.args, **model.kwargs), fast.wait, 3, graphs)

    return side


def inductor(name: str, freezing: bool = False, graphs: bool = False) -> Callable[[Model], Side]:
    """torch.compile; its options are part of what it caches by, so that sides do not share code."""
    options: dict[str, Any] = {"freezing": freezing, "triton.cudagraphs": graphs}

    def side(model: Model) -> Side:
        fast = torch.compile(model.module, options=options)
        return Side(
            name,
            lambda: fast(*model.args, **model.kwargs),
            nothing,
            3 if graphs else 1,
            graphs,
            frozen if freezing else nullcontext,
        )

    return side


def max_autotune(model: Model) -> Side:
    """torch.compile's mode that tries kernels out, with CUDA graphs."""
    fast = torch.compile(model.module, mode="max-autotune")
    return Side(MAX_AUTOTUNE, lambda: fast(*model.args, **model.kwargs), nothing, 3, True)


@contextmanager
def frozen() -> Generator[None]:
    """The process-wide setting on, which a part of torch.compile reads instead of the options."""
    import torch._inductor.config as config

    before = config.freezing
    config.freezing = True
    try:
        yield
    finally:
        config.freezing = before


MAX_AUTOTUNE = "max-autotune"

SIDES: dict[str, Callable[[Model], Side]] = {
    "eager": eager,
    "channels_last": channels_last,
    "lazytorch": lazytorch("lazytorch"),
    "lazytorch-freeze": lazytorch("lazytorch-freeze", freeze=True),
    "inductor": inductor("inductor"),
    "inductor-freezing": inductor("inductor-freezing", freezing=True),
    "reduce-overhead": inductor("reduce-overhead", graphs=True),
    "reduce-overhead-freezing": inductor("reduce-overhead-freezing", freezing=True, graphs=True),
    MAX_AUTOTUNE: max_autotune,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "jax": xla("jax"),
    "jax-folded": xla("jax-folded", fold=True),
}

OURS = ("lazytorch", "lazytorch-freeze")

NEEDS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino",),
    "jax": ("jax",),
    "jax-folded": ("jax",),
}
"""The packages that a side takes beside torch."""


def peers(device: torch.device) -> list[str]:
    """What lazytorch is compared with on a device, whether it is installed here or not.

    On the CPU there are no CUDA graphs to reduce the overhead by; ONNX Runtime and OpenVINO are
    compared there alone. max-autotune is no part: it may take longer than all others together.
    """
    if device.type == "cuda":
        graphs = ["reduce-overhead", "reduce-overhead-freezing"]
        return ["inductor", "inductor-freezing", *graphs, "jax", "jax-folded"]
    others = ["onnxruntime", "openvino", "jax", "jax-folded"]
    return ["inductor", "inductor-freezing", *others]


def check_side(name: str) -> None:
    """LazyTorchError where no side has that name."""
    if name not in SIDES:
        raise LazyTorchError(f"no side is called {name!r}", hint=f"there are {', '.join(SIDES)}")


def missing(name: str) -> list[str]:
    """The packages that a side takes and that are not installed."""
    return [package for package in NEEDS.get(name, ()) if find_spec(package) is None]


def make_side(name: str, model: Model) -> Side:
    """The side called `name`; LazyTorchError where there is none, or not on this machine."""
    check_side(name)
    if lacking := missing(name):
        raise LazyTorchError(
            f"{' and '.join(lacking)} not installed", hint="pip install 'lazytorch[peers]'"
        )
    return SIDES[name](model)
