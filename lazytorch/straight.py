"""Which memory a value shows, and which results a kernel may write straight into an input, or over
an operand that dies there."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from lazytorch.ir import Const, Graph, Input, Item, Node, Write
from lazytorch.ops.aten import Aten
from lazytorch.ops.base import Pointwise
from lazytorch.ops.copies import Clone, ToDevice
from lazytorch.ops.foreach import Foreach
from lazytorch.ops.fused import Fused
from lazytorch.ops.layout import Kept
from lazytorch.ops.number import ToNumber
from lazytorch.types import TensorType, TupleType

Places = dict[object, list[int]]
"""Numbers of operands by the memory that they show."""


def root(node: Node) -> object:
    """What owns the memory that `node` shows: a node, or one element of a node's tuple."""
    while node.op.view:
        source = node.inputs[0]
        if isinstance(node.op, Item) and not source.op.view:
            return source, node.op.index
        node = source
    return node


def groups(graph: Graph) -> set[Node]:
    """What a generated kernel computes, where there is a compiler."""
    return {x for x in graph.nodes if isinstance(x.op, Fused | Foreach)}


def written_straight(graph: Graph, groups: set[Node]) -> dict[Node, dict[int, Node]]:
    """For each of the `groups`, the results that its kernel may write straight into an input.

    A `Write` would copy them there when all else is done. Declines where something else still reads
    the input's old value when the group runs, or may show it (an output, another write, what an
    overload of torch's returned); where the group reads the input otherwise than each element at
    that element's own place; where the result is of another type than the input, or an output; and
    where the input's elements do not fill one block of memory.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    last: dict[object, int] = {}
    foreign: set[object] = set()
    for node, i in order.items():
        if not isinstance(node.op, Write):
            last |= dict.fromkeys(map(root, node.inputs), i)
        if isinstance(node.op, Aten) and node.op.may_alias:
            foreign |= set(map(root, node.inputs))
    writes = [x for x in graph.effects if isinstance(x.op, Write)]
    last |= {root(x.inputs[1]): len(order) for x in writes}  # copied when all else is done
    kept = {root(x) for x in graph.outputs} | foreign
    shown = {x: places(x) for x in groups} if writes else {}
    found: dict[Node, dict[int, Node]] = {}
    for write in writes:
        target, value = write.inputs
        made, k = (value.inputs[0], value.op.index) if isinstance(value.op, Item) else (value, 0)
        if (
            made in groups
            and k not in found.get(made, {})
            and value.type == target.type
            and isinstance(target.type, TensorType)
            and target.type.is_dense
            and root(value) not in kept
            and target not in kept
            and last.get(target, -1) <= order[made]
            and reads_in_place(made, k, target, shown[made].get(target, ()))
        ):
            found.setdefault(made, {})[k] = target
    return found


def places(node: Node) -> Places:
    """Where among its operands a node reads each piece of memory."""
    found: Places = {}
    for i, x in enumerate(node.inputs):
        found.setdefault(root(x), []).append(i)
    return found


def reads_in_place(node: Node, k: int, target: Node, at: Sequence[int]) -> bool:
    """Whether a group that reads the memory of `target` as the operands `at` reads no element but
    that of result `k` which lies there."""
    if not at:
        return True
    if not all(node.inputs[i] is target for i in at):
        return False
    op = node.op
    if isinstance(op, Foreach):
        own = [op.place(k // len(op.body.outputs), i) for i in op.flat]
        return all(i in own for i in at)
    assert isinstance(target.type, TensorType)
    # A number is one element of some tensor, and not of one with several.
    in_place = Pointwise | Clone | Const | Input
    allowed = in_place | ToNumber if target.type.numel > 1 else in_place
    return isinstance(op, Fused) and all(isinstance(x.op, allowed) for x in op.body.nodes)


def written_over(
    graph: Graph, groups: set[Node], straight: Mapping[Node, Mapping[int, Node]]
) -> dict[Node, dict[int, Node]]:
    """For each of the `groups`, the results that its kernel may write over an operand.

    An operand of the result's type that nothing reads afterwards gives its memory, so that a
    gradient's kernel does not need room for two of them. Declines as `written_straight` does, and
    where the memory is not the program's own: an input's, a library's that may show another's, the
    prologue's.
    """
    order = graph.nodes
    last: dict[object, int] = {}
    for i, node in enumerate(order):
        last |= dict.fromkeys(map(root, node.inputs), i)
    late = [x.inputs[1] for x in graph.effects if isinstance(x.op, Write)]
    kept: set[object] = {root(x) for x in (*graph.outputs, *graph.effects, *late)}
    found: dict[Node, dict[int, Node]] = {}
    for i, node in enumerate(order):
        if node not in groups or not isinstance(node.op, Fused) or not in_place(node.op):
            continue
        free = [
            x
            for x in dict.fromkeys(node.inputs)
            if last[root(x)] == i
            and root(x) not in kept
            and owned(x, graph, kept)
            and all(y is x for y in node.inputs if root(y) == root(x))
        ]
        results = node.type.items if isinstance(node.type, TupleType) else (node.type,)
        for k, typed in enumerate(results):
            target = next((x for x in free if x.type == typed), None)
            if target is not None and k not in straight.get(node, ()):
                free.remove(target)
                found.setdefault(node, {})[k] = target
    return found


def in_place(op: Fused) -> bool:
    """Whether a group reads each element of operands of its own size at that element's place."""
    return all(isinstance(x.op, Pointwise | Clone | Const | Input) for x in op.body.nodes)


def owned(x: Node, graph: Graph, kept: Container[object]) -> bool:
    """Whether a value is all that shows memory which one call of the program makes."""
    typed = x.type
    if not isinstance(typed, TensorType) or not typed.is_dense or typed.numel < 2:
        return False
    if isinstance(x.op, Item):
        source = x.inputs[0]
        return isinstance(source.op, Fused) and source not in kept
    op = x.op
    given = op.view or op.effect or isinstance(op, Aten | Kept | ToDevice)
    return not given and bool(x.inputs) and x not in graph.steady


def overwriting(graph: Graph) -> set[Node]:
    """The nodes that may write their result over an operand, run in the graph's order.

    Fresh memory costs more than the arithmetic on the CPU, where the kernel clears it page by page,
    and is room that the peak does not need on a GPU. Declines where anything reads the operand's
    memory afterwards, through a view or as an output, where the node reads it twice, where the
    result is of another type, and where the memory is not the program's own: an input's, a
    literal's, a view's, or what an overload of torch's returned.
    """
    order = graph.nodes
    last = {root(x): i for i, node in enumerate(order) for x in node.inputs}
    written = [x for effect in graph.effects for x in effect.inputs]  # when all else is done
    kept = {root(x) for x in (*graph.outputs, *graph.effects, *written)}
    found: set[Node] = set()
    for i, node in enumerate(order):
        if node.op.overwrites is None:
            continue
        target = node.inputs[node.op.overwrites]
        if (
            target.type == node.type
            and isinstance(target.type, TensorType)
            and target.type.is_dense
            and target.inputs
            and not target.op.view
            and not target.op.effect
            and not isinstance(target.op, Aten)
            and target not in kept
            and last[target] == i
            and sum(root(x) is target for x in node.inputs) == 1
        ):
            found.add(node)
    return found
