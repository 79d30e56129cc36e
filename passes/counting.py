"""Counting: constants that follow from their indices alone are computed in the kernels that read
them.

A causal mask is made of nothing but row and column numbers, positions are numbers that count. Kept
as constants they take memory and are read again at every call; a kernel has the numbers anyway.
With `tables`, so are those that only the prologue reads: what it made of them (the sines of rotary
embeddings) is made at every call then, and dropped behind its last reader, which is for programs
without room for a byte beside what eager holds.

Declines on constants of other patterns, where anything but a kernel's arithmetic reads them, and
where kernels do not know an element's index (on a CPU).
Exact: the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lazytorch.ir import Builder, Graph, Input, Node, with_inputs
from lazytorch.ops.base import Pointwise
from lazytorch.ops.compare import BitwiseAnd, Ge, Le
from lazytorch.ops.counting import Counting
from lazytorch.ops.generated import obstacle
from lazytorch.ops.masks import constant_value
from lazytorch.ops.pointwise import Sub
from lazytorch.types import Shape, TensorType

Fits = Callable[[TensorType], bool]

EXACT = 1 << 24
"""Numbers up to that are exact in float32."""


@dataclass(frozen=True)
class Line:
    """Numbers that count: `start + step * i` along dimension `dim`, counted from the last."""

    dim: int
    start: int
    step: int


@dataclass(frozen=True)
class Band:
    """True where the column less the row is at least `low` and at most `high`, where stated."""

    low: int | None
    high: int | None


def counting(graph: Graph, fits: Fits, tables: bool = False) -> Graph:
    """The graph whose kernels compute such constants, and with `tables` those of the prologue;
    `fits` says of which results' kernels know an element's index."""
    patterns: dict[Node, Line | Band | None] = {}
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        inputs = [done[x] for x in node.inputs]
        new = with_inputs(node, inputs)
        if arithmetic(node) and fits(typed(node)) and (tables or in_kernel(graph, node)):
            for k, x in enumerate(node.inputs):
                if x in graph.steady and x not in patterns:
                    patterns[x] = pattern(x)
                if (made := patterns.get(x)) is not None:
                    inputs[k] = numbers(made, x, typed(node).shape)
            counted = with_inputs(node, inputs)
            new = counted if counted.type == node.type else new
        done[node] = new
    return graph.replace(done)


def arithmetic(node: Node) -> bool:
    """Whether a kernel can compute an operation element by element."""
    return isinstance(node.op, Pointwise) and obstacle(node) is None


def in_kernel(graph: Graph, node: Node) -> bool:
    """Whether an operation runs at every call, beside others in one kernel."""
    beside = [x for x in (*node.inputs, *graph.users[node]) if x not in graph.steady]
    return node not in graph.steady and any(
        arithmetic(x) and typed(x).shape == typed(node).shape for x in beside
    )


def pattern(x: Node) -> Line | Band | None:
    """How the elements of a constant follow from their indices; None where they do not."""
    if not isinstance(x.type, TensorType) or isinstance(x.op, Input):
        return None
    shape, square = x.type.shape, x.type.dtype is torch.bool
    varying = [d for d, size in enumerate(shape) if size > 1]
    last_two = [x.type.rank - 2, x.type.rank - 1]
    if varying != last_two if square else len(varying) != 1:
        return None
    value = constant_value(x)
    if value is None or value.dtype.is_complex:
        return None
    if square:
        return band(value.reshape(shape[-2:]))
    return line(value.reshape(-1), varying[0] - x.type.rank)


def line(value: torch.Tensor, dim: int) -> Line | None:
    """Whole numbers that count, from a vector of them."""
    found = value.to(torch.float64)
    start, step = float(found[0]), float(found[1] - found[0])
    if not step or start % 1 or step % 1 or float(found.abs().max()) > EXACT:
        return None
    if bool(((found == 0) & found.signbit()).any()):
        return None
    counted = torch.arange(len(found), dtype=torch.float64) * step + start
    return Line(dim, int(start), int(step)) if torch.equal(found, counted) else None


def band(value: torch.Tensor) -> Band | None:
    """The diagonals of a matrix that are True throughout, if all others are False throughout."""
    rows, columns = value.shape
    diagonals = torch.cat([value[1:, 0].flip(0), value[0]]).nonzero() - (rows - 1)
    if not len(diagonals):
        return None
    low, high = int(diagonals.min()), int(diagonals.max())
    if not torch.equal(value, torch.ones_like(value).tril_(high).triu_(low)):
        return None
    found = Band(low if low > 1 - rows else None, high if high < columns - 1 else None)
    return None if found == Band(None, None) else found


def numbers(made: Line | Band, x: Node, shape: Shape) -> Node:
    """The constant x, computed at the places of a reader's elements."""
    b, rank, device = Builder(x.where), len(shape), typed(x).device
    if isinstance(made, Line):
        op = Counting(shape, rank + made.dim, made.start, made.step, typed(x).dtype, device)
        return b(op)
    row, column = [b(Counting(shape, d, 0, 1, torch.int32, device)) for d in (rank - 2, rank - 1)]
    diagonal = b(Sub(), column, row)
    inside = [b(Ge(), diagonal, made.low)] if made.low is not None else []
    inside += [b(Le(), diagonal, made.high)] if made.high is not None else []
    return inside[0] if len(inside) == 1 else b(BitwiseAnd(), *inside)


def typed(x: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(x.type, TensorType)
    return x.type
