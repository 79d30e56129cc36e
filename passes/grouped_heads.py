"""Grouped heads: repeats of the heads of key and value are not written out for attention.

Models whose query heads share heads of key and value often repeat these first, in whatever dtype
they have there. The flash kernels take the heads as they are, and their derivative gives what flows
to them, summed over each group. With a mask cuDNN's kernel does, where torch takes that one
(`fits`). Casts on the way are made of the heads before they are repeated.

Declines on other kernels, which want a head of key and value for each of the query's, where
elements of a head do not lie side by side or rows begin anywhere, and where anything but sums over
the groups reads what a derivative gives. Safe within the accuracy rule: the kernel adds in float32
and rounds the sum once, where its summands were rounded before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lazytorch.ir import Builder, Graph, Item, Node, Op, with_inputs
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.attention_backward import AttentionBackward, AttentionSaving, kernel_for
from lazytorch.ops.base import View
from lazytorch.ops.chains import IndexMap, aligned, follow, identity, is_link
from lazytorch.ops.copies import rerooted
from lazytorch.ops.cudnn import LARGEST
from lazytorch.ops.layout import Expand, Reshape
from lazytorch.ops.pointwise import Cast
from lazytorch.ops.reduce import Sum
from lazytorch.types import Shape, TensorType

Fits = Callable[[TensorType, TensorType], bool]

ALIGNED = 8  # elements, of which a head has a multiple


@dataclass(frozen=True, eq=False)
class Casted:
    """A value and the casts that come behind it, in order."""

    source: Node
    casts: tuple[Op, ...]

    def built(self, b: Builder, source: Node) -> Node:
        """The same casts of `source`."""
        for op in self.casts:
            source = b(op, source)
        return source


def grouped_heads(graph: Graph, fits: Fits = lambda query, key: False) -> Graph:
    """The graph whose attentions read the heads of key and value that there are; `fits` says for
    which queries and keys torch takes cuDNN's kernel, of those with a mask."""
    heads: dict[Node, list[Casted]] = {}
    sums: dict[Node, Casted] = {}
    passed: set[Node] = set()
    for node in graph.nodes:
        found = shared(node, fits)
        if found is None:
            continue
        if isinstance(node.op, AttentionBackward):
            summed = Sums(graph, node, typed(found[0].source).shape[1])
            if summed.read_otherwise:
                continue
            sums |= summed.found
            passed |= summed.passed
        heads[node] = found
    return rebuilt(graph, heads, sums, passed) if heads else graph


def rebuilt(
    graph: Graph, heads: dict[Node, list[Casted]], sums: dict[Node, Casted], passed: set[Node]
) -> Graph:
    """The graph with attentions of `heads`; what they give replaces `sums`."""
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in done or node in passed:
            continue
        b = Builder(node.where)
        if node in sums:
            whole, given = typed(node), sums[node].built(b, done[sums[node].source])
            given = given if typed(given).dtype is whole.dtype else b(Cast(whole.dtype), given)
            done[node] = b(Reshape(whole.shape), given)
        elif node in heads:
            at = place(node.op)
            key, value = [x.built(b, done[x.source]) for x in heads[node]]
            before, after = node.inputs[: at + 1], node.inputs[at + 3 :]
            operands = [*[done[x] for x in before], key, value, *[done[x] for x in after]]
            done[node] = b(taking_groups(node.op), *operands)
        else:
            done[node] = with_inputs(node, [done[x] for x in node.inputs])
    return rerooted(graph, done)


def place(op: Op) -> int:
    """Where the query is among an attention's operands."""
    return 1 if isinstance(op, AttentionBackward) else 0


def taking_groups(op: Op) -> Op:
    """The operation on groups; those with a kernel of their own see them by their operands."""
    plain = isinstance(op, ScaledDotProductAttention)
    return op.with_attributes(enable_gqa=True) if plain else op


def shared(node: Node, fits: Fits) -> list[Casted] | None:
    """The heads that key and value of an attention repeat, if its kernel takes them so."""
    if not takes_groups(node, fits):
        return None
    at = place(node.op)
    query, *repeats = node.inputs[at : at + 3]
    number = typed(query).shape[1]
    found = [heads_of(x, number) for x in repeats]
    there = [x for x in found if x is not None]
    same = len({typed(x.source).shape[1] for x in there}) == 1
    return there if len(there) == len(found) and same else None


def takes_groups(node: Node, fits: Fits) -> bool:
    """Whether an attention runs in a kernel that takes groups, forward and backward."""
    op = node.op
    if isinstance(op, AttentionSaving | AttentionBackward):
        return op.kernel == "flash"
    if type(op) is not ScaledDotProductAttention or op.enable_gqa:
        return False
    query, key, value, *masks = [typed(x) for x in node.inputs]
    if not op.fused(query, key, value, masks[0] if masks else None):
        return False
    if not masks:
        return kernel_for(query, key, None, op.is_causal) == "flash"
    return by_cudnn(op, query, masks[0]) and fits(query, key)


def by_cudnn(op: ScaledDotProductAttention, query: TensorType, mask: TensorType) -> bool:
    """Whether cuDNN's kernel takes such operands with a mask, as far as their types tell."""
    return (
        (not op.kernels or "CUDNN_ATTENTION" in op.kernels)
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.numel > 0
        and query.shape[-1] <= LARGEST
        and query.shape[-1] % ALIGNED == 0
        and mask.rank == 4
        and mask.dtype in (query.dtype, torch.bool)
    )


def heads_of(x: Node, number: int) -> Casted | None:
    """What `x`, of so many heads, repeats one by one."""
    chain: list[Node] = []
    while is_link(x) or isinstance(x.op, Cast):
        chain.append(x)
        x = x.inputs[0]
        heads = typed(x).shape[1] if typed(x).rank == 4 else number
        if heads and heads < number and number % heads == 0 and readable(x):
            links = [link.op for link in reversed(chain) if not isinstance(link.op, Cast)]
            if mapped(typed(x).shape, links) == repeated(typed(x).shape, number // heads):
                casts = [cast.op for cast in reversed(chain) if isinstance(cast.op, Cast)]
                return Casted(x, tuple(casts))
    return None


def readable(x: Node) -> bool:
    """Whether elements of a head lie side by side, and rows begin on 16-byte boundaries."""
    first, base = 0, x
    while isinstance(base.op, View):
        first += base.op.offset(typed(base.inputs[0]))
        base = base.inputs[0]
    return typed(x).strides[-1] == 1 and aligned(typed(x), first)


def mapped(shape: Shape, links: Sequence[Op]) -> IndexMap | None:
    """What a chain of views and copies of a tensor shows of it."""
    found: IndexMap | None = identity(shape)
    for op in links:
        found = None if found is None else follow(found, op)
    return found


def repeated(shape: Shape, times: int) -> IndexMap | None:
    """The map of a tensor (B, H, L, E) whose heads are repeated one by one."""
    batch, heads, *size = shape
    spread = (batch, heads, times, *size)
    steps = (Reshape((batch, heads, 1, *size)), Expand(spread))
    return mapped(shape, [*steps, Reshape((batch, heads * times, *size))])


class Sums:
    """What reads the derivative by a key and a value whose `heads` were repeated."""

    def __init__(self, graph: Graph, node: Node, heads: int) -> None:
        self.graph, self.heads = graph, heads
        self.roots = {*graph.outputs, *graph.effects}
        self.found: dict[Node, Casted] = {}
        """Sums over the groups."""
        self.passed: set[Node] = set()
        """What is between them and the derivative."""
        self.read_otherwise = node in self.roots
        for item in graph.users[node]:
            if not isinstance(item.op, Item):
                self.read_otherwise = True
            elif item.op.index:
                self.follow(item)

    def follow(self, item: Node) -> None:
        """Find the sums of one cotangent."""
        batch, number, *size = typed(item).shape
        whole = identity(typed(item).shape)
        apart = follow(whole, Reshape((batch, self.heads, number // self.heads, *size)))
        sums = [((2,), apart)] + ([((1,), whole)] if self.heads == 1 else [])
        stack: list[tuple[Node, IndexMap | None, tuple[Op, ...]]] = [(item, whole, ())]
        while stack:
            value, found, casts = stack.pop()
            self.read_otherwise |= value in self.roots
            for user in self.graph.users[value]:
                if found is not None and (is_link(user) or isinstance(user.op, Cast)):
                    cast = isinstance(user.op, Cast)
                    further = found if cast else follow(found, user.op)
                    stack.append((user, further, (*casts, user.op) if cast else casts))
                    self.passed.add(user)
                elif isinstance(user.op, Sum) and (user.op.dims, found) in sums:
                    self.found[user] = Casted(item, casts)
                else:
                    self.read_otherwise = True


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type
