"""Samples of views, copies, factories, indexing and draws: operation, reference, operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lazytorch.data import Data
from lazytorch.ir import Op
from lazytorch.ops import after, copies, create, index, layout, random, windows, writes

Make = Callable[[], Any]
Sample = tuple[Op, Callable[..., Any], tuple[Make, ...]]
CPU = torch.device("cpu")
LAST = torch.channels_last


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Make:
    """A factory of the same normal numbers every time."""

    def make() -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(shape) + sum(shape))
        wide = torch.complex128 if dtype.is_complex else torch.float64
        x = torch.randn(shape, generator=generator, dtype=wide)
        return (x * 100).to(dtype) if not dtype.is_floating_point else x.to(dtype)

    return make


def last(*shape: int) -> Make:
    """In channels-last memory."""
    return lambda: normal(*shape)().contiguous(memory_format=LAST)


def turned(*shape: int, dtype: torch.dtype = torch.float32) -> Make:
    """With its dimensions in reversed order in memory."""
    return lambda: normal(*reversed(shape), dtype=dtype)().permute(*reversed(range(len(shape))))


def strided(*shape: int) -> Make:
    """With holes between the elements."""
    return lambda: normal(*[2 * size for size in shape])()[(slice(1, None, 2),) * len(shape)]


def ints(values: Any, dtype: torch.dtype = torch.int64) -> Make:
    """Integers, such as positions."""
    return lambda: torch.tensor(values, dtype=dtype)


def modulo(bound: int, *shape: int) -> Make:
    """Positions below `bound`."""
    return lambda: normal(*shape, dtype=torch.int64)() % bound


def relaid(x: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)


def put_diagonal(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[1:].diagonal().copy_(value)
    return x


VIEWS: dict[type[Op], list[Sample]] = {
    layout.Reshape: [
        (layout.Reshape((6, 4)), lambda x: x.reshape(6, 4), (normal(2, 3, 4),)),
        (layout.Reshape((2, 4, 15)), lambda x: x.view(2, 4, 15), (last(2, 4, 3, 5),)),
        (layout.Reshape((12,)), lambda x: x.reshape(12), (turned(3, 4),)),
        (layout.Reshape((3, 1), (2, 1)), lambda x: x.unsqueeze(1), (strided(3),)),
        (layout.Reshape(()), lambda x: x.reshape(()), (normal(1, 1),)),
    ],
    layout.Permute: [
        (layout.Permute((2, 0, 1)), lambda x: x.permute(2, 0, 1), (normal(2, 3, 4),)),
        (layout.Permute((1, 0)), lambda x: x.t(), (strided(3, 4),)),
    ],
    layout.Expand: [
        (layout.Expand((2, 3, 4)), lambda x: x.expand(2, 3, 4), (normal(3, 1),)),
        (layout.Expand((2, 2)), lambda x: x.expand(2, 2), (normal(),)),
    ],
    layout.Slice: [(layout.Slice(1, 1, 7, 2), lambda x: x[:, 1:7:2], (turned(3, 8),))],
    layout.Select: [(layout.Select(1, 2), lambda x: x[:, 2], (last(2, 3, 4, 5),))],
    layout.AsStrided: [
        (
            layout.AsStrided((3, 2), (1, 3), 2),
            lambda x: x.as_strided((3, 2), (1, 3), 2),
            (normal(4, 3),),
        ),
        (
            layout.AsStrided((3,), (12,), 2, (12, 2)),
            lambda x: x.as_strided((3,), (12,), x.storage_offset() + 2),
            (strided(3, 3),),
        ),
    ],
    layout.Variable: [(layout.Variable(), lambda x: x.view_as(x), (strided(3, 2),))],
    after.After: [(after.After(), lambda x, _: x.view_as(x), (normal(3, 2), normal(4)))],
    layout.Kept: [(layout.Kept(), lambda _, y: y.clone(), (normal(3, 2), turned(3, 2)))],
    layout.Detach: [(layout.Detach(), lambda x: x.detach(), (strided(3, 2),))],
    windows.Diagonal: [
        (windows.Diagonal(1, 0, 2), lambda x: x.diagonal(1, 0, 2), (normal(3, 2, 5),)),
        (windows.Diagonal(-9, 1, 0), lambda x: x.diagonal(-9, 1, 0), (normal(3, 2),)),
    ],
    windows.Unfold: [(windows.Unfold(1, 3, 2), lambda x: x.unfold(1, 3, 2), (turned(2, 8),))],
    windows.ViewDtype: [
        (windows.ViewDtype(torch.int32), lambda x: x.view(torch.int32), (turned(2, 3),)),
        (windows.ViewDtype(torch.float64), lambda x: x.view(torch.float64), (normal(3, 4),)),
        (windows.ViewDtype(torch.uint8), lambda x: x.view(torch.uint8), (normal(3, 4),)),
    ],
    windows.Conj: [
        (
            windows.Conj(),
            lambda x: relaid(x.conj_physical(), tuple(x.stride())),
            (lambda: normal(3, 4, dtype=torch.complex64)().t(),),
        )
    ],
    windows.ViewAsReal: [
        (windows.ViewAsReal(), torch.view_as_real, (turned(2, 3, dtype=torch.complex64),))
    ],
    windows.ViewAsComplex: [(windows.ViewAsComplex(), torch.view_as_complex, (normal(3, 2),))],
}

COPIES: dict[type[Op], list[Sample]] = {
    copies.Clone: [
        (
            copies.Clone((60, 1, 20, 4)),
            lambda x: x.clone(memory_format=LAST),
            (normal(2, 4, 3, 5),),
        ),
        (copies.Clone((3, 1)), lambda x: x.contiguous(), (turned(2, 3),)),
        (copies.Clone((6, 2)), lambda x: relaid(x, (6, 2)), (normal(2, 3),)),
    ],
    copies.ToDevice: [
        (copies.ToDevice(CPU), lambda x: x.to("cpu", copy=True), (turned(3, 4),)),
        (copies.ToDevice(CPU), lambda x: x.to("cpu", copy=True), (strided(3, 4),)),
    ],
    copies.Cat: [
        (copies.Cat(1), lambda *xs: torch.cat(xs, 1), (normal(2, 3), turned(2, 1), normal(2, 2))),
        (copies.Cat(1), lambda *xs: torch.cat(xs, 1), (last(2, 3, 4, 5), last(2, 2, 4, 5))),
        (copies.Cat(1), lambda *xs: torch.cat(xs, 1), (last(2, 3, 4, 5), normal(2, 2, 4, 5))),
        (copies.Cat(0), lambda *xs: torch.cat(xs), (last(1, 3, 1, 1), last(2, 3, 1, 1))),
        (copies.Cat(0), lambda *xs: torch.cat(xs), (normal(0), normal(2, 3), ints([[1, 2, 3]]))),
        (copies.Cat(0), lambda *xs: torch.cat(xs), (normal(0), normal(0))),
        (
            copies.Cat(-1),
            lambda *xs: torch.cat(xs, -1),
            (normal(2, dtype=torch.bfloat16), normal(3)),
        ),
    ],
    copies.Pad: [
        (copies.Pad((1, 2), 0.5), lambda x: torch.constant_pad_nd(x, (1, 2), 0.5), (turned(2, 3),)),
        (
            copies.Pad((1, -1, 0, 2), 0),
            lambda x: torch.constant_pad_nd(x, (1, -1, 0, 2)),
            (last(2, 3, 4, 5),),
        ),
        (copies.Pad((-1, 0)), lambda x: torch.constant_pad_nd(x, (-1, 0)), (turned(2, 3),)),
        (copies.Pad((0, 0)), lambda x: torch.constant_pad_nd(x, (0, 0)), (last(2, 3, 4, 5),)),
        (copies.Pad((1, 1), 7), lambda x: torch.constant_pad_nd(x, (1, 1), 7), (ints([1, 2]),)),
    ],
    copies.Repeat: [
        (copies.Repeat((2, 1, 3)), lambda x: x.repeat(2, 1, 3), (turned(2, 3),)),
        (copies.Repeat((0, 2)), lambda x: x.repeat(0, 2), (normal(2, 3),)),
    ],
    copies.Flip: [
        (copies.Flip((0, 2)), lambda x: x.flip(0, 2), (turned(2, 3, 4),)),
        (copies.Flip((1,)), lambda x: x.flip(1), (strided(3, 4),)),
    ],
    copies.Roll: [
        (copies.Roll((1, -2), (1, 2)), lambda x: x.roll((1, -2), (1, 2)), (last(2, 3, 4, 5),)),
        (copies.Roll((0,), (1,)), lambda x: x.roll(0, 1), (last(2, 3, 4, 5),)),
        (copies.Roll((5,)), lambda x: x.roll(5), (turned(3, 4),)),
        (copies.Roll((1,), (0,)), lambda x: x.roll(1, 0), (normal(0, 3),)),
    ],
    writes.SliceScatter: [
        (
            writes.SliceScatter(1, 1, 6, 2),
            lambda x, v: torch.slice_scatter(x, v, 1, 1, 6, 2),
            (turned(2, 7), normal(2, 3)),
        ),
        (
            writes.SliceScatter(0, 1, 2),
            lambda x, v: torch.slice_scatter(x, v, 0, 1, 2),
            (strided(3, 2), normal(1, 2)),
        ),
    ],
    writes.SelectScatter: [
        (
            writes.SelectScatter(1, 2),
            lambda x, v: torch.select_scatter(x, v, 1, 2),
            (last(2, 3, 4, 5), normal(2, 4, 5)),
        )
    ],
    writes.Put: [
        (
            writes.Put((layout.Slice(0, 1, 4), windows.Diagonal()), (3, 1)),
            put_diagonal,
            (normal(4, 3), normal(3)),
        )
    ],
}

CREATE: dict[type[Op], list[Sample]] = {
    create.Literal: [(create.Literal(Data(normal(3, 2)())), normal(3, 2), ())],
    create.Full: [
        (create.Full((2, 3), 1.5), lambda: torch.full((2, 3), 1.5), ()),
        (create.Full((), True, torch.bool), lambda: torch.full((), True), ()),
        (
            create.Full((2, 3), 0, torch.int8, CPU, (1, 2)),
            lambda: torch.zeros_like(normal(3, 2)().t(), dtype=torch.int8),
            (),
        ),
        (
            create.Full((2,), None, torch.float64),
            lambda v: torch.full((2,), v).double(),
            (lambda: 2.5,),
        ),
    ],
    create.Arange: [
        (create.Arange(0, 7), lambda: torch.arange(7), ()),
        (create.Arange(7, -3, -3), lambda: torch.arange(7, -3, -3), ()),
        (create.Arange(0.0, 1.0, 0.3, torch.float32), lambda: torch.arange(0.0, 1.0, 0.3), ()),
        (
            create.Arange(0, 2.5, 1, torch.int64),
            lambda: torch.arange(0, 2.5, 1, dtype=torch.int64),
            (),
        ),
        (
            create.Arange(0.5, 2.6, 0.7, torch.bfloat16),
            lambda: torch.arange(0.5, 2.6, 0.7, dtype=torch.bfloat16),
            (),
        ),
        (create.Arange(3, 3), lambda: torch.arange(3, 3), ()),
    ],
    create.Linspace: [(create.Linspace(-1, 2, 5), lambda: torch.linspace(-1, 2, 5), ())],
    create.Eye: [(create.Eye(3, 2), lambda: torch.eye(3, 2), ())],
    create.Tril: [
        (create.Tril(), torch.tril, (turned(3, 4),)),
        (create.Tril(-1), lambda x: torch.tril(x, -1), (last(2, 3, 4, 5),)),
    ],
    create.Triu: [(create.Triu(1), lambda x: torch.triu(x, 1), (strided(3, 4),))],
}

INDEXING: dict[type[Op], list[Sample]] = {
    index.Gather: [
        (index.Gather(1), lambda x, i: x.gather(1, i), (turned(3, 4), modulo(4, 2, 5))),
        (
            index.Gather(0),
            lambda x, i: x.gather(0, i),
            (normal(3, 4), lambda: modulo(3, 4, 2)().t()),
        ),
    ],
    index.Scatter: [
        (
            index.Scatter(0),
            lambda x, i, v: x.scatter(0, i, v),
            (turned(3, 4), ints([[0, 1, 2]]), normal(1, 3)),
        ),
        (
            index.Scatter(1),
            lambda x, i, v: x.scatter(1, i, v),
            (last(2, 3, 4, 5), modulo(3, 2, 3, 4, 5), lambda: 1.5),
        ),
    ],
    index.ScatterAdd: [
        (
            index.ScatterAdd(1),
            lambda x, i, v: x.scatter_add(1, i, v),
            (turned(3, 4), modulo(4, 3, 6), normal(3, 6)),
        )
    ],
    index.IndexSelect: [
        (index.IndexSelect(1), lambda x, i: x.index_select(1, i), (last(2, 3, 4, 5), ints([2, 0]))),
        (index.IndexSelect(0), lambda x, i: x.index_select(0, i), (turned(3, 4), ints(1))),
        (index.IndexSelect(0), lambda x, i: x.index_select(0, i), (normal(), ints([0]))),
    ],
    index.Embedding: [
        (index.Embedding(), torch.embedding, (normal(7, 4), modulo(7, 2, 3))),
        (index.Embedding(0), torch.embedding, (turned(7, 4), ints(3, torch.int32))),
    ],
    index.Index: [
        (index.Index((True,)), lambda x, i: x[i], (normal(5, 4), modulo(5, 2, 3))),
        (index.Index((True,)), lambda x, i: x[i], (turned(5, 4, 3), modulo(5, 7))),
        (index.Index((True,)), lambda x, i: x[i], (last(2, 3, 4, 5), ints([1, 0, 1]))),
        (index.Index((False, True)), lambda x, i: x[:, i], (turned(5, 4, 3), modulo(4, 2, 2))),
        (index.Index((False, True)), lambda x, i: x[:, i], (last(2, 3, 4, 5), ints([2, 1]))),
        (
            index.Index((True, True)),
            lambda x, i, j: x[i, j],
            (strided(5, 4, 3), modulo(5, 2, 1), modulo(4, 3)),
        ),
        (
            index.Index((True, False, True)),
            lambda x, i, j: x[i, :, j],
            (last(2, 3, 4, 5), ints([1, 0]), ints([[1], [3]])),
        ),
        (
            index.Index((False, True, False, True)),
            lambda x, i, j: torch.ops.aten.index(x, [None, i, None, j]),
            (turned(2, 3, 4, 5), lambda: modulo(3, 2, 2)().t(), ints(3)),
        ),
        (index.Index((False, False, True)), lambda x, i: x[:, :, i], (normal(2, 1, 4), ints([3]))),
        (index.Index((True,)), lambda x, i: x[i], (normal(5, 4, dtype=torch.bool), ints([]))),
        (
            index.Index((False, True)),
            lambda x, i: x[:, i],
            (lambda: normal(4, 1)().expand(4, 3), ints([0, 2], torch.int32)),
        ),
    ],
    index.IndexPut: [
        (
            index.IndexPut((False, True)),
            lambda x, v, i: torch.ops.aten.index_put(x, [None, i], v),
            (turned(3, 4), normal(2), ints([1, 3])),
        ),
        (
            index.IndexPut((True, True), True),
            lambda x, v, i, j: torch.ops.aten.index_put(x, [i, j], v, True),
            (strided(3, 4), normal(4), ints([1, 1, 0, 1]), ints([2, 2, 3, 2])),
        ),
        (
            index.IndexPut((True,)),
            lambda x, v, m: torch.ops.aten.index_put(x, [m], v),
            (normal(3, 4), normal(), lambda: normal(3, 4)() > 0),
        ),
    ],
}


def filled(fill: Callable[[torch.Tensor], Any]) -> Callable[[], torch.Tensor]:
    """What an in-place draw makes of a transposed tensor."""

    def make() -> torch.Tensor:
        x = torch.zeros(30, 20).t()
        fill(x)
        return x

    return make


SHAPE = ((20, 30), torch.float32, CPU)
RANDOM: dict[type[Op], list[Sample]] = {
    random.Uniform: [
        (random.Uniform(*SHAPE), lambda: torch.rand(20, 30), ()),
        (random.Uniform(*SHAPE, (1, 20), -1.0, 3.0), filled(lambda x: x.uniform_(-1, 3)), ()),
    ],
    random.Normal: [
        (random.Normal(*SHAPE), lambda: torch.randn(20, 30), ()),
        (random.Normal((3,), torch.float64, CPU), lambda: torch.randn(3, dtype=torch.float64), ()),
        (random.Normal(*SHAPE, (1, 20), 2.0, 0.5), filled(lambda x: x.normal_(2, 0.5)), ()),
    ],
    random.RandomInteger: [
        (
            random.RandomInteger((50,), torch.int64, CPU, None, -3, 9),
            lambda: torch.randint(-3, 9, (50,)),
            (),
        ),
        (random.RandomInteger(*SHAPE, (1, 20)), filled(lambda x: x.random_()), ()),
    ],
    random.Bernoulli: [
        (random.Bernoulli(*SHAPE, (1, 20), 0.3), filled(lambda x: x.bernoulli_(0.3)), ())
    ],
    random.Exponential: [
        (random.Exponential(*SHAPE, (1, 20), 2.0), filled(lambda x: x.exponential_(2.0)), ())
    ],
    random.Randperm: [
        (random.Randperm(9, torch.int64, CPU), lambda: torch.randperm(9), ()),
        (
            random.Randperm(9, torch.int32, CPU),
            lambda: torch.randperm(9, dtype=torch.int32),
            (),
        ),
    ],
    random.BernoulliOf: [
        (random.BernoulliOf(), torch.bernoulli, (lambda: normal(4, 5)().sigmoid(),)),
        (random.BernoulliOf(), torch.bernoulli, (lambda: normal(4, 5)().sigmoid().t(),)),
    ],
    random.Multinomial: [
        (
            random.Multinomial(3),
            lambda w: torch.multinomial(w, 3),
            (lambda: normal(4, 5)().abs(),),
        ),
        (
            random.Multinomial(9, True),
            lambda w: torch.multinomial(w, 9, True),
            (lambda: normal(5)().abs(),),
        ),
    ],
    random.NativeDropout: [
        (
            random.NativeDropout(0.3),
            lambda x: torch.native_dropout(x, 0.3, True),
            (normal(20, 30),),
        )
    ],
}

SAMPLES: dict[type[Op], list[Sample]] = {**VIEWS, **COPIES, **CREATE, **INDEXING, **RANDOM}
