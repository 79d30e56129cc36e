"""cuDNN attention: attention with its derivative by cuDNN's kernels, where these are faster.

Which kernel a derivative goes with is recorded for any GPU; the newer ones have a faster pair.

Declines on masks, on heads of other sizes than cuDNN takes, where the GPU is older or torch was
told not to use cuDNN's (`fits`), and where anything but the derivative reads what was kept for it:
each pair of kernels keeps something else. Safe within the accuracy rule: the same sums in another
order.
"""

from __future__ import annotations

from collections.abc import Callable

from lazytorch.ir import Graph, Item, Node, with_inputs
from lazytorch.ops.attention_backward import AttentionBackward, AttentionSaving
from lazytorch.ops.cudnn import LARGEST
from lazytorch.types import TensorType

Fits = Callable[[TensorType, TensorType], bool]


def cudnn_attention(graph: Graph, fits: Fits) -> Graph:
    """The graph whose attentions are cuDNN's; `fits` says for which queries and keys."""
    chosen = {x for x in graph.nodes if suits(x, graph, fits)}
    if not chosen:
        return graph
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done:
            continue
        new = with_inputs(node, [done[x] for x in node.inputs])
        kept = node.inputs[5].inputs[0] if isinstance(node.op, AttentionBackward) else node
        if kept in chosen and isinstance(node.op, AttentionSaving | AttentionBackward):
            op = node.op.with_attributes(kernel="cudnn")
            new = Node(op, new.inputs, op.infer(*[x.type for x in new.inputs]), node.where)
        done[node] = new
    return graph.replace(done)


def suits(node: Node, graph: Graph, fits: Fits) -> bool:
    """Whether an attention and all that reads what it keeps can be cuDNN's."""
    op = node.op
    if not isinstance(op, AttentionSaving) or op.kernel != "flash":
        return False
    query, key = [x.type for x in node.inputs[:2]]
    assert isinstance(query, TensorType) and isinstance(key, TensorType)
    items = graph.users[node]
    roots = {*graph.outputs, *graph.effects}
    sums = [x for x in items if isinstance(x.op, Item) and x.op.index == 1]
    return (
        query.shape[-1] <= LARGEST
        and all(isinstance(x.op, Item) for x in items)
        and not roots.intersection((node, *sums))
        and all(
            isinstance(user.op, AttentionBackward) and user.inputs[5] is x
            for x in sums
            for user in graph.users[x]
        )
        and fits(query, key)
    )
