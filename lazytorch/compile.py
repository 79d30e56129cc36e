"""`lt.compile`, `lt.trace`, `lt.disable`, `lt.reset`: the doors to compiled use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import nn

from lazytorch.autodiff import install
from lazytorch.compiled import Compiled
from lazytorch.compiled_module import CompiledModule
from lazytorch.frontend import trees
from lazytorch.frontend.modes import current
from lazytorch.frontend.number import Number
from lazytorch.frontend.record import record
from lazytorch.frontend.tensor import LazyTensor
from lazytorch.ir import Graph
from lazytorch.options import Options
from lazytorch.report import Report


@overload
def compile(  # type: ignore[overload-overlap]  # a module is a callable, too
    fn: nn.Module, **options: Any
) -> CompiledModule: ...
@overload
def compile(fn: Callable[..., Any], **options: Any) -> Compiled: ...
@overload
def compile(**options: Any) -> Callable[[Callable[..., Any]], Any]: ...
def compile(fn: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function or an `nn.Module`; a decorator too, with and without arguments.

    Nothing happens until the first call; inside the transforms of torch.func a call is eager.
    Options are the fields of `Options`. A compiled module is an object of the module's class that
    shares its fields.
    """
    chosen = Options.of(**options)
    if fn is None:
        return lambda f: compiled(f, chosen)
    return compiled(fn, chosen)


def compiled(fn: Callable[..., Any], options: Options) -> Compiled | CompiledModule:
    """A function or a module, compiled."""
    return CompiledModule.of(fn, options) if isinstance(fn, nn.Module) else Compiled(fn, options)


def disable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a function eager: a compiled function that calls it is cut there, and calls it at
    every replay with real tensors. A decorator too."""

    @functools.wraps(fn)
    def eager(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = trees.flatten((args, kwargs))
        recorders = [x.recorder for x in leaves if isinstance(x, LazyTensor | Number)]
        recorder = next(iter(recorders), current())
        if recorder is None:
            return fn(*args, **kwargs)
        varying = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor | Number)]
        kept = [None if i in varying else x for i, x in enumerate(leaves)]

        def call(*values: Any) -> Any:
            filled = list(kept)
            for i, value in zip(varying, values, strict=True):
                filled[i] = value
            real_args, real_kwargs = trees.unflatten(spec, filled)
            return fn(*real_args, **real_kwargs)

        operands = [recorder.operand(leaves[i]) for i in varying]
        return recorder.eager(call, operands, f"{fn.__qualname__} is kept eager")

    return eager


def reset() -> None:
    """Clear every compiled function's plans and the list of events; kernels stay on disk."""
    for compiled in Compiled.alive:
        compiled.release()
    Report.events.clear()


def trace(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Graph:
    """The graph that `fn` records on these arguments, before any pass."""
    install()
    leaves, spec = trees.flatten((args, kwargs))
    return record(fn, leaves, spec, fullgraph=True).piece.graph
