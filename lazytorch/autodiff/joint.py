"""The forward and the backward graph of a function, with the values that one leaves the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lazytorch import passes
from lazytorch.autodiff.partition import saved_values
from lazytorch.autodiff.rules import rule
from lazytorch.autodiff.vjp import Hooked, vjp, zeros
from lazytorch.ir import Const, Graph, Input, Node, Write, input, postorder, with_inputs
from lazytorch.ops.calculus import Calculus, tensor
from lazytorch.ops.copies import Clone
from lazytorch.types import TensorType, contiguous_strides

Origin = tuple[Literal["input", "output"], int]
"""Where the backward graph finds a saved value: among the forward graph's inputs or outputs."""


@dataclass(frozen=True)
class Halves:
    """A function's two graphs.

    `forward` has the function's own outputs, then those that only `backward` reads. The inputs of
    `backward` are the `saved` values, then the `cotangents` of the outputs that carry gradients.
    Its outputs are the gradients; `gradients[i]` is the one of the i-th input asked for, None where
    no output depends on it.
    """

    forward: Graph
    backward: Graph
    saved: tuple[Origin, ...]
    cotangents: tuple[TensorType, ...]
    gradients: tuple[int | None, ...]

    def backward_for(self, given: Sequence[TensorType | None]) -> Graph:
        """The backward graph for cotangents of these types, None for those that are zero."""
        if tuple(given) == self.cotangents:
            return self.backward
        count = len(self.saved)
        kept = list(self.backward.inputs[:count])
        new: dict[Node, Node] = {}
        for i, (typed, have) in enumerate(zip(self.cotangents, given, strict=True)):
            node = self.backward.inputs[count + i]
            if have is None:
                new[node] = zeros(Calculus(), typed)
                continue
            given_node = input(f"d{i}", have)
            kept.append(given_node)
            same = have == typed
            new[node] = given_node if same else Calculus()(Clone(typed.strides), given_node)
        return rebuilt(replace(self.backward, inputs=tuple(kept)), new)


def halves(
    graph: Graph,
    carried: Sequence[int],
    wrt: Sequence[Node],
    hooked: Hooked | None = None,
    first: Sequence[passes.Pass] = (),
) -> Halves:
    """Both graphs of `graph`: gradients of the outputs `carried` by the inputs `wrt`. The passes
    `first` come before all that decides what is kept.

    Raises UnsupportedError where an operation on the way cannot be differentiated.
    """
    outputs = [graph.outputs[k] for k in carried]
    cotangents = [input(f"d{i}", y.type) for i, y in enumerate(outputs)]
    found = vjp(outputs, cotangents, wrt, rule, hooked)
    gradients = [laid_out_as(g, x) for g, x in zip(found, wrt, strict=True) if g is not None]
    joint = Graph(
        (*graph.inputs, *cotangents),
        (*graph.outputs, *gradients),
        graph.effects,
        (*graph.aliases, *[None] * len(gradients)),
    )
    joint = passes.optimize(joint, (*first, *passes.REWRITES))
    count = len(graph.outputs)
    own = Graph(graph.inputs, joint.outputs[:count], joint.effects, graph.aliases)
    asked = joint.outputs[count:]
    saved = saved_values(own, asked)
    places: list[Origin] = []
    extra: list[Node] = []
    written = {e.inputs[0] for e in own.effects if isinstance(e.op, Write)}
    number = {x: i for i, x in enumerate(graph.inputs)}
    owned = {
        x: k
        for k, (x, alias) in reversed(list(enumerate(zip(own.outputs, own.aliases, strict=True))))
        if alias is None
    }
    for node in saved:
        if node in number and node not in written:
            places.append(("input", number[node]))
        elif node in owned:
            places.append(("output", owned[node]))
        else:
            places.append(("output", count + len(extra)))
            extra.append(copied(node) if node in written else node)
    forward = replace(
        own,
        outputs=(*own.outputs, *extra),
        aliases=(*own.aliases, *[None] * len(extra)),
    )
    kept = [input(f"s{i}", x.type) for i, x in enumerate(saved)]
    backward = rebuilt(Graph((*kept, *cotangents), asked), dict(zip(saved, kept, strict=True)))
    places_of = iter(range(len(gradients)))
    return Halves(
        forward,
        backward,
        tuple(places),
        tuple([tensor(x) for x in cotangents]),
        tuple([None if g is None else next(places_of) for g in found]),
    )


def laid_out_as(g: Node, x: Node) -> Node:
    """A gradient that lies in memory as its parameter does, as torch accumulates it; row-major
    where the parameter has holes."""
    have, want = tensor(g), tensor(x)
    strides = want.strides if want.is_dense else contiguous_strides(want.shape)
    return g if have.strides == strides else Calculus(x.where)(Clone(strides), g)


def copied(node: Node) -> Node:
    """The value that an input has before it is written."""
    return Calculus(node.where)(Clone(tensor(node).strides), node)


def rebuilt(graph: Graph, new: dict[Node, Node]) -> Graph:
    """The graph computed from other values of some nodes."""
    done = dict(new)
    for node in postorder(graph.outputs):
        stop = node in done or isinstance(node.op, Input | Const)
        if not stop:
            done[node] = with_inputs(node, [done.get(x, x) for x in node.inputs])
    return replace(graph, outputs=tuple([done.get(x, x) for x in graph.outputs]))
