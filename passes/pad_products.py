"""Pad products: what a large matrix product reads gets zeros, so that every row is aligned.

The gradient of a language model's logits has as many columns as its vocabulary has words, often an
odd number. Rows that do not begin on a 16-byte boundary, or sums over an odd number of products,
keep cuBLAS from its fast kernels, by a factor of several. Zeros at the end of each row change no
sum; where they make additional rows of a result, a slice cuts them off, which costs nothing. The
copies cost a small part of what the product gains.

Declines on inputs and on what the prologue computes (`pad_features` has those), on vectors and
batches of matrices, on aligned rows, where the result would get additional columns, on small
products, and where tensor cores are not used (`fits`). Safe within the accuracy rule: the same
products, which a library may sum in another order.
"""

from __future__ import annotations

from collections.abc import Callable

from lazytorch.ir import Builder, Graph, Input, Node, with_inputs
from lazytorch.ops.alignment import missing
from lazytorch.ops.copies import Pad, rerooted
from lazytorch.ops.layout import Permute, Slice
from lazytorch.ops.linalg import Mm
from lazytorch.types import TensorType

Fits = Callable[[TensorType], bool]

SMALLEST = 2**30
"""Multiplications from which it pays to write an operand once more."""


def pad_products(graph: Graph, fits: Fits, smallest: int = SMALLEST) -> Graph:
    """The graph whose large products read aligned rows; `fits` says of which operands."""
    steady = graph.steady
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    made: dict[tuple[Node, bool], Node] = {}
    for node in graph.nodes:
        if node in done:
            continue
        done[node] = with_inputs(node, [done[x] for x in node.inputs])
        if not isinstance(node.op, Mm) or not fits(typed(node.inputs[0])):
            continue
        left, right = [typed(x).shape for x in node.inputs]
        if left[0] * left[1] * right[1] >= smallest and not steady.intersection(node.inputs):
            done[node] = padded(done[node], made)
    return rerooted(graph, done)


def padded(node: Node, made: dict[tuple[Node, bool], Node]) -> Node:
    """The product of operands with zeros behind their rows; itself where these are aligned."""
    left, right = node.inputs
    rows, inner = typed(left).shape
    by_row = computed(left) and typed(left).strides == (inner, 1)
    by_column = computed(left) and typed(left).strides == (1, rows)
    b = Builder(node.where)
    if by_row and missing(inner, typed(left)):
        return b(Mm(), widened(left, True, made), widened(right, False, made))
    if by_column and missing(rows, typed(left)):
        y = b(Mm(), widened(left, False, made), right)
        return b(Slice(0, 0, rows), y)
    return node


def computed(x: Node) -> bool:
    """Whether a value is made by the graph itself."""
    while x.op.view:
        x = x.inputs[0]
    return not isinstance(x.op, Input)


def widened(x: Node, last: bool, made: dict[tuple[Node, bool], Node]) -> Node:
    """`x` with zeros behind its last dimension, or its first."""
    if isinstance(x.op, Permute) and x.op.perm == (1, 0):
        return Builder(x.where)(x.op, widened(x.inputs[0], not last, made))
    if (x, last) not in made:
        t = typed(x)
        more = missing(t.shape[1 if last else 0], t)
        known = shown(x, more)
        pad = (0, more) if last else (0, 0, 0, more)
        made[x, last] = Builder(x.where)(Pad(pad), x) if last or known is None else known
    return made[x, last]


def shown(x: Node, more: int) -> Node | None:
    """The value of which `x` shows all rows but `more` rows of zeros at the end."""
    if not isinstance(x.op, Slice):
        return None
    source = x.inputs[0]
    zeros = Pad((0, 0, 0, more))
    return source if source.op == zeros and source.inputs[0].type == x.type else None


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type
