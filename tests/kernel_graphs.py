"""Random graphs of all that generated kernels compute: rows, joins, windows, copies, arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from random_graphs import Grower, shape_of

from lazytorch.errors import LazyTorchError
from lazytorch.ir import Builder, Const, Graph, Node, Op, input
from lazytorch.ops import pointwise, reduce
from lazytorch.ops.copies import Cat, Clone, Flip, Pad
from lazytorch.ops.layout import Expand, Permute, Select, Slice
from lazytorch.ops.norm import LayerNorm, RmsNorm
from lazytorch.ops.pool import AvgPool, MaxPool, MaxPoolOffsets
from lazytorch.types import TensorType, strides_in_order, tensor_type
from lazytorch.verify import verify

DTYPES = (torch.float32,) * 4 + (torch.float64, torch.float16, torch.bfloat16)
LAST = (1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 40)
EPS = 0.1  # large, so that rows of equal numbers do not make rounding large


class KernelGrower(Grower):
    """Grows graphs typed for any device; arguments are on the CPU."""

    def __init__(self, seed: int, device: str) -> None:
        super().__init__(seed, "cpu")
        self.typed_for = torch.device(device)
        r = self.chosen
        outer = [r.choice((1, 2, 3, 4, 6)) for _ in range(r.choice((0, 1, 1, 2, 2, 3)))]
        if r.random() < 0.03:
            outer = [0, *outer[1:]]
        self.base = (*outer, r.choice(LAST))
        if r.random() < 0.3:
            self.base = (*self.base[:-1], r.choice(LAST), r.choice((1, 2, 5)))

    def shape(self) -> tuple[int, ...]:
        """The base shape, or one that broadcasts with it."""
        if self.chosen.random() < 0.6:
            return self.base
        kept = [size if self.chosen.random() < 0.7 else 1 for size in self.base]
        return tuple(kept[self.chosen.randrange(len(kept) + 1) :])

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Random values: packed, transposed, with holes, channels last, or expanded."""
        if self.chosen.random() < 0.1:
            small = [1 if self.chosen.random() < 0.5 else size for size in shape]
            return super().tensor(tuple(small), dtype).expand(shape)
        x = super().tensor(shape, dtype)
        if len(shape) == 4 and self.chosen.random() < 0.3:
            x = x.contiguous(memory_format=torch.channels_last)
        return x

    def add_inputs(self) -> None:
        """Tensors, most of one dtype, and sometimes a number."""
        r = self.chosen
        common = r.choice(DTYPES)
        for i in range(r.randrange(1, 5)):
            dtype = common
            if i and r.random() < 0.25:
                dtype = r.choice((torch.int64, torch.int32, torch.uint8, torch.bool, *DTYPES))
            value = self.tensor(self.shape(), dtype)
            typed = tensor_type(value.shape, dtype, self.typed_for, tuple(value.stride()))
            self.add_input(f"x{i}", typed, value, "argument")

    def grow(self) -> None:
        """One more value."""
        kind = self.chosen.random()
        if kind < 0.4:
            super().grow()
        elif kind < 0.6:
            self.values.append(self.along_rows(self.pick_tensor()))
        elif kind < 0.68:
            self.values.append(self.reduced(self.pick_tensor()))
        elif kind < 0.78:
            self.values.append(self.joined(self.pick_tensor()))
        elif kind < 0.86:
            self.values.append(self.moved(self.pick_tensor()))
        elif kind < 0.92:
            self.values.append(self.windowed(self.pick_tensor()))
        else:
            self.values.append(self.viewed(self.pick_tensor()))

    def along_rows(self, x: Node) -> Node:
        """A row operation, with weights where it has some."""
        r, shape = self.chosen, shape_of(x)
        size, dtype = shape[-1] if shape else 1, dtype_of(x)
        last = len(shape) - 1
        if not shape:
            return self.b(reduce.Softmax(0), x)
        if not dtype.is_floating_point:
            x, dtype = self.b(pointwise.Cast(torch.float32), x), torch.float32
        weights = [
            w
            for w in self.inputs
            if isinstance(w.type, TensorType) and w.type.shape == (size,) and w.type.dtype is dtype
        ][:1]
        ops: list[tuple[Op, list[Node]]] = [
            (reduce.Softmax(r.choice((-1, last))), []),
            (reduce.LogSoftmax(-1), []),
            (LayerNorm((size,), EPS, False, False), []),
            (LayerNorm((size,), EPS, bool(weights), False), weights),
            (RmsNorm((size,), EPS), weights),
            (r.choice((reduce.Sum, reduce.Mean, reduce.Amax, reduce.Amin))((last,), True), []),
            (reduce.LogSumExp((last,), r.random() < 0.7), []),
            (reduce.VectorNorm((last,), True), []),
            (reduce.Softmax(-1, r.choice((torch.float32, torch.float64))), []),
        ]
        op, rest = r.choice(ops)
        return self.b(op, x, *rest)

    def reduced(self, x: Node) -> Node:
        """A reduction of any dimensions."""
        r, rank = self.chosen, len(shape_of(x))
        dims = tuple(d for d in range(rank) if r.random() < 0.5) or tuple(range(rank))
        kind = r.choice((reduce.Mean, reduce.Amax, reduce.Amin, reduce.Sum, reduce.LogSumExp))
        if kind is reduce.Sum and r.random() < 0.2:
            return self.b(reduce.Sum(dims, r.random() < 0.5, torch.float64), x)
        return self.b(kind(dims, r.random() < 0.5), x)

    def joined(self, x: Node) -> Node:
        """A join along some dimension."""
        r, rank = self.chosen, len(shape_of(x))
        dim = r.randrange(rank) if rank else 0
        fits = [
            y
            for y in (*self.values, *self.conditions)
            if len(shape_of(y)) == rank
            and all(d == dim or a == b
                    for d, (a, b) in enumerate(zip(shape_of(x), shape_of(y), strict=True)))
        ]  # fmt: skip
        others = [r.choice(fits) for _ in range(r.randrange(0, 4))]
        parts = [x, *others]
        r.shuffle(parts)
        return self.b(Cat(dim - rank if r.random() < 0.2 else dim), *parts)

    def moved(self, x: Node) -> Node:
        """Padding, cutting, reversal or a copy in another order."""
        r, shape = self.chosen, shape_of(x)
        kind = r.randrange(3)
        if kind == 0:
            amounts = [r.choice((-1, 0, 0, 1, 2, 5)) for _ in range(2 * r.randint(0, len(shape)))]
            return self.b(Pad(tuple(amounts), r.choice((0, 0.5, -1))), x)
        if kind == 1:
            return self.b(Flip(tuple(d for d in range(len(shape)) if r.random() < 0.5)), x)
        order = list(range(len(shape)))
        r.shuffle(order)
        return self.b(Clone(strides_in_order(shape, tuple(order))), x)

    def windowed(self, x: Node) -> Node:
        """A pool over the last dimensions."""
        r, rank = self.chosen, len(shape_of(x))
        count = r.choice([n for n in (1, 2, 3) if rank - n in (1, 2)] or [1])
        kernel = tuple(r.randint(1, 3) for _ in range(count))
        stride = tuple(r.randint(1, 3) for _ in range(count))
        padding = tuple(r.randint(0, k // 2) for k in kernel)
        ceil = r.random() < 0.3
        if r.random() < 0.5:
            dilation = tuple(r.randint(1, 2) for _ in range(count))
            kind = MaxPoolOffsets if count == 2 and r.random() < 0.4 else MaxPool
            return self.b(kind(kernel, stride, padding, dilation, ceil), x)
        divisor = 3 if count > 1 and r.random() < 0.2 else None
        return self.b(AvgPool(kernel, stride, padding, ceil, r.random() < 0.5, divisor), x)

    def viewed(self, x: Node) -> Node:
        """A window on x."""
        r, shape = self.chosen, shape_of(x)
        rank = len(shape)
        if rank and r.random() < 0.4:
            dim = r.randrange(rank)
            if shape[dim] == 1:
                wide = r.choice((2, 3, 9))
                return self.b(Expand((*shape[:dim], wide, *shape[dim + 1 :])), x)
            if r.random() < 0.3:
                return self.b(Select(dim, r.randrange(max(shape[dim], 1))), x)
            start = r.randrange(max(shape[dim], 1))
            return self.b(Slice(dim, start, shape[dim], r.choice((1, 2))), x)
        if rank > 1 and r.random() < 0.3:
            return self.b(Permute((*range(rank - 2), rank - 1, rank - 2)), x)
        return super().viewed(x)


def dtype_of(x: Node) -> torch.dtype:
    """A tensor's dtype."""
    assert isinstance(x.type, TensorType)
    return x.type.dtype


def kernel_graph(seed: int, device: str = "cpu") -> tuple[Graph, tuple[Any, ...]]:
    """A verified graph typed for a device, and arguments on the CPU; the same for the same seed."""
    grower = KernelGrower(seed, device)
    grower.add_inputs()
    for _ in range(grower.chosen.randrange(2, 14)):
        try:
            grower.grow()
        except (LazyTorchError, IndexError):
            continue  # shapes or dtypes that do not fit: the next draw is another one
        if numel(grower.values[-1]) > 20_000:
            grower.values.pop()
    made = [x for x in grower.values if x.inputs and dense(x) and not x.op.view]
    made = made or [
        grower.b(pointwise.Abs(), grower.b(pointwise.Cast(torch.float32), grower.inputs[0]))
    ]
    outputs = [made[-1], *grower.chosen.sample(made, min(len(made), 2))]
    return verify(Graph(tuple(grower.inputs), tuple(dict.fromkeys(outputs)))), tuple(grower.args)


def numel(x: Node) -> int:
    """How many elements a value has."""
    return x.type.numel if isinstance(x.type, TensorType) else 1


def dense(x: Node) -> bool:
    """Whether a value is a tensor without holes."""
    return isinstance(x.type, TensorType) and x.type.is_dense


def widened(graph: Graph) -> Graph:
    """The graph on the CPU in float64, conversions between floating dtypes left out."""
    b = Builder()
    new: dict[Node, Node] = {}
    for x in graph.inputs:
        typed = x.type
        if isinstance(typed, TensorType):
            dtype = torch.float64 if typed.dtype.is_floating_point else typed.dtype
            typed = TensorType(typed.shape, dtype, torch.device("cpu"), typed.strides)
        new[x] = input("x", typed)
    for node in graph.nodes:
        if node in new:
            continue
        op = node.op
        if getattr(op, "dtype", None) is not None and op.dtype.is_floating_point:  # type: ignore[attr-defined]
            op = op.with_attributes(dtype=torch.float64)
        new[node] = node if isinstance(op, Const) else b(op, *[new[x] for x in node.inputs])
    return Graph(tuple(new[x] for x in graph.inputs), tuple(new[x] for x in graph.outputs))
