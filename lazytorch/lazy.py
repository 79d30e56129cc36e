"""Lazy use: `lt.tensor`, `lt.lazy(model)`, `lt.eval`, factories; nothing runs until looked at."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from lazytorch import passes
from lazytorch.frontend import trees
from lazytorch.frontend.alias import Cell
from lazytorch.frontend.modes import below_autograd
from lazytorch.frontend.pending import Pending
from lazytorch.frontend.tensor import LazyTensor, make
from lazytorch.ir import Graph
from lazytorch.lower.program import Program, lower
from lazytorch.options import Options
from lazytorch.runtime.build import Builds
from lazytorch.types import TensorType

T = TypeVar("T")
Device = int | str | torch.device | None
PLANS = 256  # compiled pending graphs that are kept; the least recently used is dropped


class Session(threading.local):
    """The deferred work of each thread, and the plans that it compiled."""

    def __init__(self) -> None:
        self.pending = Pending(self.execute)
        self.plans: OrderedDict[object, Program] = OrderedDict()
        self.builds = Builds(Options())

    def execute(self, graph: Graph, values: Sequence[Any]) -> tuple[Any, ...]:
        """Optimize, lower and run a pending graph; one seen before only runs."""
        key = graph.key
        program = self.plans.get(key)
        if program is None:
            optimized = passes.optimize(graph)
            program = lower(optimized, self.builds.target(optimized), "pending")
            self.builds.start(program.calls)
            self.plans[key] = program
            if len(self.plans) > PLANS:
                self.plans.popitem(last=False)
        else:
            self.plans.move_to_end(key)
        return program.run(*values)


SESSION = Session()


def placed(device: Device) -> torch.device:
    """What `device` means: what torch takes, an int for a GPU, -1 for the CPU, None for default."""
    if device is None:
        return torch.get_default_device()
    if device == -1:
        return torch.device("cpu")
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)


def wrapped(value: torch.Tensor) -> LazyTensor:
    """A lazy tensor that stands for a real one of its own."""
    r = SESSION.pending
    typed = TensorType(tuple(value.shape), value.dtype, value.device, tuple(value.stride()))
    cell = Cell(r.hold(value, typed), int(value.storage_offset()))
    return make(LazyTensor, r, cell, None, typed, cell.offset, value.requires_grad)


def tensor(
    data: Any,
    *,
    dtype: torch.dtype | None = None,
    device: Device = None,
    requires_grad: bool = False,
) -> LazyTensor:
    """A lazy tensor holding a copy of `data` (numbers, lists, NumPy arrays, tensors)."""
    if isinstance(data, torch.Tensor):
        value = data.detach().to(device=placed(device), dtype=dtype, copy=True)
    else:
        value = torch.tensor(data, dtype=dtype, device=placed(device))
    return wrapped(value.requires_grad_(requires_grad))


def from_numpy(array: Any) -> LazyTensor:
    """A lazy tensor on the memory of a NumPy array, which must not change until it is read."""
    return wrapped(torch.from_numpy(array))


def from_dlpack(source: Any) -> LazyTensor:
    """A lazy tensor on the memory of any DLPack exporter."""
    return wrapped(torch.from_dlpack(source))


def recorded(
    factory: Callable[..., torch.Tensor], *args: Any, device: Device, **kwargs: Any
) -> Any:
    """A factory call on the recorder: the result is lazy."""
    requires_grad = kwargs.pop("requires_grad", False)
    with below_autograd(), SESSION.pending.mode:
        made = factory(*args, device=placed(device), **kwargs)
    return made.requires_grad_(requires_grad) if requires_grad else made


def zeros(*size: Any, device: Device = None, **kwargs: Any) -> LazyTensor:
    """`torch.zeros`, lazily."""
    return recorded(torch.zeros, *size, device=device, **kwargs)


def ones(*size: Any, device: Device = None, **kwargs: Any) -> LazyTensor:
    """`torch.ones`, lazily."""
    return recorded(torch.ones, *size, device=device, **kwargs)


def full(size: Sequence[int], value: Any, *, device: Device = None, **kwargs: Any) -> LazyTensor:
    """`torch.full`, lazily."""
    return recorded(torch.full, size, value, device=device, **kwargs)


def empty(*size: Any, device: Device = None, **kwargs: Any) -> LazyTensor:
    """`torch.empty`, lazily; the values are zeros, since nothing has no value in a graph."""
    return recorded(torch.empty, *size, device=device, **kwargs)


def arange(*bounds: Any, device: Device = None, **kwargs: Any) -> LazyTensor:
    """`torch.arange`, lazily."""
    return recorded(torch.arange, *bounds, device=device, **kwargs)


def eye(*size: int, device: Device = None, **kwargs: Any) -> LazyTensor:
    """`torch.eye`, lazily."""
    return recorded(torch.eye, *size, device=device, **kwargs)


def rand(*size: Any, device: Device = None, **kwargs: Any) -> LazyTensor:
    """`torch.rand`: drawn at once, so that a seed gives eager's numbers in eager's order."""
    return recorded(torch.rand, *size, device=device, **kwargs)


def randn(*size: Any, device: Device = None, **kwargs: Any) -> LazyTensor:
    """`torch.randn`: drawn at once, so that a seed gives eager's numbers in eager's order."""
    return recorded(torch.randn, *size, device=device, **kwargs)


def lazy(value: T) -> T:
    """A tensor, or a whole nested model, moved over by one call.

    A model is copied in structure; its parameters and buffers become lazy tensors on the memory
    of the original's, and the original is left as it is. Tied weights stay tied.
    """
    if isinstance(value, LazyTensor):
        return value
    if isinstance(value, torch.Tensor):
        return wrapped(value)  # type: ignore[return-value]  # a LazyTensor is a Tensor
    if isinstance(value, nn.Module):
        memo: dict[int, Any] = {}
        for parameter in value.parameters():
            made = wrapped(parameter)
            memo[id(parameter)] = nn.Parameter(made, parameter.requires_grad)
        for buffer in value.buffers():
            memo[id(buffer)] = wrapped(buffer)
        return copy.deepcopy(value, memo)
    leaves, spec = trees.flatten(value)
    return trees.unflatten(
        spec, [lazy(x) if isinstance(x, torch.Tensor | nn.Module) else x for x in leaves]
    )


def eval(*values: Any) -> None:
    """Compute lazy tensors (also inside lists, dicts and modules) now, all at once."""
    found: list[LazyTensor] = []
    for value in values:
        leaves = (
            [*value.parameters(), *value.buffers()]
            if isinstance(value, nn.Module)
            else trees.flatten(value)[0]
        )
        found += [x for x in leaves if isinstance(x, LazyTensor)]
    if found:
        SESSION.pending.eval(found)
