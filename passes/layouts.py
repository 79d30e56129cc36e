"""Layouts: values are read where they lie, instead of being copied into another order first.

A copy (a `clone`, a `reshape` that no view is) goes where everything that reads it can read a view
of what was copied: attention and products read rows with any distance between them, elementwise
operations read anything. A chain of views on the way is followed as a map of indices, so that
reshapes that merge dimensions and later split them again do no harm.

A linear layer whose rows lie in another order than their dimensions multiplies them as they lie;
the product is then shown in the order that was asked for, where all of its readers accept that.

Declines where a reader would copy by itself, would choose a slower kernel (its innermost elements
are no longer side by side, or not on a 16-byte boundary), or would lay its result out otherwise
than it did, unless row-major; where the value is an output, which has eager's strides; where the
memory is an input's that the graph writes; on what the prologue computes; and as a whole where not
fewer bytes are copied than before. Safe within the accuracy rule: the same operations on the same
numbers; a library may sum rows that it reads elsewhere in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from lazytorch.ir import Builder, Graph, Node, Write, with_inputs
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.attention_backward import AttentionBackward, AttentionSaving
from lazytorch.ops.base import Pointwise, Rowwise
from lazytorch.ops.chains import (
    Factor,
    IndexMap,
    aligned,
    applied,
    follow,
    identity,
    is_copy,
    is_link,
    memory,
    offset,
    shown,
)
from lazytorch.ops.copies import Cat, overlaps, rerooted
from lazytorch.ops.layout import Permute, Reshape, view_strides
from lazytorch.ops.linalg import Addmm, Bmm, Linear, Matmul, Mm
from lazytorch.types import TensorType

Plan = dict[Node, IndexMap]
"""Values that become views of one source."""

Moved = dict[Node, tuple[Node, IndexMap]]
"""Values that become views, each with its source."""

ROUNDS = 8
"""One copy's end may be what another waits for."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A linear layer's input as it lies in memory: the dimensions of `source` in another order."""

    source: Node
    leading: tuple[int, ...]
    features: tuple[int, ...]

    def matrix(self, b: Builder, source: Node) -> Node:
        """The rows, one after another."""
        x = typed(source)
        size = prod(x.shape[d] for d in self.features)
        turned = applied(b, Permute((*self.leading, *self.features)), source)
        return applied(b, Reshape((x.numel // size, size)), turned)

    def shown(self, found: IndexMap, width: int) -> IndexMap:
        """A map of the input as a map of the product, whose last dimension has another size."""
        place = {d: i for i, d in enumerate(self.leading)}
        leading = tuple(
            tuple(Factor(f.size, place[f.dim], f.step) for f in group if f.dim is not None)
            for group in found.groups[:-1]
        )
        last = (Factor(width, len(place)),) if width != 1 else ()
        return IndexMap((*leading, last), (0,) * (len(place) + 1))


def layouts(graph: Graph) -> Graph:
    """The graph with as few copies as its operations need."""
    found = graph
    for _ in range(ROUNDS):
        after = multiplied_as_it_lies(read_as_it_lies(found))
        if after is found:
            break
        found = after
    return found if copied_bytes(found) < copied_bytes(graph) else graph


def copied_bytes(graph: Graph) -> int:
    """Bytes that copies move at each call, those in front of linear layers included."""
    total = 0
    for node in graph.nodes:
        if node in graph.steady:
            continue
        if is_copy(node):
            total += typed(node).nbytes
        elif isinstance(node.op, Linear) and not as_rows(typed(node.inputs[0])):
            total += typed(node.inputs[0]).nbytes
    return total


def read_as_it_lies(graph: Graph) -> Graph:
    """One round: copies go whose readers can all read what was copied."""
    written = written_inputs(graph)
    moved: Moved = {}
    for node in graph.nodes:
        if not is_link(node) or not is_copy(node) or node in graph.steady:
            continue
        for source, found in sources(node):
            plan = None if memory(source) in written else readable(graph, node, source, found)
            if plan is not None:
                moved |= {value: (source, part) for value, part in plan.items()}
                break
    return rebuilt(graph, moved, {}) if moved else graph


def multiplied_as_it_lies(graph: Graph) -> Graph:
    """One round: linear layers whose input is not in rows multiply what it was made from."""
    written = written_inputs(graph)
    moved: Moved = {}
    rows: dict[Node, Rows] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Linear) or node in graph.steady:
            continue
        for source, found in unordered(node.inputs[0]):
            lies = None if memory(source) in written else in_rows(source, found)
            if lies is None or typed(node.inputs[1]).rank != 2:
                continue
            made = product(node, lies, source, node.inputs[1:])
            wanted = lies.shown(found, typed(node).shape[-1])
            plan = readable(graph, node, made, wanted)
            if plan is not None:
                rows[node] = lies
                moved |= {value: (node, part) for value, part in {**plan, node: wanted}.items()}
                break
    return rebuilt(graph, moved, rows) if rows else graph


def rebuilt(graph: Graph, moved: Moved, rows: dict[Node, Rows]) -> Graph:
    """The graph in which values are views of their sources, and linear layers multiply `rows`."""
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    products: dict[Node, Node] = {}
    for node in graph.nodes:
        if node in rows:
            parameters = [done[x] for x in node.inputs[1:]]
            products[node] = product(node, rows[node], done[rows[node].source], parameters)
        if node in moved:
            source, found = moved[node]
            base = products[source] if source in products else done[source]
            view = shown(Builder(node.where), base, found, copy=True)
            assert view is not None
            done[node] = view
        elif node not in done:
            done[node] = with_inputs(node, [done[x] for x in node.inputs])
    return rerooted(graph, done)


def sources(node: Node) -> Iterator[tuple[Node, IndexMap]]:
    """What a copy could be read from instead, the furthest first, and the copy as a map of it."""
    chain = [node]
    while is_link(chain[-1]):
        chain.append(chain[-1].inputs[0])
    while len(chain) > 1:
        source = chain.pop()
        found: IndexMap | None = identity(typed(source).shape)
        for link in reversed(chain):
            found = None if found is None else follow(found, link.op)
        if found is not None:
            yield source, found


def unordered(x: Node) -> Iterator[tuple[Node, IndexMap]]:
    """What a linear layer's input could be multiplied from instead, if it is not in rows."""
    if not typed(x).numel or typed(x).rank < 2:
        return
    apart = not as_rows(typed(x))
    for source, found in sources(x):
        if apart or copies_between(source, x):
            yield source, found
    if apart:
        yield x, identity(typed(x).shape)


def copies_between(source: Node, x: Node) -> bool:
    """Whether a value is copied on the way from its source."""
    while x is not source:
        if is_copy(x):
            return True
        x = x.inputs[0]
    return False


def readable(graph: Graph, start: Node, source: Node, found: IndexMap) -> Plan | None:
    """The values that are views of `start`, as maps of `source`, if all readers accept them so."""
    roots = {x for x, alias in zip(graph.outputs, graph.aliases, strict=True) if alias is None}
    roots.update(graph.effects)
    plan: Plan = {}
    views: dict[Node, Node] = {}
    readers: dict[Node, None] = {}
    stack = [(start, found)]
    while stack:
        value, part = stack.pop()
        if value in roots:
            return None
        for user in graph.users[value]:
            if is_link(user) and not is_copy(user):
                further = follow(part, user.op)
                if further is None:
                    return None
                stack.append((user, further))
                continue
            readers[user] = None
            if value not in plan:
                view = shown(Builder(), source, part)
                if view is None:
                    return None
                plan[value], views[value] = part, view
    if all(accepts(reader, views, plan, typed(source)) for reader in readers):
        return plan
    return None


def accepts(reader: Node, views: dict[Node, Node], plan: Plan, source: TensorType) -> bool:
    """Whether an operation reads views as well as it read what they replace."""
    if is_link(reader):
        return True  # it copies whatever it is given
    if not isinstance(reader.op, READERS):
        return False
    operands = [views.get(x, x) for x in reader.inputs]
    result = with_inputs(reader, operands)
    if not isinstance(reader.op, LAID_OUT_AS_READ) and result.type != reader.type:
        row_major = isinstance(result.type, TensorType) and result.type.is_contiguous
        if not isinstance(reader.op, Pointwise) or not row_major:
            return False
    fits = next(rule for kind, rule in READS.items() if isinstance(reader.op, kind))
    return all(
        fits(new.type) and (fits is anyhow or aligned(new.type, offset(plan[old], source)))
        for old, new in zip(reader.inputs, operands, strict=True)
        if old is not new and isinstance(new.type, TensorType)
    ) and keeps_kernel(reader, operands)


def keeps_kernel(reader: Node, operands: list[Node]) -> bool:
    """Whether attention that ran in the fused kernel still does."""
    if not isinstance(reader.op, ScaledDotProductAttention):
        return True
    before, now = (
        reader.op.fused(*[x.type for x in xs[:3]], xs[3].type if len(xs) > 3 else None)  # type: ignore[arg-type]
        for xs in (reader.inputs, operands)
    )
    return now or not before


def anyhow(x: TensorType) -> bool:
    """What reads elements one by one reads them wherever they lie."""
    return True


def in_runs(x: TensorType) -> bool:
    """Whether the innermost elements lie side by side, and none twice."""
    return x.strides[-1] == 1 and not overlaps(x)


def heads_in_runs(x: TensorType) -> bool:
    """Whether a derivative of attention's reads it: not so the logarithms that were kept for it."""
    return x.rank == 4 and in_runs(x)


def on_gpu_in_runs(x: TensorType) -> bool:
    """Whether a generated kernel for rows reads it; torch's own copies it first."""
    return x.device.type == "cuda" and in_runs(x)


def in_matrices(x: TensorType) -> bool:
    """Whether BLAS reads it: matrices by rows or columns, at even distances."""
    if x.rank < 2:
        return x.is_contiguous
    (rows, columns), (far, near) = x.shape[-2:], x.strides[-2:]
    by_rows = near == 1 and far >= columns
    by_columns = far == 1 and near >= rows
    even = view_strides(x.shape[:-2], x.strides[:-2], (prod(x.shape[:-2]),)) is not None
    return (by_rows or by_columns) and even and not overlaps(x)


def as_rows(x: TensorType) -> bool:
    """Whether a linear layer multiplies it in one call: torch adds the bias apart otherwise."""
    return x.is_contiguous or (x.rank == 2 and in_matrices(x) and x.strides[-1] == 1)


READS: dict[type, Callable[[TensorType], bool]] = {
    Pointwise: anyhow,
    Cat: anyhow,
    Rowwise: on_gpu_in_runs,
    ScaledDotProductAttention: in_runs,
    AttentionSaving: in_runs,
    AttentionBackward: heads_in_runs,
    Linear: as_rows,
    Addmm: in_matrices,
    Mm: in_matrices,
    Bmm: in_matrices,
    Matmul: in_matrices,
}
READERS = tuple(READS)
"""How operations that read strided operands without a copy want them."""

LAID_OUT_AS_READ = (ScaledDotProductAttention, AttentionSaving)
"""Operations whose results lie in memory as their first operand does, without a copy."""


def in_rows(source: Node, found: IndexMap) -> Rows | None:
    """How `source` lies in rows whose features are the last dimension of a map of all of it."""
    x, last = typed(source), found.groups[-1]
    complete = prod(found.shape) == x.numel and all(f.dim is not None for f in found.factors)
    if not complete or any(f.dim is None or f.size != x.shape[f.dim] for f in last):
        return None
    features = [f.dim for f in last if f.dim is not None]
    leading = [d for d in range(x.rank) if d not in features]
    leading.sort(key=lambda d: -x.strides[d])
    rows = Rows(source, tuple(leading), tuple(features))
    matrix = rows.matrix(Builder(), source)
    return rows if not is_copy(matrix) and as_rows(typed(matrix)) else None


def product(node: Node, rows: Rows, source: Node, parameters: Sequence[Node]) -> Node:
    """What a linear layer makes of rows, their dimensions apart again."""
    b = Builder(node.where)
    made = b(node.op, rows.matrix(b, source), *parameters)
    sizes = [typed(source).shape[d] for d in rows.leading]
    return b(Reshape((*sizes, typed(made).shape[-1])), made)


def written_inputs(graph: Graph) -> set[Node]:
    """The inputs that the graph writes."""
    return {e.inputs[0] for e in graph.effects if isinstance(e.op, Write)}


def typed(node: Node) -> TensorType:
    """The type of a tensor."""
    assert isinstance(node.type, TensorType)
    return node.type
