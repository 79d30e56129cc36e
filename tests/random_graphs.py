"""Random graphs with arguments, for properties that every pass and every target must keep."""

from __future__ import annotations

import random
from typing import Any

import torch

from lazytorch.errors import LazyTorchError
from lazytorch.ir import Builder, Graph, Node, Op, input
from lazytorch.ops import activation, compare, elementary, layout, pointwise, reduce
from lazytorch.types import Number, ScalarType, TensorType, tensor_type
from lazytorch.verify import verify

# Smooth and of bounded slope, so that rounding stays rounding however deep the graph is.
UNARY: tuple[Op, ...] = (
    pointwise.Neg(),
    pointwise.Abs(),
    elementary.Tanh(),
    elementary.Sigmoid(),
    elementary.Sin(),
    elementary.Cos(),
    elementary.Erf(),
    elementary.Atan(),
    activation.Relu(),
    activation.Gelu(),
    activation.Gelu("tanh"),
    activation.Silu(),
    activation.Hardtanh(-2.0, 2.5),
    activation.LeakyRelu(0.2),
    activation.Elu(),
    activation.Softplus(),
    activation.Hardswish(),
)
BINARY: tuple[Op, ...] = (
    pointwise.Add(),
    pointwise.Sub(),
    pointwise.Mul(),
    pointwise.Maximum(),
    pointwise.Minimum(),
)
# Steps: applied to inputs only, where rounding cannot move a value across one.
STEPS: tuple[Op, ...] = (
    pointwise.Floor(),
    pointwise.Round(),
    pointwise.Sign(),
    compare.Isnan(),
    compare.LogicalNot(),
)
COMPARISONS: tuple[Op, ...] = (
    compare.Eq(),
    compare.Ne(),
    compare.Lt(),
    compare.Le(),
    compare.Gt(),
    compare.Ge(),
)
NUMBERS: tuple[Number, ...] = (0, 1, 2, -1, 0.0, -0.0, 1.0, 0.5, -1.5, 3.0, True)


class Grower:
    """A graph while it grows: every value, and those that are inputs or made from them exactly."""

    def __init__(self, seed: int, device: str) -> None:
        self.chosen = random.Random(seed)
        self.draw = torch.Generator().manual_seed(seed)
        self.device = device
        self.b = Builder()
        self.inputs: list[Node] = []
        self.args: list[Any] = []
        self.values: list[Node] = []
        self.exact: list[Node] = []
        self.conditions: list[Node] = []
        self.base = tuple(self.chosen.choice((1, 2, 3, 5, 8)) for _ in range(3))

    def shape(self) -> tuple[int, ...]:
        """The base shape, or one that broadcasts with it."""
        if self.chosen.random() < 0.5:
            return self.base
        kept = [size if self.chosen.random() < 0.7 else 1 for size in self.base]
        return tuple(kept[self.chosen.randrange(4) :])

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Random values in one of several layouts."""
        order = list(range(len(shape)))
        if self.chosen.random() < 0.3:
            self.chosen.shuffle(order)
        wide = [shape[d] for d in order]
        if self.chosen.random() < 0.15:
            wide = [size + 1 for size in wide]
        if dtype.is_floating_point:
            drawn = torch.randn(wide, generator=self.draw).to(dtype)
        else:
            drawn = torch.randint(0, 3, wide, generator=self.draw).to(dtype)
        turned = drawn.permute([order.index(d) for d in range(len(shape))])
        return turned[tuple(slice(size) for size in shape)].to(self.device)

    def add_inputs(self) -> None:
        """Tensors of several dtypes, sometimes a number."""
        common = self.chosen.choice([torch.float32] * 5 + [torch.float64, torch.bfloat16])
        for i in range(self.chosen.randrange(2, 5)):
            dtype = common
            if i and self.chosen.random() < 0.25:
                dtype = self.chosen.choice((torch.int64, torch.int32, torch.bool, torch.float64))
            value = self.tensor(self.shape(), dtype)
            typed = tensor_type(value.shape, dtype, value.device, tuple(value.stride()))
            self.add_input(
                f"x{i}", typed, value, "state" if self.chosen.random() < 0.2 else "argument"
            )
        if self.chosen.random() < 0.3:
            self.add_input("s", ScalarType(float), 0.75, "argument")

    def add_input(self, label: str, typed: Any, value: Any, role: Any) -> None:
        """One input with its argument."""
        node = input(label, typed, role)
        self.inputs.append(node)
        self.args.append(value)
        self.exact.append(node)
        if isinstance(typed, TensorType) and typed.dtype is torch.bool:
            self.conditions.append(node)
        else:
            self.values.append(node)

    def pick(self) -> Node:
        """A value, the younger the likelier."""
        return self.values[-1 - int(len(self.values) * self.chosen.random() ** 1.5)]

    def pick_tensor(self) -> Node:
        """A value that is a tensor; a graph always has one."""
        tensors = [x for x in self.values if isinstance(x.type, TensorType)]
        return tensors[-1 - int(len(tensors) * self.chosen.random() ** 1.5)]

    def operand(self) -> Node | Number:
        """A value or a number."""
        return self.chosen.choice(NUMBERS) if self.chosen.random() < 0.25 else self.pick()

    def grow(self) -> None:
        """One more value; LazyTorchError when what was drawn does not fit together."""
        kind = self.chosen.random()
        if kind < 0.35:
            self.values.append(self.b(self.chosen.choice(UNARY), self.pick_tensor()))
        elif kind < 0.65:
            first = self.pick()
            self.values.append(self.b(self.chosen.choice(BINARY), first, self.operand()))
        elif kind < 0.72:
            self.condition()
        elif kind < 0.78 and self.conditions:
            condition = self.chosen.choice(self.conditions)
            self.values.append(self.b(compare.Where(), condition, self.pick(), self.operand()))
        elif kind < 0.83:
            self.cast()
        elif kind < 0.9:
            self.values.append(self.viewed(self.pick_tensor()))
        elif kind < 0.95:
            self.values.append(self.reduced(self.pick_tensor()))
        else:
            again = self.chosen.choice([x for x in self.values if x.inputs] or self.values)
            self.values.append(self.b(again.op, *again.inputs) if again.inputs else again)

    def condition(self) -> None:
        """A boolean, or a step, of exact values."""
        x = self.chosen.choice(self.exact)
        if self.chosen.random() < 0.7:
            y = self.chosen.choice((*self.exact, *NUMBERS))
            made = self.b(self.chosen.choice(COMPARISONS), x, y)
        else:
            made = self.b(self.chosen.choice(STEPS), x)
        if isinstance(made.type, TensorType):
            self.exact.append(made)
            bools = made.type.dtype is torch.bool
            (self.conditions if bools else self.values).append(made)

    def cast(self) -> None:
        """A conversion between floating dtypes, or from integers and booleans to one."""
        x = self.chosen.choice((*self.conditions, self.pick()))
        dtype = self.chosen.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16))
        if isinstance(x.type, TensorType) and x.type.dtype is not dtype:
            self.values.append(self.b(pointwise.Cast(dtype), x))

    def viewed(self, x: Node) -> Node:
        """A window on x."""
        shape = shape_of(x)
        rank = len(shape)
        kind = self.chosen.randrange(5)
        dim = self.chosen.randrange(rank) if rank else 0
        if kind == 0:
            perm = list(range(rank))
            self.chosen.shuffle(perm)
            return self.b(layout.Permute(tuple(perm)), x)
        if kind == 1:
            return self.b(layout.Reshape((*shape[:dim], 1, *shape[dim:])), x)
        if kind == 2 and rank > 1:
            merged = shape[0] * shape[1]
            return self.b(layout.Reshape((merged, *shape[2:])), x)
        if kind == 3 and rank:
            return self.b(layout.Slice(dim, 0, max(shape[dim] // 2, 1)), x)
        return self.b(layout.Expand((2, *shape)), x) if rank < 3 else x

    def reduced(self, x: Node) -> Node:
        """A mean or an extreme of some dimensions: what stays near the operand's magnitude."""
        kind = self.chosen.choice((reduce.Mean, reduce.Amax, reduce.Amin, reduce.Sum))
        rank = len(shape_of(x))
        dims = tuple(d for d in range(rank) if self.chosen.random() < 0.5)
        return self.b(kind(dims or tuple(range(rank)), self.chosen.random() < 0.7), x)


def shape_of(x: Node) -> tuple[int, ...]:
    """The sizes of a tensor; none of a number."""
    return x.type.shape if isinstance(x.type, TensorType) else ()


def random_graph(seed: int, device: str = "cpu") -> tuple[Graph, tuple[Any, ...]]:
    """A verified graph and arguments for it: the same ones for the same seed.

    Elementwise operations, numbers, casts, comparisons, views, reductions, several outputs,
    repeated expressions, inputs that nothing reads.
    """
    grower = Grower(seed, device)
    grower.add_inputs()
    wanted = grower.chosen.randrange(3, 30)
    for _ in range(wanted):
        try:
            grower.grow()
        except LazyTorchError:
            continue  # shapes or dtypes that do not fit: the next draw is another one
    # Eager's results that overlap themselves are aliases, which need a plan of their own.
    tensors = [
        x for x in grower.values if isinstance(x.type, TensorType) and x.inputs and x.type.is_dense
    ]
    tensors = tensors or [grower.b(pointwise.Neg(), grower.inputs[0])]
    outputs = [tensors[-1], *grower.chosen.sample(tensors, min(len(tensors), 2))]
    outputs += grower.conditions[:1] if grower.chosen.random() < 0.2 else []
    return verify(Graph(tuple(grower.inputs), tuple(outputs))), tuple(grower.args)
