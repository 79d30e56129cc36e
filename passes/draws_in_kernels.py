"""Draws in kernels: dropout on a GPU becomes arithmetic, which draws torch's very numbers itself.

Torch's kernel reads a tensor, draws for each element whether it stays, and writes the products and
a mask. Which number an element gets is a function of the generator's seed and offset and of the
element's place in memory (`ops/philox.py`): a kernel that knows seed and offset draws it again
wherever it is wanted, in the forward and in the backward, and no mask is kept. What is left of the
call is a look at the generator, which moves it on as far as torch's kernel does.

Declines where the tensor has gaps or is so odd that torch's kernel draws in another pattern; where
its memory begins off a boundary or anywhere, as that of state, of what is written in its place and
of what is not ours may; and on devices of which it is not known how many threads they hold, on
which the pattern depends.
"""

from __future__ import annotations

from collections.abc import Mapping

from lazytorch.ir import Builder, Graph, Input, Item, Node, Write, with_inputs
from lazytorch.ops.after import After
from lazytorch.ops.alignment import BOUNDARY
from lazytorch.ops.aten import Aten
from lazytorch.ops.base import View
from lazytorch.ops.custom import Custom
from lazytorch.ops.philox import (
    BLOCK,
    Dropout,
    PhiloxMask,
    PhiloxState,
    bound_of,
    factor_of,
    increment_of,
    vector_of,
)
from lazytorch.ops.random import NativeDropout
from lazytorch.ops.writes import SelectScatter, SliceScatter
from lazytorch.types import TensorType

REACH = 2**31 - 2**16
"""Elements that 32-bit places reach."""


Place = tuple[Node, int | None]
"""Whose memory a value lies in, and how many bytes behind the first; None if that is not known."""


def draws_in_kernels(graph: Graph, resident: int, apart: frozenset[int] = frozenset()) -> Graph:
    """The graph whose dropouts are arithmetic, for a GPU that holds `resident` threads at once. The
    inputs `apart` begin off a boundary, or it is not known where."""
    if resident < BLOCK:
        return graph
    places = dropped(graph)
    if not places:
        return graph
    known = {x for i, x in enumerate(graph.inputs) if i not in apart and is_argument(x)}
    found: dict[Node, tuple[Node, Node, Node]] = {}  # a dropout's state, products and mask
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if isinstance(node.op, Item) and node.inputs[0] in found:
            done[node] = found[node.inputs[0]][1 + node.op.index]
        elif node not in done:
            made = done[node] = with_inputs(node, [done[x] for x in node.inputs])
            if node in places and on_boundary(places[node], known):
                replaced = drawn(made, resident)
                if replaced is not None:
                    found[node], done[node] = replaced, replaced[0]
    return graph.replace(done)


def drawn(node: Node, resident: int) -> tuple[Node, Node, Node] | None:
    """The state, the products and the mask of a dropout; None where torch's kernel is to draw."""
    op, (x,) = node.op, node.inputs
    assert isinstance(op, NativeDropout) and isinstance(x.type, TensorType)
    vector, keep = vector_of(x.type), 1.0 - op.p
    if vector is None or not 0 < op.p < 1 or not 0 < x.type.numel <= REACH:
        return None
    b, threads = Builder(node.where), resident // BLOCK * BLOCK
    state = b(PhiloxState(increment_of(x.type, threads), x.type.device))
    mask = PhiloxMask(x.type.shape, x.type.strides, bound_of(keep), vector, threads)
    kept = b(mask, b(Item(0), state), b(Item(1), state))
    product = b(Dropout(factor_of(keep)), x, kept)
    same = (product.type, kept.type) == getattr(node.type, "items", None)
    return (state, product, kept) if same else None


def on_boundary(place: Place, known: set[Node]) -> bool:
    """Whether memory begins on a boundary of `BOUNDARY` bytes, where what is made and the inputs
    `known` do. What other operations give than torch's own may be a part of something larger."""
    root, behind = place
    if behind is None or behind % BOUNDARY or isinstance(root.op, Custom):
        return False
    if isinstance(root.op, Aten) and (not root.op.overload.startswith("aten.") or several(root)):
        return False
    return root in known or not isinstance(root.op, Input)


def several(node: Node) -> bool:
    """Whether an operation has several results, which may be parts of one piece of memory."""
    return not isinstance(node.type, TensorType)


def dropped(graph: Graph) -> dict[Node, Place]:
    """The dropouts that torch's kernel draws for, and where each one's operand lies."""
    found = [x for x in graph.nodes if isinstance(x.op, NativeDropout)]
    inside = in_place(graph) if found else {}
    return {x: place_of(x.inputs[0], inside) for x in found}


def place_of(node: Node, inside: Mapping[Node, Place]) -> Place:
    """Where a value lies, of which some lie `inside` of inputs."""
    behind: int | None = 0
    while node not in inside and node.op.view:
        x = node.inputs[0]
        if isinstance(node.op, View) and isinstance(x.type, TensorType) and behind is not None:
            behind += node.op.offset(x.type) * x.type.dtype.itemsize
        elif not isinstance(node.op, Item | After):
            behind = None
        node = x
    if node not in inside:
        return node, behind
    root, before = inside[node]
    return root, None if before is None or behind is None else before + behind


def in_place(graph: Graph) -> dict[Node, Place]:
    """The values that lie where an input does: eager computes them into it, whole or in a part."""
    found: dict[Node, Place] = {}
    for effect in graph.effects:
        if not isinstance(effect.op, Write):
            continue
        target = effect.inputs[0]
        stack: list[tuple[Node, int | None]] = [(effect.inputs[1], 0)]
        while stack:
            node, behind = stack.pop()
            if node is target or node in found:
                continue
            found[node] = target, behind
            if isinstance(node.op, SliceScatter | SelectScatter):
                stack += [(node.inputs[0], behind), (node.inputs[1], None)]
            elif node.inputs and node.inputs[0].type == node.type:  # what it was computed over
                stack.append((node.inputs[0], behind))
    return found


def is_argument(x: Node) -> bool:
    """Whether an input is no state."""
    return isinstance(x.op, Input) and x.op.role == "argument"
