"""The calls of samples_nn as samples of the operations that they import as."""

from __future__ import annotations

from typing import Any

import samples_nn
import torch
from samples import Sample

import lazytorch.frontend.aten  # noqa: F401  # enters the importers
from lazytorch.frontend.imports import IMPORTERS, Written, overload
from lazytorch.ir import Builder, Item, Node, input
from lazytorch.ops.aten import Aten, value_type


def lifted(value: Any, inputs: dict[Node, torch.Tensor]) -> Any:
    """The argument with its tensors made inputs of a graph."""
    if isinstance(value, torch.Tensor):
        node = input(f"x{len(inputs)}", value_type(value))
        inputs[node] = value
        return node
    return [lifted(v, inputs) for v in value] if isinstance(value, list) else value


def imported(name: str, given: samples_nn.Call, inputs: dict[Node, torch.Tensor]) -> Any:
    """What the importer makes of a call whose tensors it enters as `inputs`."""
    args, kwargs = given
    operands = [lifted(a, inputs) for a in args]
    return IMPORTERS[overload(name)](Builder(), *operands, **kwargs)


def filled(value: Any, tensors: list[torch.Tensor], made: list[torch.Tensor]) -> Any:
    """The argument with each of `tensors` replaced by its partner in `made`."""
    if isinstance(value, torch.Tensor):
        return made[next(i for i, t in enumerate(tensors) if t is value)]
    return [filled(v, tensors, made) for v in value] if isinstance(value, list) else value


def sample(name: str, given: samples_nn.Call) -> Sample | None:
    """The call as a sample; None where it imports as an `Aten`."""
    inputs: dict[Node, torch.Tensor] = {}
    result = imported(name, given, inputs)
    written = result.writes if isinstance(result, Written) else ()
    first = result.results if isinstance(result, Written) else result
    node = first[0] if isinstance(first, tuple) else first
    if isinstance(node.op, Item):
        (node,) = node.inputs
    if isinstance(node.op, Aten):
        return None
    tensors = [inputs[x] for x in node.inputs]

    def reference(*operands: torch.Tensor) -> Any:
        made = [x.clone() for x in operands] if written else list(operands)
        args = [filled(a, tensors, made) for a in given[0]]
        out = overload(name)(*args, **given[1])
        if written or (isinstance(first, Node) and first is not node):
            return (out, *[args[position] for position, _ in written])
        return out

    return Sample(node.op, tuple(tensors), reference, imported=result is node, label=name)


SAMPLES = [
    found
    for name, calls in samples_nn.CALLS.items()
    for make in (samples_nn.Make(), samples_nn.Make(torch.float64, "permuted"))
    for given in calls(make)
    if (found := sample(name, given)) is not None
]
