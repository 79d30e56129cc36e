"""C++ kernels that do the same for each of several members, shared between threads as one."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any

import torch

from lazytorch.lower.cpp.pages import allocator
from lazytorch.lower.cpp.tile import tile_source
from lazytorch.lower.kernel import NAME, Launch, outputs_of
from lazytorch.lower.steps import Operand, steps
from lazytorch.ops.foreach import FLAT, Foreach
from lazytorch.ops.fused import Fused
from lazytorch.types import Strides, TensorType, tensor_type

NUMBER = tensor_type((), torch.float64)

EXPORTED = """
extern "C" void {name}(const int64_t* n, void* const* p) {{
    lt::launch_each(tile_{name}, n, {count}, p);
}}
"""


def foreach_source(op: Foreach, rounding: bool) -> str:
    """A tile of one member, and the exported function that walks all members."""
    reads, outputs = types(op)
    along = (*strides(reads), *strides(outputs))
    tile = tile_source(steps(op.body, FLAT), op.body, reads, outputs, along, (), rounding)
    return tile + EXPORTED.format(name=NAME, count=len(along))


def types(op: Foreach) -> tuple[tuple[TensorType, ...], tuple[TensorType, ...]]:
    """What the body reads, of a number one double; and what it makes."""
    given = [x.type for x in op.body.inputs]
    reads = tuple([x if isinstance(x, TensorType) else NUMBER for x in given])
    return reads, outputs_of(Fused(op.body))


def strides(found: Sequence[TensorType]) -> Strides:
    """From one element to the next: 0 of what is read once for a member."""
    return tuple([1 if x.shape == FLAT else 0 for x in found])


def foreach_launch(
    address: int, op: Foreach, operands: tuple[Operand, ...], into: tuple[int, ...]
) -> Launch:
    """The function that a call site calls; the outputs `into` are given behind the operands.

    One array has the addresses of all: each member's operands, then its results.
    """
    made = [x for x in op.infer(*operands).items if isinstance(x, TensorType)]
    reads, outputs = types(op)
    each = (*reads, *outputs)
    step = [s * x.dtype.itemsize for s, x in zip(strides(each), each, strict=True)]
    ends = list(accumulate([x.numel for x in made[:: len(outputs)]]))
    described = array("q", [op.count, *step, *ends])
    tensors = [i for i, x in enumerate(operands) if isinstance(x, TensorType)]
    floats = [i for i in range(len(operands)) if i not in set(tensors)]
    # Addresses are found of tensors, then of results, then of numbers; which of them where:
    rank = {i: k for k, i in enumerate(tensors)}
    rank |= {i: len(tensors) + len(made) + k for k, i in enumerate(floats)}
    order: list[int] = []
    for m in range(op.count):
        order += [rank[op.place(m, i)] for i in range(len(reads))]
        order += [len(tensors) + m * len(outputs) + j for j in range(len(outputs))]
    place = {k: len(operands) + i for i, k in enumerate(into)}
    sources = [place.get(k) for k in range(len(made))]
    new = [allocator(x) for x in made]
    arranged: itemgetter[Any] = itemgetter(*order)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)
    n, find = described.buffer_info()[0], torch.Tensor.data_ptr

    def launch(*xs: Any, held: object = described) -> tuple[torch.Tensor, ...]:
        results = tuple(
            [make() if at is None else xs[at] for make, at in zip(new, sources, strict=True)]
        )
        found = [find(xs[i]) for i in tensors]
        found += map(find, results)
        numbers = array("d", [xs[i] for i in floats])
        begin = numbers.buffer_info()[0]
        found += range(begin, begin + 8 * len(floats), 8)
        pointers = array("q", arranged(found))
        function(n, pointers.buffer_info()[0])
        return results

    return launch
