"""Which memory a value shows, and which results may be written over an operand or an input."""

from __future__ import annotations

from lazytorch.ir import Const, Graph, Input, Item, Node, Write
from lazytorch.ops.aten import Aten
from lazytorch.ops.base import Pointwise
from lazytorch.ops.foreach import Foreach
from lazytorch.ops.fused import Fused
from lazytorch.ops.number import ToNumber
from lazytorch.types import TensorType


def root(node: Node) -> object:
    """What owns the memory that `node` shows: a node, or one element of a node's tuple."""
    while node.op.view:
        source = node.inputs[0]
        if isinstance(node.op, Item) and not source.op.view:
            return source, node.op.index
        node = source
    return node


def overwriting(graph: Graph) -> set[Node]:
    """The nodes that may write their result over an operand, run in the graph's order on the CPU.

    Fresh memory costs more there than the arithmetic: the kernel clears it page by page. Declines
    where anything reads the operand's memory afterwards, through a view or as an output, where the
    node reads it twice, where the result is of another type, and where the memory is not the
    program's own: an input's, a literal's, a view's, or what an overload of torch's returned.
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
            and target.type.device.type == "cpu"
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
            and reads_in_place(made, k, target)
        ):
            found.setdefault(made, {})[k] = target
    return found


def written_early(graph: Graph, done: set[Node]) -> dict[Node, list[Node]]:
    """For each node, the writes that may be made right behind it: the value is there and nothing
    reads what the input held any more, so the value need not live to the end.

    Declines on the inputs that are `done`, where an output, another write or what an overload of
    torch's returned may show the input, and where the value is no memory of the program's own.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    writes = [x for x in graph.effects if isinstance(x.op, Write) and x.inputs[0] not in done]
    shown = {root(x) for x in (*graph.outputs, *[w.inputs[1] for w in writes])}
    last: dict[object, Node] = {}
    for node in order:
        if not isinstance(node.op, Write):
            last |= dict.fromkeys(map(root, node.inputs), node)
        if isinstance(node.op, Aten) and node.op.may_alias:
            shown |= set(map(root, node.inputs))
    found: dict[Node, list[Node]] = {}
    for write in writes:
        target, value = write.inputs
        owner = root(value)
        own = not (isinstance(owner, Node) and isinstance(owner.op, Input | Const))
        if own and target not in shown:
            at = max(value, last.get(target, value), key=order.__getitem__)
            found.setdefault(at, []).append(write)
    return found


def reads_in_place(node: Node, k: int, target: Node) -> bool:
    """Whether a group reads `target` for no element but that of result `k` which lies there."""
    if all(root(x) is not target for x in node.inputs):
        return True
    if not all(x is target for x in node.inputs if root(x) is target):
        return False
    op = node.op
    if isinstance(op, Foreach):
        own = [op.place(k // len(op.body.outputs), i) for i in op.flat]
        return all(i in own for i, x in enumerate(node.inputs) if x is target)
    assert isinstance(target.type, TensorType)
    # A number is one element of some tensor, and not of one with several.
    in_place = Pointwise | Const | Input
    allowed = in_place | ToNumber if target.type.numel > 1 else in_place
    return isinstance(op, Fused) and all(isinstance(x.op, allowed) for x in op.body.nodes)
