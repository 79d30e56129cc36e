"""Derivatives of every operation against finite differences in float64, once and twice.

One direction for each sample: a weighted sum of the results moves along it as the gradient says,
and the gradient, a function of the operands and the weights, moves as its own gradient says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from samples import Sample, by_op
from test_ops import ours
from test_vjp_rules import CHOSEN, CONSTANT, LIBRARY, gradients, is_complex, row_major

from lazytorch.errors import LazyTorchError
from lazytorch.interpret import interpret
from lazytorch.ir import Builder, Graph, Item, Node, Op, constant, input
from lazytorch.ops.aten import value_type
from lazytorch.ops.calculus import is_tensor, tensor
from lazytorch.types import TupleType

Tensors = Sequence[torch.Tensor]
STEP = 1e-5
NEAR = 1e-5
"""How far a derivative may be from the difference, relative to the larger of both and to one."""
KINK = 1e-3
"""How far the differences of both sides may be apart, relative too, where a value is smooth."""
LARGE = 1000
"""Elements of the largest operand."""
COUNT = 3
"""Samples of each operation that are enough."""
APART = {
    "kept": "has the history of another value by design",
    "random_attention_backward": "kernels of a GPU: tests/test_attention_dropout.py",
    "random_attention_saving": "each run drops other weights: tests/test_attention_dropout.py",
    "random_recurrent": "refused: what it dropped nobody is told",
    "random_scaled_dot_product_attention": "refused: what it dropped nobody is told",
    "attention_backward": "operands belong together: checked as attention's second derivative",
    "batch_norm_backward": "operands belong together: checked as batch_norm_train's second",
}
STATISTICS = slice(-2, None)
CONSTANTS = {
    **dict.fromkeys(("batch_norm", "batch_norm_train", "batch_norm_saving"), STATISTICS),
    **dict.fromkeys(("instance_norm", "instance_norm_train"), STATISTICS),
    **dict.fromkeys(("binary_cross_entropy", "nll_loss", "cross_entropy_loss"), slice(2, 3)),
    "binary_cross_entropy_with_logits": slice(2, 4),
}
"""Operands that torch takes no derivative by: running statistics, weights of classes."""
FIRST = {"batch_norm_train", "batch_norm_saving", "instance_norm_train"}
"""Operations whose further results, statistics, have no derivative."""
UNDEFINED = {"pow"}
"""Operations whose second derivative is NaN where it has none on one side, as torch's is: pow at
a base of zero."""


def differentiable() -> list[str]:
    """The operations that have derivatives."""
    return [
        name
        for name, kind in ours().items()
        if name not in CONSTANT | CHOSEN | APART.keys()
        and kind.__module__.rsplit(".", 1)[-1] not in LIBRARY
    ]


def doubled(x: Any) -> Any:
    """The same in double precision: a tensor, or a dtype among the attributes."""
    if isinstance(x, torch.Tensor):
        return x.detach().to(doubled(x.dtype))
    if isinstance(x, torch.dtype):
        wide = torch.complex128 if x.is_complex else torch.float64
        return wide if x.is_complex or x.is_floating_point else x
    return x


def moves(x: Any) -> bool:
    """Whether a derivative is taken by an operand, or of a result."""
    return isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex())


def inner(xs: Tensors, ys: Tensors) -> float:
    """The real inner product."""
    pairs = [
        (torch.view_as_real(x), torch.view_as_real(y)) if is_complex(x) else (x, y)
        for x, y in zip(xs, ys, strict=True)
    ]
    return sum([float((x * y).sum()) for x, y in pairs])


def some(x: torch.Tensor) -> torch.Tensor:
    """A random direction."""
    return torch.randn(x.shape, dtype=x.dtype)


class Smooth:
    """A function of tensors that moves along a direction: its difference, or a kink."""

    def __init__(self, value: Callable[[Tensors], float], at: Tensors, along: Tensors) -> None:
        def moved(step: float) -> float:
            return value([x + step * v for x, v in zip(at, along, strict=True)])

        middle, up, down = value(at), moved(STEP), moved(-STEP)
        self.slope = (up - down) / (2 * STEP)
        sides = abs((up - middle) - (middle - down)) / STEP
        steps = abs((moved(2 * STEP) - moved(-2 * STEP)) / (4 * STEP) - self.slope)
        self.kink = not max(sides, steps) <= KINK * max(1.0, abs(self.slope))

    def check(self, derivative: float) -> None:
        """A derivative is the difference."""
        scale = max(1.0, abs(self.slope), abs(derivative))
        assert abs(derivative - self.slope) <= NEAR * scale, (derivative, self.slope)


class Point:
    """An operation at the operands of a sample, in double precision and `scaled`."""

    def __init__(self, sample: Sample, scaled: float) -> None:
        op = sample.op
        changed = {k: doubled(v) for k, v in op.attributes() if isinstance(v, torch.dtype)}
        self.op: Op = op.with_attributes(**changed) if changed else op
        self.operands = [doubled(x) * scaled if moves(x) else x for x in sample.operands]
        constant = constants(sample)
        self.moving = [moves(x) and i not in constant for i, x in enumerate(self.operands)]
        pairs = list(zip(self.operands, self.moving, strict=True))
        self.values = [x for x, moving in pairs if moving]
        self.fixed = [x for x, moving in pairs if isinstance(x, torch.Tensor) and not moving]
        results = self.results(self.values)[: 1 if op.name() in FIRST else None]
        self.places = [i for i, y in enumerate(results) if moves(y)]
        self.weights = [some(results[i]) for i in self.places]

    def filled(self, values: Tensors) -> list[Any]:
        """The operands with other values of those that move."""
        rest = iter(values)
        pairs = zip(self.operands, self.moving, strict=True)
        return [next(rest) if moving else x for x, moving in pairs]

    def results(self, values: Tensors) -> list[Any]:
        """The results, one or several; with the same random numbers each time."""
        torch.manual_seed(0)
        y = self.op.run(*self.filled(values))
        return list(y) if isinstance(y, tuple | list) else [y]

    def weighted(self, values: Tensors) -> float:
        """The weighted sum of the results."""
        found = self.results(values)
        return inner([found[i] for i in self.places], self.weights)

    def graph(self) -> tuple[Graph, list[Node]]:
        """From the operands that move, the weights and the operands that do not, to the gradients
        by the first, which follow."""
        b = Builder()
        nodes = [
            input(f"x{i}", value_type(x)) if isinstance(x, torch.Tensor) else constant(x)
            for i, x in enumerate(self.operands)
        ]
        out = b(self.op, *nodes)
        several = isinstance(out.type, TupleType)
        results = [b(Item(i), out) if several else out for i in self.places]
        seeds = [row_major(f"g{i}", y) for i, y in enumerate(results)]
        pairs = list(zip(nodes, self.moving, strict=True))
        wanted = [n for n, moving in pairs if moving]
        still = [n for n, moving in pairs if is_tensor(n) and not moving]
        found = gradients(results, seeds, wanted)
        return Graph((*wanted, *seeds, *still), tuple(found)), [*wanted, *seeds]


def computed(graph: Graph, values: Tensors) -> list[torch.Tensor]:
    """The outputs of a graph; with the same random numbers each time."""
    torch.manual_seed(0)
    return list(interpret(graph, *values))


def constants(sample: Sample) -> range:
    """The positions of the operands that torch takes for constants."""
    name, count = sample.op.name(), len(sample.operands)
    attributes = dict(sample.op.attributes())
    if CONSTANTS.get(name) is STATISTICS and not attributes.get("stats", True):
        return range(0)
    return range(count)[CONSTANTS.get(name, slice(0))]


def usable(sample: Sample, scaled: float) -> Point | None:
    """The sample in double precision; None where it has no such form, or no derivative."""
    if max([x.numel() for x in sample.operands if moves(x)], default=0) > LARGE:
        return None
    try:
        point = Point(sample, scaled)
    except (RuntimeError, TypeError, LazyTorchError):
        return None
    results = point.results(point.values)
    if not point.values or not point.places or not any(x.numel() for x in point.values):
        return None
    return point if all(results[i].dtype.itemsize >= 8 for i in point.places) else None


def once(point: Point) -> bool:
    """Check the gradient; False at a kink."""
    along = [some(x) for x in point.values]
    moved = Smooth(point.weighted, point.values, along)
    if moved.kink:
        return False
    graph, _ = point.graph()
    found = computed(graph, [*point.values, *point.weights, *point.fixed])
    moved.check(inner(found, along))
    return True


def twice(point: Point) -> bool:
    """Check the gradient of the gradient; False at a kink."""
    graph, by = point.graph()
    at = [*point.values, *point.weights]
    along, by_weight = [some(x) for x in at], [some(x) for x in point.values]

    def value(xs: Tensors) -> float:
        return inner(computed(graph, [*xs, *point.fixed]), by_weight)

    moved = Smooth(value, at, along)
    if moved.kink:
        return False
    seeds = [
        input(f"v{i}", tensor(y).with_shape(tensor(y).shape)) for i, y in enumerate(graph.outputs)
    ]
    again = Graph((*graph.inputs, *seeds), tuple(gradients(graph.outputs, seeds, by)))
    found = inner(computed(again, [*at, *point.fixed, *by_weight]), along)
    if point.op.name() in UNDEFINED and math.isnan(found):
        return False
    moved.check(found)
    return True


SAMPLES = by_op()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("order", [once, twice])
@pytest.mark.parametrize("name", sorted(differentiable()))
def test_derivative_is_the_difference(name: str, order: Callable[[Point], bool]) -> None:
    torch.manual_seed(1)
    count = 0
    for sample, scaled in [(x, by) for by in (1.0, 0.3) for x in SAMPLES[name]]:
        point = usable(sample, scaled)
        if point is None:
            continue
        try:
            count += order(point)
        except Exception as error:
            error.add_note(f"{sample.op} {sample.label}")
            raise
        if count == COUNT:
            break
    assert count, "no sample at which there is a derivative"


def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Op.registry["tanh"]
    rule = kind.vjp
    monkeypatch.setattr(kind, "vjp", lambda self, s, g, *xs: rule(self, s, s.scaled(g, 1.001), *xs))
    with pytest.raises(AssertionError):
        test_derivative_is_the_difference("tanh", once)
