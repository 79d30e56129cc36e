"""What every pass must keep, on random graphs: meaning, signature, and rest once it has run."""

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "passes"))

from check import assert_same_values
from random_graphs import random_graph

from lazytorch.errors import VerifyError
from lazytorch.ir import Builder, Graph, Node, Op, Write, input
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.compare import Gt, Where
from lazytorch.ops.conv import Convolution
from lazytorch.ops.create import Arange, Full
from lazytorch.ops.elementary import Exp, Sigmoid, Tanh
from lazytorch.ops.layout import Cat, Clone, Detach, Expand, Permute, Reshape, Slice
from lazytorch.ops.linalg import Matmul
from lazytorch.ops.norm import BatchNorm
from lazytorch.ops.pointwise import Abs, Add, Cast, Div, Maximum, Mul, Neg, Pow, Sub
from lazytorch.ops.random import Uniform
from lazytorch.ops.reduce import Softmax, Sum
from lazytorch.passes import (
    DEFAULT,
    Pass,
    check_signature,
    consecutive_rows,
    copies_in_kernels,
    cse,
    fold_batch_norm,
    grouped_heads,
    known_masks,
    late_casts,
    layouts,
    numbers_on_device,
    optimize,
    pass_name,
    scale_batch_norm,
    share_saved,
    slices_of_joins,
)
from lazytorch.types import TensorType, tensor_type
from lazytorch.verify import verify

FOR_A_GPU = (copies_in_kernels, grouped_heads)
EXACT = [p for p in DEFAULT if p is not scale_batch_norm]
NUMBERS = (0, 0.0, -0.0, 1, 1.0, 2, 0.5, -1, 3.0)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool)


class Grower:
    """Adds random operations to a graph; every choice comes from the seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.b = Builder()
        dtypes = [self.random.choice(DTYPES[:3]) for _ in range(3)]
        self.inputs = [
            input("x", tensor_type((4, 6), dtypes[0])),
            input("y", tensor_type((6, 4), dtypes[1], strides=(1, 6))),
            input("v", tensor_type((6,), dtypes[2])),
            input("w", tensor_type((4, 6), dtypes[0]), "state"),
        ]
        self.pool: list[Node] = list(self.inputs)
        self.effects: list[Node] = []
        self.masks: dict[int, Node] = {}

    def pick(self, fits: Callable[[TensorType], bool] = lambda typed: True) -> Node:
        """A recent value of a fitting type, or an input."""
        found = [x for x in self.pool if isinstance(x.type, TensorType) and fits(x.type)]
        return self.random.choice(found[-12:])

    def grow(self) -> None:
        """One more operation."""
        often = (self.unary, self.binary, self.number, self.layout) * 2
        seldom = (
            self.convert,
            self.reduce,
            self.whole,
            self.constant,
            self.draw,
            self.pair,
            self.attend,
        )
        self.pool.append(self.random.choice(often + seldom)())

    def unary(self) -> Node:
        x = self.pick(lambda t: t.dtype.is_floating_point)
        return self.b(self.random.choice((Exp(), Tanh(), Sigmoid(), Neg(), Abs())), x)

    def binary(self) -> Node:
        x = self.pick(lambda t: t.dtype is not torch.bool)
        self.pool.append(x)  # so that there is one of its shape among the recent ones
        assert isinstance(x.type, TensorType)
        shape, last = x.type.shape, x.type.shape[-1:]
        y = self.pick(lambda t: t.dtype is not torch.bool and t.shape in (shape, last, ()))
        op = self.random.choice((Add(), Sub(), Mul(), Div(), Maximum(), Gt()))
        if not isinstance(op, Gt):
            return self.b(op, x, y)
        return self.b(Where(), self.b(op, x, y), x, self.random.choice((y, 0.0)))

    def number(self) -> Node:
        x = self.pick(lambda t: t.dtype is not torch.bool)
        value = self.random.choice(NUMBERS)
        op: Op = self.random.choice((Add(), Sub(), Mul(), Div(), Pow()))
        if isinstance(op, Pow) and not x.type.dtype.is_floating_point:  # type: ignore[union-attr]
            value = 2
        return self.b(op, x, value)

    def convert(self) -> Node:
        return self.b(Cast(self.random.choice(DTYPES[:5])), self.pick())

    def layout(self) -> Node:
        x = self.pick(lambda t: t.rank > 0)
        assert isinstance(x.type, TensorType)
        shape, rank = x.type.shape, x.type.rank
        order = self.random.sample(range(rank), rank)
        expanded = (2, *shape) if rank < 3 else shape
        ops: list[Op] = [
            Permute(tuple(order)),
            Reshape((x.type.numel,)),
            Reshape((shape[-1], x.type.numel // max(shape[-1], 1))),
            Expand(expanded),
            Slice(0, 0, shape[0]),
            Slice(0, shape[0] // 2, shape[0]),
            Clone(x.type.strides if x.type.is_dense else x.type.dense().strides),
            Detach(),
            Cat(0),
        ]
        return self.b(self.random.choice(ops), x)

    def reduce(self) -> Node:
        x = self.pick(lambda t: t.rank > 0 and t.dtype.is_floating_point)
        return self.b(self.random.choice((Sum((0,)), Softmax(-1))), x)

    def whole(self) -> Node:
        """A sum over all dimensions."""
        x = self.pick(lambda t: t.numel > 7 and t.dtype.is_floating_point and t.strides[-1] == 1)
        assert isinstance(x.type, TensorType)
        return self.b(Sum(tuple(range(x.type.rank))), x)

    def constant(self) -> Node:
        dtype = self.random.choice(DTYPES[:5])
        shape = self.random.choice(((4, 6), (6,), ()))
        made = (Full(shape, self.random.choice(NUMBERS), dtype), Arange(0, 6, 1, dtype))
        node = self.b(self.random.choice(made))
        return self.b(Mul(), node, 2) if self.random.random() < 0.5 else node

    def draw(self) -> Node:
        node = self.b(Uniform((4, 6), torch.float32, torch.device("cpu")))
        self.effects.append(node)
        return node

    def pair(self) -> Node:
        """The same computation twice, for cse to find."""
        x, y = self.inputs[0], self.inputs[3]
        return self.b(Mul(), self.b(Add(), x, y), self.b(Add(), x, y))

    def updates(self) -> Node:
        """The same on tensors of several shapes, for one launch, and what comes of them all."""
        x = self.inputs[0]
        parts = [x, *[self.b(Reshape(shape), x) for shape in ((24,), (2, 12), (3, 2, 4))]]
        made = [self.b(Add(), self.b(Mul(), y, 3), y) for y in parts]
        sums = [self.b(Sum(tuple(range(y.type.rank))), y) for y in made]  # type: ignore[union-attr]
        return self.b(Add(), self.b(Add(), sums[0], sums[1]), self.b(Mul(), sums[2], sums[3]))

    def attend(self) -> Node:
        """Attention with a bool mask, sometimes one that was used before."""
        x = self.b(Cast(torch.float32), self.pick(lambda t: t.rank == 2 and t.numel > 0))
        assert isinstance(x.type, TensorType)
        tokens = x.type.shape[0]
        mask = self.masks.get(tokens)
        if mask is None:
            order = self.b(Arange(0, tokens, 1, torch.int64))
            mask = self.b(Gt(), self.b(Reshape((tokens, 1)), order), order)
            self.masks[tokens] = mask
        return self.b(ScaledDotProductAttention(), x, x, x, mask)

    def graph(self, size: int) -> Graph:
        for _ in range(size):
            self.grow()
        if self.random.random() < 0.3:
            target = self.inputs[0]
            values = [x for x in self.pool if x.type == target.type and x is not target]
            if values:
                self.effects.append(self.b(Write(), target, values[-1]))
        made = [x for x in self.pool if not x.op.view and x not in self.inputs]
        outputs = self.random.sample(made, min(len(made), 1 + self.random.randrange(4)))
        if self.random.random() < 0.3:
            outputs.append(self.updates())
        return Graph(tuple(self.inputs), tuple(outputs), tuple(self.effects))


def effectful_graph(seed: int) -> Graph:
    """A well-formed graph with constants, draws and writes; the same one for the same seed."""
    return verify(Grower(seed).graph(4 + seed % 40))


def pure_graph(seed: int) -> Graph:
    """One without effects, from the generator that other tests use too."""
    return random_graph(seed)[0]


def convolutional_graph(seed: int) -> Graph:
    """Convolutions and norms in every arrangement that folding has an opinion on."""
    r, b = random.Random(seed), Builder()
    inputs = [input("x", tensor_type((2, 4, 5, 5)))]

    def state(label: str, *shape: int) -> Node:
        role = "state" if r.random() < 0.9 else "argument"
        inputs.append(input(f"{label}{len(inputs)}", tensor_type(shape), role))
        return inputs[-1]

    x, pool = inputs[0], []
    for _ in range(r.randint(1, 4)):
        groups, transposed = r.choice((1, 2)), r.random() < 0.3
        weight = state("w", 4, 4 // groups, 3, 3)
        bias = [state("c", 4)] if r.random() < 0.5 else []
        ones = (1, 1)
        op = Convolution(ones, ones, ones, transposed, (0, 0), groups)
        x = b(op, x, weight, *bias)
        pool.append(x)
        if r.random() < 0.8:
            affine = [state("g", 4), state("b", 4)] if r.random() < 0.7 else []
            op = BatchNorm(1e-5, bool(affine), bool(affine))
            x = b(op, x, *affine, state("m", 4), state("v", 4))
        if r.random() < 0.5:
            x = b(Tanh(), x)
    last = b(Matmul(), x, x)
    extra = [pool[-1]] if r.random() < 0.2 else []
    return verify(Graph(tuple(inputs), (last, *extra)))


@pytest.mark.parametrize("make", [effectful_graph, pure_graph], ids=["effects", "pure"])
@pytest.mark.parametrize("rewrite", EXACT, ids=pass_name)
def test_a_pass_keeps_every_bit(rewrite: Pass, make: Callable[[int], Graph]) -> None:
    changed = 0
    for seed in range(50):
        graph = make(seed)
        after = verify(rewrite(graph), after=pass_name(rewrite))
        check_signature(graph, after, pass_name(rewrite))
        assert_same_values(graph, after, seed=seed)
        assert rewrite(after) is after, "a second run still finds something to do"
        changed += after is not graph
    # On layers' graphs, in test_vjp_rules.py, and in their own tests.
    elsewhere = (
        *(consecutive_rows, known_masks, late_casts, layouts, numbers_on_device, share_saved),
        slices_of_joins,
        *FOR_A_GPU,
    )
    enough = 5 if make is effectful_graph and rewrite not in elsewhere else 0
    assert changed >= enough, "the graphs give it nothing to do"


@pytest.mark.parametrize("rewrite", [fold_batch_norm, scale_batch_norm], ids=pass_name)
@pytest.mark.parametrize("seed", range(12))
def test_norms_are_rewritten_within_rounding(rewrite: Pass, seed: int) -> None:
    graph = convolutional_graph(seed)
    after = verify(rewrite(graph), after=pass_name(rewrite))
    check_signature(graph, after, pass_name(rewrite))
    assert_same_values(graph, after, close=1e-3, seed=seed)
    assert rewrite(after) is after


@pytest.mark.parametrize("seed", range(100, 120))
def test_all_passes_together_keep_every_bit(seed: int) -> None:
    for graph in (effectful_graph(seed), pure_graph(seed)):
        assert_same_values(graph, optimize(graph), seed=seed)


def test_the_driver_verifies_names_and_shows_each_pass() -> None:
    graph = effectful_graph(3)
    seen: list[tuple[str, Graph, Graph]] = []
    result = optimize(graph, DEFAULT, lambda *stage: seen.append(stage))
    assert [name for name, _, _ in seen] == [pass_name(p) for p in DEFAULT]
    assert seen[0][1] is graph and seen[-1][2] is result
    assert all(one[2] is other[1] for one, other in pairwise(seen))


def test_the_driver_blames_a_pass_that_changes_the_signature() -> None:
    def narrowed(graph: Graph) -> Graph:
        return replace(
            graph, outputs=tuple(Builder()(Cast(torch.float16), x) for x in graph.outputs)
        )

    def forgetful(graph: Graph) -> Graph:
        return replace(graph, effects=())

    def mistyped(graph: Graph) -> Graph:
        return graph.map(lambda node: replace(node, type=tensor_type((9,))))

    x = input("x", tensor_type((4,)))
    draw = Builder()(Uniform((4,), torch.float32, torch.device("cpu")))
    graph = Graph((x,), (Builder()(Exp(), x),), (draw,))
    for wrong in (narrowed, forgetful, mistyped):
        with pytest.raises(VerifyError, match=wrong.__name__):
            optimize(graph, [cse, partial(wrong)])
