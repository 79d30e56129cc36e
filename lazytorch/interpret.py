"""The reference interpreter: a graph node by node with torch, the meaning that passes keep."""

from __future__ import annotations

from typing import Any

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.ir import Alias, Graph, Node, Write
from lazytorch.types import TensorType


def evaluate(graph: Graph, values: tuple[Any, ...]) -> dict[Node, Any]:
    """Every node's value when the inputs have `values`; inputs are not written to."""
    known: dict[Node, Any] = dict(zip(graph.inputs, values, strict=True))
    for node in graph.nodes:
        if node not in known and not isinstance(node.op, Write):
            known[node] = node.op.run(*[known[x] for x in node.inputs])
    return known


def interpret(graph: Graph, *values: Any) -> tuple[Any, ...]:
    """The outputs as eager gives them: its strides, its aliasing, fresh memory for the rest.

    Inputs are written last, when nothing reads their old values any more.
    """
    known = evaluate(graph, values)
    given = {storage(value) for value in values if isinstance(value, torch.Tensor)}
    kept = [known[node] for node in graph.nodes if not node.inputs]  # inputs and constants
    taken = {storage(value) for value in kept if isinstance(value, torch.Tensor)}
    outputs: list[Any] = []
    for node, alias in zip(graph.outputs, graph.aliases, strict=True):
        value = known[node]
        if alias is None and isinstance(node.type, TensorType):
            value = owned(value, node.type, taken)
            taken.add(storage(value))
        outputs.append(value)
    writes: list[tuple[torch.Tensor, torch.Tensor]] = []
    for node in graph.effects:
        if isinstance(node.op, Write):
            target, value = [known[x] for x in node.inputs]
            # What shows an input must be read before any input is written.
            writes.append((target, value.clone() if storage(value) in given else value))
    for target, value in writes:
        target.copy_(value)
    for i, alias in enumerate(graph.aliases):
        if alias is not None:
            outputs[i] = aliased(alias, values if alias.source == "input" else outputs)
    return tuple(outputs)


def aliased(alias: Alias, sources: tuple[Any, ...] | list[Any]) -> Any:
    """The view, or the very object, that an alias names."""
    source = sources[alias.index]
    if alias.strides is None:
        return source
    if alias.dtype is None:
        base, offset = source, int(source.storage_offset()) + alias.offset
    else:
        base, offset = reread(source, alias.dtype, alias.offset)
    view = base.as_strided(alias.shape, alias.strides, offset)
    return view.conj() if alias.conj else view


def reread(source: torch.Tensor, dtype: torch.dtype, nbytes: int) -> tuple[torch.Tensor, int]:
    """The memory of `source` as another dtype, and where `nbytes` after its first element lies.

    By torch's differentiable views where there are such: between complex numbers and pairs.
    """
    nbytes += int(source.storage_offset()) * source.itemsize
    if nbytes % dtype.itemsize:
        raise UnsupportedError(
            f"memory that begins {nbytes} bytes into its storage cannot be viewed as {dtype}"
        )
    if source.is_complex() and source.dtype.to_real() is dtype:
        return torch.view_as_real(source), nbytes // dtype.itemsize
    size = source.untyped_storage().nbytes() // dtype.itemsize * dtype.itemsize
    flat = source.as_strided((size // source.itemsize,), (1,), 0)
    if dtype.is_complex and dtype.to_real() is source.dtype:
        return torch.view_as_complex(flat.view(-1, 2)), nbytes // dtype.itemsize
    return flat.view(dtype), nbytes // dtype.itemsize


def owned(value: torch.Tensor, typed: TensorType, taken: set[int]) -> torch.Tensor:
    """`value` with the strides that its type states, in memory that nobody else holds."""
    if tuple(value.stride()) == typed.strides and storage(value) not in taken:
        return value
    return laid_out(value, typed)


def laid_out(value: torch.Tensor, typed: TensorType) -> torch.Tensor:
    """A copy of `value` with the strides of its type; what repeats (stride 0) is kept once."""
    repeats = [i for i, s in enumerate(typed.strides) if s == 0 and typed.shape[i] > 1]
    shape = tuple(1 if i in repeats else size for i, size in enumerate(typed.shape))
    fresh = torch.empty_strided(shape, typed.strides, dtype=typed.dtype, device=typed.device)
    for i in repeats:
        value = value.narrow(i, 0, 1)
    fresh.copy_(value)
    return fresh.expand(typed.shape) if repeats else fresh


def storage(value: torch.Tensor) -> int:
    """Identity of a tensor's memory."""
    return value.untyped_storage()._cdata
