"""Views show eager's elements with eager's strides, and a write through one is eager's write."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

import lazytorch.frontend.aten as frontend
from lazytorch.errors import LazyTorchError, ShapeError, UnsupportedError
from lazytorch.frontend.imports import VIEWERS
from lazytorch.interpret import evaluate
from lazytorch.ir import Builder, Graph, input
from lazytorch.ops.aten import AtenView, value_type
from lazytorch.ops.layout import AsStrided, Expand, Reshape, Select, view_strides, write_through
from lazytorch.ops.windows import Conj
from lazytorch.ops.writes import Put
from lazytorch.text import parse
from lazytorch.types import TensorType
from lazytorch.verify import verify

assert frontend  # loading it fills VIEWERS
aten = torch.ops.aten
Random = random.Random


def numbered(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    count = 1
    for size in shape:
        count *= size
    return torch.arange(1, count + 1).to(dtype).reshape(shape)


BASES: dict[str, Callable[[], torch.Tensor]] = {
    "contiguous": lambda: numbered(2, 3, 4, 6),
    "matrix": lambda: numbered(5, 7),
    "channels_last": lambda: numbered(2, 4, 3, 5).to(memory_format=torch.channels_last),
    "transposed": lambda: numbered(4, 6, 3).permute(2, 0, 1),
    "strided": lambda: numbered(6, 10)[1::2, ::3],
    "with ones": lambda: numbered(1, 4, 1, 6),
    "narrow column": lambda: numbered(4, 6)[:, 2:3],
    "vector": lambda: numbered(12),
    "scalar": lambda: torch.tensor(3.0),
    "empty": lambda: torch.zeros(3, 0, 2),
    "doubles": lambda: numbered(3, 4, dtype=torch.float64),
    "complex": lambda: numbered(3, 4, dtype=torch.complex64),
    "expanded": lambda: numbered(3, 1).expand(3, 4),
}


def some_view(rng: Random, x: torch.Tensor) -> tuple[Any, tuple[Any, ...]]:
    """A random view overload with arguments that eager accepts on `x`, or may."""
    rank = x.dim()
    dim = rng.randrange(-rank, rank) if rank else 0
    size = x.shape[dim] if rank else 1
    a, b = rng.randrange(-size - 2, size + 3), rng.randrange(-size - 2, size + 3)
    perm = rng.sample(range(-rank, 0), rank)
    choices: list[tuple[Any, tuple[Any, ...]]] = [
        (aten.permute.default, (perm,)),
        (aten.transpose.int, (dim, rng.randrange(-rank, rank) if rank else 0)),
        (aten.t.default, ()),
        (aten.unsqueeze.default, (rng.randrange(-rank - 1, rank + 1),)),
        (aten.squeeze.default, ()),
        (aten.squeeze.dim, (dim,)),
        (aten.squeeze.dims, ([dim],)),
        (aten.slice.Tensor, (dim, a, b, rng.choice((1, 1, 2, 3)))),
        (aten.slice.Tensor, (dim, None, b)),
        (aten.select.int, (dim, a)),
        (aten.expand.default, ([rng.choice((1, 2)), *[-1] * rank],)),
        (aten.expand.default, ([s if s != 1 else rng.choice((1, 3)) for s in x.shape],)),
        (aten.view.default, ([-1],)),
        (aten.view.default, (regrouped(rng, tuple(x.shape)),)),
        (aten.view.default, (regrouped(rng, tuple(x.shape)),)),
        (aten.diagonal.default, (rng.randrange(-3, 4), dim, rng.randrange(rank) if rank else 0)),
        (aten.unfold.default, (dim, rng.randrange(0, size + 1), rng.randrange(1, 3))),
        (aten.detach.default, ()),
        (aten.alias.default, ()),
        (aten.view.dtype, (rng.choice((torch.int32, torch.int16, torch.float64)),)),
        (aten.view_as_real.default, ()),
        (aten.view_as_complex.default, ()),
        (aten.split.Tensor, (rng.randrange(1, 4), dim)),
        (aten.unbind.int, (dim,)),
        (aten.as_strided.default, (list(x.shape), list(x.stride()))),
    ]
    return rng.choice(choices)


def regrouped(rng: Random, shape: tuple[int, ...]) -> list[int]:
    """A shape with the same number of elements: neighbours joined, sizes split, ones sprinkled."""
    sizes: list[int] = []
    for size in shape:
        if sizes and rng.random() < 0.4:
            sizes[-1] *= size
        elif size % 2 == 0 and size and rng.random() < 0.4:
            sizes += [2, size // 2]
        else:
            sizes.append(size)
        if rng.random() < 0.2:
            sizes.append(1)
    return sizes


def chain(seed: int, base: torch.Tensor) -> tuple[list[Any], torch.Tensor]:
    """Steps of one to four random views of `base`, and eager's view at their end.

    Checks on the way that each view has the type and the offset that eager gives it, and that
    what eager refuses is refused.
    """
    rng = Random(seed)
    steps: list[Any] = []
    x = base
    wanted = rng.randrange(1, 5)
    for _ in range(40):
        if wanted == 0:
            break
        func, args = some_view(rng, x)
        typed = value_type(x)
        try:
            real = func(x, *args)
        except (RuntimeError, IndexError) as error:
            # Where in its storage a tensor begins is not part of its type.
            unknown = "storage_offset" in str(error)
            assert unknown or refused(typed, func, args), (func, args, typed)
            continue
        found = VIEWERS[func](typed, *args)
        if isinstance(real, list | tuple):
            assert len(found) == len(real)
            if not real:
                continue
            which = rng.randrange(len(real))
            real, found = real[which], found[which]
        end, offset = walk(typed, found)
        assert end == value_type(real), (func, args, typed)
        assert offset == real.storage_offset() * real.itemsize - x.storage_offset() * x.itemsize
        steps += found
        x = real
        wanted -= 1
    return steps, x


def refused(typed: Any, func: Any, args: tuple[Any, ...]) -> bool:
    """Whether ours raises too."""
    try:
        walk(typed, VIEWERS[func](typed, *args))
    except LazyTorchError:
        return True
    return False


def walk(typed: Any, steps: Any) -> tuple[Any, int]:
    """The type at the end of the steps, and the bytes between the first elements."""
    if isinstance(steps, list):
        return [walk(typed, one) for one in steps], 0
    offset = 0
    for step in steps:
        offset += step.offset(typed) * typed.dtype.itemsize
        typed = step.infer(typed)
    return typed, offset


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal types and equal bits."""
    if value_type(a) != value_type(b):
        return False
    # A fresh vector: the view of one element may have a stride that forbids the next view.
    flat = [x.reshape(-1).clone().as_strided((x.numel(),), (1,)) for x in (a, b)]
    return torch.equal(*[x.view(torch.uint8) for x in flat])


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("seed", range(40))
def test_a_chain_of_views_shows_eagers_elements(name: str, seed: int) -> None:
    base = BASES[name]()
    steps, real = chain(seed, base)
    x = base
    for step in steps:
        x = step.run(x)
        assert x.untyped_storage().data_ptr() == base.untyped_storage().data_ptr()
    assert same(x, real)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("seed", range(40))
def test_a_write_through_a_chain_of_views_is_eagers(name: str, seed: int) -> None:
    base = BASES[name]()
    steps, window = chain(seed, base)
    before = base.as_strided(base.shape, base.stride()).clone(memory_format=torch.preserve_format)
    value = torch.randn(window.shape).to(window.dtype)
    x = input("x", value_type(base))
    v = input("v", value_type(value))
    if overlapping(window):
        with pytest.raises(LazyTorchError, match="more than one element"):
            write_through(Builder(), x, steps, v)
        return
    written = write_through(Builder(), x, steps, v)
    assert written.type == x.type
    graph = verify(Graph((x, v), (written,)))
    assert str(parse(str(graph))) == str(graph)
    known = evaluate(graph, (base, value))
    assert torch.equal(nan_free(base), nan_free(before))  # the operand itself stays
    for node, result in known.items():
        assert value_type(result) == node.type, node
    window.copy_(value)
    assert same(known[written], base)


def overlapping(x: torch.Tensor) -> bool:
    return any(n > 1 and s == 0 for n, s in zip(x.shape, x.stride(), strict=True))


def nan_free(x: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(torch.view_as_real(x) if x.is_complex() else x)


def test_as_strided_writes_elements_whatever_the_operand_lies_like() -> None:
    # Meant over channels-last memory, run on a row-major copy of the same elements.
    base = BASES["channels_last"]()
    strides = tuple(base.stride())
    step = AsStrided((3, 4), (5, 2), 7, strides)
    expected = base.as_strided((3, 4), (5, 2), 7)
    assert same(step.run(base.contiguous()), expected)
    changed = Put((step,), strides).run(base.contiguous(), torch.zeros(3, 4))
    expected.zero_()
    assert same(changed, base)


def test_as_strided_may_not_show_memory_between_elements() -> None:
    with pytest.raises(ShapeError, match="no element"):
        AsStrided((4,), (1,), 0, (2,)).infer(value_type(torch.zeros(8)[::2]))
    with pytest.raises(ShapeError, match="out of bounds"):
        AsStrided((4,), (3,)).infer(value_type(torch.zeros(8)))


def test_a_write_to_one_element_of_an_expanded_tensor_reaches_it() -> None:
    base = numbered(3)
    steps = [Expand((2, 3)), Select(0, 1), Select(0, 2)]
    x, v = input("x", value_type(base)), input("v", value_type(torch.tensor(0.0)))
    graph = Graph((x, v), (write_through(Builder(), x, steps, v),))
    known = evaluate(graph, (base, torch.tensor(-1.0)))
    assert known[graph.outputs[0]].tolist() == [1.0, 2.0, -1.0]


def test_a_view_without_a_rule_of_ours_is_written_by_the_general_inverse() -> None:
    from lazytorch.ir import Operand

    step = AtenView("aten.movedim.int", (Operand(0), 0, 1))
    base = numbered(3, 4)
    changed = Put((step,), (4, 1)).run(base, torch.zeros(4, 3))
    assert same(changed, torch.zeros(3, 4)) and base[0, 0] == 1


@pytest.mark.parametrize(
    ("shape", "strides", "new"),
    [
        ((2, 3), (3, 1), (3, 2)),
        ((2, 3), (1, 2), (6,)),
        ((2, 3, 4), (12, 4, 1), (6, 4)),
        ((2, 4, 3, 5), (60, 1, 20, 4), (2, 4, 15)),
        ((2, 4, 3, 5), (60, 1, 20, 4), (2, 2, 2, 15)),
        ((2, 4, 3, 5), (60, 1, 20, 4), (8, 15)),
        ((2, 1, 3), (10, 7, 1), (2, 3)),
        ((), (), (1, 1)),
        ((0, 3), (3, 1), (3, 0)),
        ((0, 3), (7, 5), (0, 3)),
        ((3, 4), (0, 1), (3, 2, 2)),
        ((3, 4), (0, 1), (12,)),
    ],
)
def test_view_strides_are_torchs(
    shape: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]
) -> None:
    x = torch.empty_strided(shape, strides)
    try:
        expected = tuple(x.view(new).stride())
    except RuntimeError:
        expected = None
    assert view_strides(shape, strides, new) == expected


def test_view_refuses_what_needs_a_copy_in_eagers_words() -> None:
    x = torch.zeros(3, 4).t()
    with pytest.raises(RuntimeError) as eager:
        x.view(12)
    with pytest.raises(ShapeError) as ours:
        VIEWERS[aten.view.default](value_type(x), [12])
    assert ours.value.message == str(eager.value)
    with pytest.raises(RuntimeError) as eager:
        x.view(5, -1)
    with pytest.raises(ShapeError) as ours:
        VIEWERS[aten.view.default](value_type(x), [5, -1])
    assert ours.value.message == str(eager.value)


def test_put_refuses_steps_that_lead_to_a_copy() -> None:
    with pytest.raises(UnsupportedError, match="lead to a copy"):
        Put((Reshape((12,)),), (1, 3)).run(numbered(3, 4), torch.zeros(12))


def test_a_write_through_a_conjugate_stores_conjugates() -> None:
    base = numbered(2, 3, dtype=torch.complex64) * (1 + 2j)
    value = torch.randn(3, dtype=torch.complex64)
    steps = [Conj(), Select(0, 1)]
    assert VIEWERS[aten._conj.default](value_type(base)) == (Conj(),)
    x, v = input("x", value_type(base)), input("v", value_type(value))
    graph = Graph((x, v), (write_through(Builder(), x, steps, v),))
    changed = evaluate(graph, (base, value))[graph.outputs[0]]
    base.conj()[1].copy_(value)
    assert same(changed, base)


def test_reshape_copies_where_no_view_shows_the_elements() -> None:
    x = numbered(3, 4).t()
    typed = Reshape((12,)).infer(value_type(x))
    assert isinstance(typed, TensorType) and typed.strides == (1,)
    assert same(Reshape((12,)).run(x), x.reshape(12))
