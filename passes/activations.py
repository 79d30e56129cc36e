"""Activations: gelu and silu written out in arithmetic become the operations that they are.

An operation of its own rounds once, moves into a product (`epilogues`), and is one step of a
kernel. What is written is read as a polynomial in x and tanh, erf or sigmoid of x, so that every
order of the factors and every spelling of the powers is the same.

Declines where a constant differs by more than the dtype tells apart, where the dtype changes on the
way, where something else reads the tanh, erf or sigmoid, and on numbers that vary. Safe within the
accuracy rule: the same function, rounded less often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from lazytorch.ir import Builder, Const, Graph, Node, Op, with_inputs
from lazytorch.ops.activation import Gelu, Silu
from lazytorch.ops.elementary import Erf, Exp, Sigmoid, Tanh
from lazytorch.ops.pointwise import Add, Div, Mul, Neg, Pow, Square, Sub
from lazytorch.types import TensorType

Polynomial = dict[tuple[int, int], float]
"""Coefficients by the powers of x and of a function of x."""

FORMS: dict[type[Op], tuple[Op, Polynomial, Polynomial]] = {
    Tanh: (
        Gelu("tanh"),
        {(1, 0): math.sqrt(2 / math.pi), (3, 0): math.sqrt(2 / math.pi) * 0.044715},
        {(1, 0): 0.5, (1, 1): 0.5},
    ),
    Erf: (Gelu(), {(1, 0): math.sqrt(0.5)}, {(1, 0): 0.5, (1, 1): 0.5}),
    Sigmoid: (Silu(), {(1, 0): 1.0}, {(1, 1): 1.0}),
}
"""What a function of x belongs to: the activation, its argument, and the whole."""

HEIGHT = 4
"""Operations between the function and the end of an activation, at most."""

DEPTH = 8
"""Operations on the way from the end of an activation to x, at most."""


def activations(graph: Graph) -> Graph:
    """The graph with activations as operations."""
    whole: dict[Node, tuple[Op, Node]] = {}
    for node in graph.nodes:
        found = written_silu(node) if isinstance(node.op, Div) else None
        if type(node.op) in FORMS:
            found = written_out(graph, node)
        if found is not None:
            end, op, x = found
            whole[end] = (op, x)
    done: dict[Node, Node] = {x: x for x in graph.inputs}
    for node in graph.nodes:
        if node in whole:
            op, x = whole[node]
            done[node] = Builder(node.where)(op, done[x])
        elif node not in done:
            done[node] = with_inputs(node, [done[x] for x in node.inputs])
    return graph.replace(done)


def written_out(graph: Graph, function: Node) -> tuple[Node, Op, Node] | None:
    """The end of the activation that `function` is part of, the activation and its operand."""
    op, argument, total = FORMS[type(function.op)]
    if len(graph.users[function]) != 1 or not isinstance(function.type, TensorType):
        return None
    (inner,) = function.inputs
    x = next((x for x in below(inner) if alike(polynomial(inner, x), argument, x)), None)
    end = function
    for _ in range(HEIGHT if x is not None else 0):
        if end in graph.outputs or len(set(graph.users[end])) != 1:
            return None
        end = graph.users[end][0]
        assert x is not None
        if alike(polynomial(end, x, function), total, x):
            return (end, op, x) if end.type == Builder()(op, x).type else None
    return None


def written_silu(node: Node) -> tuple[Node, Op, Node] | None:
    """x / (1 + exp(-x))."""
    match node:
        case Node(Div(), (x, Node(Add(), (a, b)))):
            for one, power in ((a, b), (b, a)):
                match power:
                    case Node(Exp(), (Node(Neg(), (y,)),)) if y is x and value(one) == 1.0:
                        same = same_dtype(node, x) and node.type == Builder()(Silu(), x).type
                        return (node, Silu(), x) if same else None
                    case _:
                        continue
        case _:
            pass
    return None


def below(node: Node) -> Iterator[Node]:
    """What an argument may be a polynomial of: itself, then what its arithmetic reads."""
    queue, seen = [node], {node}
    for x in queue:
        if isinstance(x.type, TensorType):
            yield x
        if len(queue) < 16 and isinstance(x.op, Add | Sub | Mul | Div | Pow | Neg | Square):
            queue += [y for y in x.inputs if y not in seen and not seen.add(y)]


def polynomial(
    node: Node, x: Node, function: Node | None = None, depth: int = DEPTH
) -> Polynomial | None:
    """What a node computes from x and the function; None if that is no polynomial."""
    if node is x:
        return {(1, 0): 1.0}
    if node is function:
        return {(0, 1): 1.0}
    if isinstance(node.op, Const):
        number = value(node)
        return None if number is None else {(0, 0): number}
    if not isinstance(node.op, Add | Sub | Mul | Div | Pow | Neg | Square):
        return None
    if not same_dtype(node, x) or not depth:
        return None
    parts = [polynomial(y, x, function, depth - 1) for y in node.inputs]
    first, last = parts[0], parts[-1]
    if first is None or last is None:
        return None
    match node.op:
        case Neg():
            return times(first, {(0, 0): -1.0})
        case Square():
            return times(first, first)
        case Mul():
            return times(first, last)
        case Add():
            return plus(first, last)
        case Sub():
            return plus(first, times(last, {(0, 0): -1.0}))
        case Div():
            divisor = last.get((0, 0), 0.0) if len(last) == 1 else 0.0
            return times(first, {(0, 0): 1.0 / divisor}) if divisor else None
        case _:
            exponent = value(node.inputs[1])
            if exponent not in (2.0, 3.0):
                return None
            squared = times(first, first)
            return squared if exponent == 2.0 else times(squared, first)


def times(a: Polynomial, b: Polynomial) -> Polynomial:
    """The product of two polynomials."""
    found: Polynomial = {}
    for (i, j), p in a.items():
        for (k, m), q in b.items():
            found[i + k, j + m] = found.get((i + k, j + m), 0.0) + p * q
    return found


def plus(a: Polynomial, b: Polynomial) -> Polynomial:
    """The sum of two polynomials."""
    return {key: a.get(key, 0.0) + b.get(key, 0.0) for key in {**a, **b}}


def alike(found: Polynomial | None, wanted: Polynomial, x: Node) -> bool:
    """Whether two polynomials are one to the precision of x."""
    if found is None or found.keys() != wanted.keys() or not isinstance(x.type, TensorType):
        return False
    if not x.type.dtype.is_floating_point:
        return False
    close = 4 * torch.finfo(x.type.dtype).eps
    return all(math.isclose(found[key], wanted[key], rel_tol=close) for key in wanted)


def value(node: Node) -> float | None:
    """The value of a real constant."""
    number = node.op.value if isinstance(node.op, Const) else None
    return float(number) if isinstance(number, int | float) else None


def same_dtype(node: Node, x: Node) -> bool:
    """Whether both are tensors of one dtype."""
    a, b = node.type, x.type
    return isinstance(a, TensorType) and isinstance(b, TensorType) and a.dtype is b.dtype
