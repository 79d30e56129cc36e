"""Layout, factories, indexing and random draws: eager's values, strides and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples_layout import SAMPLES, Sample, ints, last, modulo, normal, strided, turned

import lazytorch.frontend.aten as frontend
from lazytorch.errors import LazyTorchError
from lazytorch.frontend.imports import IMPORTERS
from lazytorch.interpret import evaluate
from lazytorch.ir import Builder, Graph, Node, Op, input
from lazytorch.ops import after, copies, create, index, layout, random, windows, writes
from lazytorch.ops.aten import value_type
from lazytorch.ops.create import Full
from lazytorch.ops.random import Bernoulli
from lazytorch.text import parse
from lazytorch.verify import verify

assert frontend  # loading it fills IMPORTERS
aten = torch.ops.aten
CASES = [sample for samples in SAMPLES.values() for sample in samples]
FAMILIES = (after, copies, create, index, layout, random, windows, writes)


def bits(x: Any) -> Any:
    """The value itself, in a form that `==` compares bit by bit."""
    if isinstance(x, tuple | list):
        return [bits(item) for item in x]
    return x.reshape(-1).clone().as_strided((x.numel(),), (1,)).view(torch.uint8).tolist()


def test_every_operation_of_these_families_has_a_sample() -> None:
    names = {family.__name__ for family in FAMILIES}
    assert {kind for kind in Op.registry.values() if kind.__module__ in names} == set(SAMPLES)


@pytest.mark.parametrize("sample", CASES, ids=lambda sample: repr(sample[0])[:60])
def test_operation_is_torchs(sample: Sample) -> None:
    op, reference, makers = sample
    operands = [make() for make in makers]
    torch.manual_seed(7)
    expected = reference(*operands)
    drawn = torch.get_rng_state()
    torch.manual_seed(7)
    result = op.run(*operands)
    assert torch.equal(drawn, torch.get_rng_state())
    assert op.infer(*[value_type(x) for x in operands]) == value_type(expected)
    assert value_type(result) == value_type(expected)
    assert bits(result) == bits(expected)


@pytest.mark.parametrize("sample", CASES, ids=lambda sample: repr(sample[0])[:60])
def test_operation_prints_and_parses(sample: Sample) -> None:
    op, _, makers = sample
    xs = [input(f"x{i}", value_type(make())) for i, make in enumerate(makers)]
    node = Builder()(op, *xs)
    graph = verify(Graph(tuple(xs), (node,), (node,) if op.effect else ()))
    again = parse(str(graph))
    assert again.outputs[0].op == op
    assert str(again) == str(graph)


class Effects(Builder):
    """A builder that keeps effects in order, as a recorder does."""

    def __init__(self) -> None:
        super().__init__()
        self.effects: list[Node] = []

    def __call__(self, op: Op, *inputs: Any) -> Node:
        node = super().__call__(op, *inputs)
        if op.effect:
            self.effects.append(node)
        return node


def imported(func: Any, args: Any, kwargs: Any) -> Any:
    """The graph that the importer of `func` makes of a call, and the values of its inputs."""
    inputs: dict[Node, Any] = {}

    def operand(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            node = input(f"x{len(inputs)}", value_type(value))
            inputs[node] = value
            return node
        return [operand(v) for v in value] if isinstance(value, list) else value

    b = Effects()
    result = IMPORTERS[func](b, *operand(list(args)), **{k: operand(v) for k, v in kwargs.items()})
    if result is NotImplemented:
        return NotImplemented, ()
    return verify(Graph(tuple(inputs), (result,), tuple(b.effects))), tuple(inputs.values())


CL = torch.channels_last
CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (aten.clone.default, (strided(3, 4)(),), {}),
    (aten.clone.default, (turned(2, 3, 4)()[:, ::2],), {}),
    (aten.clone.default, (normal(3, 1)().expand(3, 4),), {}),
    (aten.clone.default, (normal(1, 4)().expand(3, 4).t(),), {}),
    (aten.clone.default, (turned(3, 4)(),), {"memory_format": torch.contiguous_format}),
    (aten.clone.default, (normal(2, 3, 4, 5)(),), {"memory_format": CL}),
    (aten.clone.default, (normal(2, 3, 2, 4, 5)(),), {"memory_format": torch.channels_last_3d}),
    (aten.clone.default, (normal(2, 0, 4, 5)(),), {"memory_format": CL}),
    (aten._to_copy.default, (turned(3, 4)(),), {}),
    (aten._to_copy.default, (strided(3, 4)().t(),), {"dtype": torch.float64}),
    (aten._to_copy.default, (last(2, 3, 4, 5)(),), {"dtype": torch.bfloat16}),
    (aten._to_copy.default, (normal(2, 3, 4, 5)(),), {"dtype": torch.int32, "memory_format": CL}),
    (
        aten._to_copy.default,
        (last(2, 3, 4, 5)(),),
        {"device": torch.device("cpu"), "memory_format": torch.contiguous_format},
    ),
    (aten.cat.default, ([normal(2, 3)(), normal(2, 3)().double()], -1), {}),
    (aten.stack.default, ([normal(2, 3)(), turned(2, 3)()],), {}),
    (aten.stack.default, ([normal(2, 3)(), turned(2, 3)()], 1), {}),
    (aten.stack.default, ([turned(2, 3)(), turned(2, 3)()], -1), {}),
    (aten.stack.default, ([normal()(), normal()()],), {}),
    (aten.stack.default, ([last(2, 3, 4, 5)()] * 2, 1), {}),
    (aten.stack.default, ([last(2, 3, 4, 5)()] * 2, 0), {}),
    (aten.stack.default, ([last(1, 3, 4, 5)()[0]] * 2, 3), {}),
    (aten.constant_pad_nd.default, (turned(3, 4)(), [1, 1, 0, 2]), {}),
    (aten.pad.default, (normal(3, 4)(), [1, 0]), {"value": 2.0}),
    (aten.repeat.default, (normal(3)(), [2, 2]), {}),
    (aten.flip.default, (turned(3, 4)(), [-1]), {}),
    (aten.roll.default, (normal(3, 4)(), [2], [-1]), {}),
    (aten.slice_scatter.default, (turned(3, 6)(), normal(3, 2)(), -1, -5, 5, 2), {}),
    (aten.select_scatter.default, (turned(3, 6)(), normal(3)(), 1, -2), {}),
    (aten.diagonal_scatter.default, (turned(3, 6)(), normal(3)(), 2), {}),
    (aten.as_strided_scatter.default, (turned(3, 6)(), normal(4)(), [4], [3]), {}),
    (aten.full.default, ([2], 1), {}),
    (aten.full.default, ([2], 1.0), {"dtype": torch.int64}),
    (aten.full.default, ([], True), {}),
    (aten.full.default, ([2], 1j), {}),
    (aten.zeros.default, ([2, 3],), {}),
    (aten.ones.default, ([2, 3],), {"dtype": torch.bool}),
    (aten.ones_like.default, (strided(3, 4)().t(),), {}),
    (aten.zeros_like.default, (last(2, 3, 4, 5)(),), {"dtype": torch.int8}),
    (aten.full_like.default, (turned(3, 4)(), 2.5), {"memory_format": torch.contiguous_format}),
    (aten.new_zeros.default, (turned(3, 4)(), [2, 2]), {}),
    (aten.new_ones.default, (ints([1])(), [2, 2]), {}),
    (aten.new_full.default, (normal(3)(), [2], 7), {}),
    (aten.scalar_tensor.default, (3,), {}),
    (aten.scalar_tensor.default, (2.5,), {"dtype": torch.bfloat16}),
    (aten.arange.default, (5,), {}),
    (aten.arange.default, (2.5,), {}),
    (aten.arange.start, (2, 5.0), {}),
    (aten.arange.start, (2, 5), {"dtype": torch.float32}),
    (aten.arange.start_step, (5, 0, -2), {"dtype": torch.int32}),
    (aten.arange.start_step, (0, 1, 0.1), {"dtype": torch.float16}),
    (aten.eye.default, (3,), {}),
    (aten.eye.m, (3, 2), {"dtype": torch.int64}),
    (aten.linspace.default, (0, 1, 7), {}),
    (aten.tril.default, (turned(3, 4)(), 1), {}),
    (aten.triu.default, (last(2, 3, 4, 5)(),), {}),
    (aten.gather.default, (normal(3, 4)(), -1, modulo(4, 3, 2)()), {}),
    (aten.scatter.value, (normal(3, 4)(), 1, modulo(4, 3, 2)(), 2.0), {}),
    (aten.scatter.src, (normal(3, 4)(), 1, ints([[1], [2], [0]])(), normal(3, 4)()), {}),
    (aten.scatter_add.default, (turned(3, 4)(), -1, modulo(4, 3, 6)(), normal(3, 6)()), {}),
    (aten.index_select.default, (turned(3, 4)(), -1, ints([3, 3, 0])()), {}),
    (aten.embedding.default, (normal(6, 3)(), modulo(6, 4)(), 1), {}),
    (aten.index.Tensor, (turned(3, 4, 5)(), [None, modulo(4, 7)()]), {}),
    (aten.index.Tensor, (normal(3, 4, 5)(), [ints(1)(), None, ints([2, 3])()]), {}),
    (aten.index_put.default, (turned(3, 4)(), [None, ints([2])()], normal()()), {}),
    (aten.index_put.default, (normal(3, 4)(), [normal(3, 4)() > 0], normal()(), True), {}),
    (aten.rand.default, ([3, 50],), {}),
    (aten.rand.default, ([5],), {"dtype": torch.bfloat16}),
    (aten.randn.default, ([3, 50],), {}),
    (aten.randn.default, ([5],), {"dtype": torch.complex64}),
    (aten.randint.default, (9, [20]), {}),
    (aten.randint.low, (-9, 9, [20]), {"dtype": torch.int32}),
    (aten.rand_like.default, (strided(5, 6)(),), {}),
    (aten.randn_like.default, (turned(5, 6)(),), {"dtype": torch.float64}),
    (aten.randint_like.default, (turned(5, 6)(), 9), {}),
    (aten.randint_like.low_dtype, (turned(5, 6)(), -9, 9), {"dtype": torch.int64}),
    (aten.randperm.default, (12,), {}),
    (aten.bernoulli.default, (normal(5, 6)().sigmoid(),), {}),
    (aten.bernoulli.p, (turned(5, 6)(), 0.3), {}),
    (aten.uniform.default, (turned(5, 6)(), -1.0, 2.0), {}),
    (aten.uniform.default, (turned(5, 6)(),), {"to": 0.5}),
    (aten.normal_functional.default, (turned(5, 6)(), 1.0, 2.0), {}),
    (aten.exponential.default, (turned(5, 6)(),), {}),
    (aten.random.default, (turned(5, 6)(),), {}),
    (aten.random.to, (turned(5, 6)(), 7), {}),
    (getattr(aten.random, "from"), (turned(5, 6)(), -3, 7), {}),
    (aten.multinomial.default, (normal(4, 6)().abs(), 3), {}),
    *[
        (aten.dropout.default, (x.to(dtype), p, True), {})
        for x in (normal(30, 40)(), last(2, 3, 9, 8)(), strided(30, 40)(), normal(0, 3)())
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
        for p in (0.0, 0.1, 0.3, 0.5, 0.77, 1.0)
    ],
    (aten.dropout.default, (normal(30, 40)(), 0.5, False), {}),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: str(call[0]).removeprefix("aten."))
def test_import_is_eagers_call(call: Any) -> None:
    func, args, kwargs = call
    torch.manual_seed(11)
    expected = func(*args, **kwargs)
    drawn = torch.get_rng_state()
    graph, values = imported(func, args, kwargs)
    assert graph is not NotImplemented
    torch.manual_seed(11)
    known = evaluate(graph, values)
    assert torch.equal(drawn, torch.get_rng_state())
    for node, value in known.items():
        assert value_type(value) == node.type, node
    result = known[graph.outputs[0]]
    assert value_type(result) == value_type(expected)
    assert bits(result) == bits(expected)


REFUSED: list[tuple[Any, tuple[Any, ...]]] = [
    (aten.cat.default, ([normal(2, 3)(), normal(3, 3)()], 1)),
    (aten.cat.default, ([normal(2, 3)(), normal(2)()], 0)),
    (aten.cat.default, ([normal()()], 0)),
    (aten.cat.default, ([normal(2)()], 3)),
    (aten.stack.default, ([normal(2)(), normal(3)()],)),
    (aten.constant_pad_nd.default, (normal(2)(), [1, 1, 1, 1])),
    (aten.constant_pad_nd.default, (normal(2)(), [-3, 0])),
    (aten.repeat.default, (normal(2, 2)(), [2])),
    (aten.flip.default, (normal(2, 2)(), [0, 0])),
    (aten.roll.default, (normal(2, 2)(), [1, 1], [0])),
    (aten.slice_scatter.default, (normal(4)(), normal(3)(), 0, 0, 2)),
    (aten.select_scatter.default, (normal(4)(), normal()(), 0, 9)),
    (aten.clone.default, (normal(4)(),), {"memory_format": CL}),
    (aten.zeros.default, ([-1],)),
    (aten.arange.start_step, (0, 5, -1)),
    (aten.arange.start_step, (0, 5, 0)),
    (aten.eye.default, (-1,)),
    (aten.tril.default, (normal(3)(),)),
    (aten.gather.default, (normal(3, 4)(), 0, ints([0])())),
    (aten.gather.default, (normal(3, 4)(), 0, normal(1, 1)())),
    (aten.gather.default, (normal(3, 4)(), 0, modulo(3, 3, 5)())),
    (aten.scatter_add.default, (normal(3, 4)(), 0, modulo(3, 3, 5)(), normal(3, 5)())),
    (aten.scatter.src, (normal(3, 4)(), 0, modulo(3, 3, 4)(), normal(3, 4)().double())),
    (aten.index_select.default, (normal(3, 4)(), 0, ints([[0]])())),
    (aten.embedding.default, (normal(3)(), ints([0])())),
    (aten.embedding.default, (normal(3, 2)(), normal(2)())),
    (aten.index.Tensor, (normal(3)(), [ints([0])(), ints([0])()])),
    (aten.index.Tensor, (normal(3, 3)(), [ints([0, 1])(), ints([0, 1, 2])()])),
    (aten.index_put.default, (normal(3)(), [ints([0])()], normal()().double())),
    (aten.multinomial.default, (normal(3)().abs(), 4)),
    (aten.bernoulli.p, (normal(3)(), 1.5)),
    (aten.dropout.default, (normal(3)(), 1.5, True)),
    (aten.randperm.default, (-1,)),
]


@pytest.mark.parametrize("call", REFUSED, ids=lambda call: str(call[0]).removeprefix("aten."))
def test_what_eager_refuses_is_refused(call: Any) -> None:
    func, args, *more = call
    kwargs = more[0] if more else {}
    with pytest.raises((RuntimeError, IndexError, ValueError, TypeError)):
        func(*args, **kwargs)
    with pytest.raises(LazyTorchError):
        imported(func, args, kwargs)


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (aten.pad.default, (normal(3, 4)(), [1, 1], "reflect"), {}),
        (aten.index.Tensor, (normal(3)(), [normal(3)() > 0]), {}),
        (aten.embedding.default, (normal(3, 2)(), ints([1])(), -1, False, True), {}),
        (aten.rand.default, ([2],), {"pin_memory": True}),
        (aten.uniform.default, (normal(3)(),), {"generator": torch.Generator()}),
        (aten.native_dropout.default, (normal(3)(), 0.5, True), {}),
    ],
)
def test_rare_forms_are_left_to_aten(func: Any, args: Any, kwargs: Any) -> None:
    assert imported(func, args, kwargs)[0] is NotImplemented


def test_empty_memory_is_zeros_with_eagers_strides() -> None:
    for func, args, kwargs in [
        (aten.empty.memory_format, ([2, 3, 4, 5],), {"memory_format": CL}),
        (aten.empty_like.default, (turned(3, 4)(),), {}),
        (aten.new_empty.default, (turned(3, 4)(), [2]), {"dtype": torch.int64}),
        (aten.empty_strided.default, ([3, 4], [9, 2]), {}),
        (aten.new_empty_strided.default, (ints([1])(), [3, 4], [0, 2]), {}),
    ]:
        graph, values = imported(func, args, kwargs)
        result = evaluate(graph, values)[graph.outputs[0]]
        assert graph.outputs[0].type == value_type(result) == value_type(func(*args, **kwargs))
        assert not result.any()


def test_full_of_equal_tensors_is_one_operation() -> None:
    b = Builder()
    a = create.full(b, (2, 3), 1, torch.float32, torch.device("cpu"), (3, 1))
    assert (
        a.op
        == Full((2, 3), 1.0)
        == create.full(b, (2, 3), 1.0, torch.float32, torch.device("cpu")).op
    )
    assert Full((2,), 0.0) != Full((2,), -0.0)


def test_dropout_keeps_a_mask_of_one_byte_for_each_element() -> None:
    graph, _ = imported(aten.dropout.default, (normal(4, 5)(), 0.3, True), {})
    (mask,) = graph.effects
    assert isinstance(mask.op, Bernoulli) and mask.op.dtype is torch.bool


def test_draws_are_never_equal_values() -> None:
    b = Effects()
    first, second = (IMPORTERS[aten.rand.default](b, [3]) for _ in range(2))
    graph = verify(Graph((), (first, second), tuple(b.effects)))
    known = evaluate(graph, ())
    assert len(graph.effects) == 2 and not torch.equal(known[first], known[second])
