"""Maps of chains of views and copies: they show the same elements as the chain itself."""

import random

import pytest
import torch

from lazytorch.interpret import interpret
from lazytorch.ir import Builder, Graph, Node, Op, input
from lazytorch.ops.chains import IndexMap, follow, identity, is_copy, shown
from lazytorch.ops.layout import Clone, Detach, Expand, Permute, Reshape, Select, Slice
from lazytorch.types import Shape, TensorType, tensor_type


def typed(node: Node) -> TensorType:
    assert isinstance(node.type, TensorType)
    return node.type


def link(r: random.Random, x: TensorType) -> Op:
    """A random operation of a chain."""
    shape, rank = x.shape, x.rank
    dim = r.randrange(rank) if rank else 0
    kind = r.randrange(7)
    if kind == 0:
        return Permute(tuple(r.sample(range(rank), rank)))
    if kind == 1 and rank > 1:  # two dimensions as one
        dim = min(dim, rank - 2)
        return Reshape((*shape[:dim], shape[dim] * shape[dim + 1], *shape[dim + 2 :]))
    if kind == 2 and rank:  # one dimension as two
        parts = [n for n in range(1, shape[dim] + 1) if shape[dim] % n == 0]
        n = r.choice(parts)
        return Reshape((*shape[:dim], n, shape[dim] // n, *shape[dim + 1 :]))
    if kind == 3 and rank:
        start = r.randrange(shape[dim])
        stop = r.randrange(start + 1, shape[dim] + 1)
        return Slice(dim, start, stop, r.choice((1, 1, 2)))
    if kind == 4 and rank > 2:
        return Select(dim, r.randrange(shape[dim]))
    if kind == 5 and rank < 5:
        return Expand((r.choice((1, 2)), *(3 if n == 1 else n for n in shape)))
    return r.choice((Clone(tensor_type(shape).strides), Detach()))


def chain(seed: int) -> tuple[Node, Node, IndexMap | None]:
    """A source, what a random chain makes of it, and the map."""
    r, b = random.Random(seed), Builder()
    shape: Shape = r.choice(((4, 6), (2, 3, 8), (12,), (3, 1, 4, 2), (24, 2)))
    order = r.sample(range(len(shape)), len(shape)) if r.random() < 0.3 else range(len(shape))
    wide = tensor_type([shape[d] for d in order])
    strides = tuple(wide.strides[list(order).index(d)] for d in range(len(shape)))
    source = value = input("x", tensor_type(shape, strides=strides))
    found: IndexMap | None = identity(shape)
    for _ in range(r.randint(1, 7)):
        op = link(r, typed(value))
        found = None if found is None else follow(found, op)
        value = b(op, value)
    return source, value, found


def element(found: IndexMap, shape: Shape) -> torch.Tensor:
    """What a map says the result is, of a source that holds 0, 1, 2, ..."""
    place = torch.zeros((), dtype=torch.int64)
    steps = tensor_type(shape).strides
    for factor in found.factors:
        run = torch.arange(factor.size)
        step = 0 if factor.dim is None else factor.step * steps[factor.dim]
        place = place.unsqueeze(-1) + run * step
    first = sum(a * b for a, b in zip(found.starts, steps, strict=True))
    return (place + first).reshape(found.shape)


@pytest.mark.parametrize("seed", range(0, 600, 100))
def test_a_map_and_its_views_show_what_the_chain_shows(seed: int) -> None:
    views = 0
    for one in range(seed, seed + 100):
        source, value, found = chain(one)
        if found is None:
            continue
        x = torch.empty_strided(typed(source).shape, typed(source).strides)
        x.copy_(torch.arange(x.numel()).reshape(x.shape))
        (expected,) = interpret(Graph((source,), (value,)), x)
        assert torch.equal(element(found, typed(source).shape).float(), expected)
        view = shown(Builder(), source, found)
        if view is not None:
            (got,) = interpret(Graph((source,), (view,)), x)
            assert torch.equal(got, expected)
            assert not any(is_copy(node) for node in Graph((source,), (view,)) if node.inputs)
            views += 1
    assert views > 30


def test_a_map_is_refused_where_a_slice_cuts_through_factors() -> None:
    merged = follow(follow(identity((2, 3)), Permute((1, 0))) or identity(()), Reshape((6,)))
    assert merged is not None
    assert follow(merged, Slice(0, 1, 3)) is None
    assert follow(merged, Slice(0, 2, 4)) is not None  # a whole run of the inner factor


def test_a_reshape_across_factors_that_do_not_divide_is_refused() -> None:
    turned = follow(identity((4, 3)), Permute((1, 0)))
    assert turned is not None
    assert follow(turned, Reshape((2, 6))) is None


def test_repeated_elements_beside_others_are_no_view() -> None:
    b, source = Builder(), input("x", tensor_type((2, 1, 3)))
    wide = follow(identity((2, 1, 3)), Expand((2, 4, 3)))
    assert wide is not None
    both = follow(wide, Reshape((8, 3)))
    assert both is not None
    assert shown(b, source, wide) is not None
    assert shown(b, source, both) is None
