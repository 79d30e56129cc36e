"""Draws in kernels: dropout on a GPU becomes arithmetic, which draws torch's very numbers itself.

Torch's kernel reads a tensor, draws for each element whether it stays, and writes the products and
a mask. Which number an element gets is a function of the generator's seed and offset and of the
element's place in memory (`ops/philox.py`): a kernel that knows seed and offset draws it again
wherever it is wanted, in the forward and in the backward, and no mask is kept. What is left of the
call is a look at the generator, which moves it on as far as torch's kernel does.

Declines where the tensor has gaps or is so small or odd that torch's kernel draws in another
pattern; where it may begin anywhere in memory, as a parameter's view may; and on devices of which
it is not known how many threads they hold, on which the pattern depends.
"""

from __future__ import annotations

from lazytorch.ir import Builder, Graph, Input, Item, Node, with_inputs
from lazytorch.ops.base import View
from lazytorch.ops.philox import (
    BLOCK,
    WIDTH,
    Dropout,
    PhiloxMask,
    PhiloxState,
    bound_of,
    factor_of,
    increment_of,
    vector_of,
)
from lazytorch.ops.random import NativeDropout
from lazytorch.types import TensorType

REACH = 2**31 - 2**16
"""Elements that 32-bit places reach."""


def draws_in_kernels(graph: Graph, resident: int) -> Graph:
    """The graph whose dropouts are arithmetic, for a GPU that holds `resident` threads at once."""
    if resident < BLOCK:
        return graph
    found: dict[Node, tuple[Node, Node, Node]] = {}  # a dropout's state, products and mask
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if isinstance(node.op, Item) and node.inputs[0] in found:
            done[node] = found[node.inputs[0]][1 + node.op.index]
        elif node not in done:
            made = done[node] = with_inputs(node, [done[x] for x in node.inputs])
            if isinstance(node.op, NativeDropout) and begins_on_boundary(node.inputs[0]):
                replaced = drawn(made, node.op, resident)
                if replaced is not None:
                    found[node], done[node] = replaced, replaced[0]
    return graph.replace(done)


def drawn(node: Node, op: NativeDropout, resident: int) -> tuple[Node, Node, Node] | None:
    """The state, the products and the mask of a dropout; None where torch's kernel is to draw."""
    (x,) = node.inputs
    assert isinstance(x.type, TensorType)
    vector, keep = vector_of(x.type), 1.0 - op.p
    if vector is None or not 0 < op.p < 1 or x.type.numel > REACH:
        return None
    b, threads = Builder(node.where), resident // BLOCK * BLOCK
    state = b(PhiloxState(increment_of(x.type, threads), x.type.device))
    mask = PhiloxMask(x.type.shape, x.type.strides, bound_of(keep), vector, threads)
    kept = b(mask, b(Item(0), state), b(Item(1), state))
    product = b(Dropout(factor_of(keep)), x, kept)
    same = (product.type, kept.type) == getattr(node.type, "items", None)
    return (state, product, kept) if same else None


def begins_on_boundary(node: Node) -> bool:
    """Whether a value's memory begins on a boundary of `WIDTH` bytes, where arguments' does."""
    bytes_before = 0
    while node.op.view:
        x = node.inputs[0]
        if isinstance(node.op, View) and isinstance(x.type, TensorType):
            bytes_before += node.op.offset(x.type) * x.type.dtype.itemsize
        elif not isinstance(node.op, Item):
            return False
        node = x
    known = not isinstance(node.op, Input) or node.op.role == "argument"
    return known and bytes_before % WIDTH == 0
