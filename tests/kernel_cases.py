"""What a generated kernel must get right on any target: groups, and tensors to run them on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

from lazytorch.errors import DTypeError
from lazytorch.ir import Builder, Graph, Node, Op, input
from lazytorch.ops.activation import Gelu, Relu, Silu
from lazytorch.ops.base import Pointwise
from lazytorch.ops.compare import Eq, Gt, LogicalNot, MaskedFill, Where
from lazytorch.ops.elementary import Exp, Sigmoid
from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import (
    Add,
    Addcdiv,
    Addcmul,
    AddScaled,
    Cast,
    Clamp,
    ClampMax,
    ClampMin,
    Div,
    FloorDivide,
    Fmod,
    Maximum,
    Mul,
    Pow,
    Remainder,
    Sub,
)
from lazytorch.types import Number, TensorType

Tensors = tuple[torch.Tensor, ...]
Body = Callable[..., Node | tuple[Node, ...]]
"""A function of the inputs' nodes."""

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
DTYPES = (*FLOATS, *INTEGERS, torch.bool)
HALVES = (torch.bfloat16, torch.float16)

b = Builder()


@dataclass(frozen=True)
class Case:
    """A group, as a function of its inputs' nodes, and the tensors to run it on."""

    label: str
    body: Body
    tensors: Callable[[], Tensors]

    def op(self, tensors: Tensors) -> Fused:
        inputs = tuple(input(f"x{i}", type_of(x)) for i, x in enumerate(tensors))
        outputs = self.body(*inputs)
        return Fused(Graph(inputs, outputs if isinstance(outputs, tuple) else (outputs,)))


def type_of(x: torch.Tensor) -> TensorType:
    return TensorType(tuple(x.shape), x.dtype, x.device, tuple(x.stride()))


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) > 0.5
    if not dtype.is_floating_point:
        low = 0 if dtype is torch.uint8 else -9
        return torch.randint(low, 10, shape, generator=generator, dtype=dtype)
    return (torch.randn(shape, generator=generator) * 2).to(dtype)


def whole(*shape: int) -> torch.Tensor:
    """Floats without a fraction: sums and products of them are exact."""
    return random(*shape, dtype=torch.int32).float()


# ---- layouts: one group, every way of walking the operands ------------------------------------


def mixed(x: Node, y: Node) -> Node:
    """Not symmetric, so that swapped operands show; exact, as the operands are whole numbers."""
    return b(Relu(), b(Add(), b(Mul(), x, 3.0), y))


channels_last = partial(torch.Tensor.contiguous, memory_format=torch.channels_last)


LAYOUTS: dict[str, Callable[[], Tensors]] = {
    **{
        f"flat {n}": lambda n=n: (whole(n), whole(n).flip(0))
        for n in (0, 1, 2, 7, 17, 127, 1009, 1_000_003)
    },
    "0-d": lambda: (whole(), whole() + 1),
    "0-d and flat": lambda: (whole(), whole(1001)),
    "flat and 0-d": lambda: (whole(1001), whole()),
    "one element of many dims": lambda: (whole(1, 1, 1), whole(1)),
    "no elements": lambda: (whole(5, 0, 3), whole(3)),
    "row": lambda: (whole(37, 129), whole(129)),
    "column": lambda: (whole(37, 129), whole(37, 1)),
    "outer": lambda: (whole(41, 1), whole(1, 53)),
    "short row": lambda: (whole(1013, 3), whole(3)),
    "short column": lambda: (whole(1013, 3), whole(1013, 1)),
    "short row of many": lambda: (whole(200_003, 5), whole(5)),
    "short both ways": lambda: (whole(7, 5), whole(5)),
    "one long row": lambda: (whole(1, 300_007), whole(1, 1)),
    "long rows": lambda: (whole(3, 100_003), whole(100_003)),
    "channel": lambda: (whole(3, 19, 7, 5), whole(19, 1, 1)),
    "channel of single pixels": lambda: (whole(9, 33, 1, 1), whole(33, 1, 1)),
    "channel of four pixels": lambda: (whole(8, 33, 2, 2), whole(33, 1, 1)),
    "channel of channels_last": lambda: (channels_last(whole(2, 19, 23, 5)), whole(19, 1, 1)),
    "three channels of channels_last": lambda: (
        channels_last(whole(2, 3, 64, 65)),
        whole(3, 1, 1),
    ),
    "channels_last and contiguous": lambda: (channels_last(whole(2, 19, 7, 5)), whole(2, 19, 7, 5)),
    "transposed": lambda: (whole(61, 67).t(), whole(67, 61)),
    "both transposed": lambda: (whole(61, 67).t(), whole(61, 67).t()),
    "permuted": lambda: (whole(5, 6, 7, 8).permute(2, 0, 3, 1), whole(7, 5, 8, 6)),
    "expanded": lambda: (whole(1, 31).expand(29, 31), whole(29, 31)),
    "expanded inside": lambda: (whole(29, 1, 4).expand(29, 31, 4), whole(29, 31, 4)),
    "sliced": lambda: (whole(40, 50)[3:37:2, 5:48], whole(17, 43)),
    "every other": lambda: (whole(2002)[::2], whole(1001)),
    "overlapping": lambda: (whole(100).unfold(0, 10, 3), whole(31, 10)),
    "unaligned": lambda: (whole(1001)[1:], whole(1003)[3:]),
    "many dims": lambda: (
        whole(2, 3, 4, 5, 6)[:, :, ::2, :, ::3],
        whole(2, 1, 2, 1, 2),
    ),
    "prime rows over threads": lambda: (whole(1009, 211), whole(1009, 1)),
}


def layout_cases() -> Iterator[Case]:
    for label, tensors in LAYOUTS.items():
        yield Case(f"layout: {label}", mixed, tensors)


# ---- every elementwise operation at every dtype ------------------------------------------------


def specials(dtype: torch.dtype) -> torch.Tensor:
    """Zeros, infinities, NaN, the smallest, the largest, halves between integers, common values."""
    if dtype is torch.bool:
        return torch.tensor([False, True])
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        edges = [info.min, info.min + 1, info.max - 1, info.max]
        return torch.tensor(
            [*edges, *(i for i in (-7, -2, -1, 0, 1, 2, 3, 5, 8) if i >= info.min)]
        ).to(dtype)
    info = torch.finfo(dtype)
    positive = [0.0, float("inf"), float("nan"), info.max, info.tiny, info.tiny / 4, info.eps]
    positive += [0.1, 0.5, 0.9, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 7.3, 10.0, 19.9, 20.1, 88.0, 1000.3]
    return torch.tensor([*positive, *(-x for x in positive)], dtype=torch.float64).to(dtype)


def grid(*dtypes: torch.dtype) -> Tensors:
    """All combinations of special values, then random ones; a tensor of each dtype."""
    values = [specials(dtype) for dtype in dtypes]
    if len(dtypes) > 2:
        values = [x[:: max(1, len(x) // 9)] for x in values]
    columns = list(zip(*product(*values), strict=True))
    return tuple(
        torch.cat([torch.stack(column), random(1000 + i, dtype=dtype)[:1000]])
        for i, (column, dtype) in enumerate(zip(columns, dtypes, strict=True))
    )


def at_once(label: str, bodies: Sequence[Body], tensors: Callable[[], Tensors]) -> Iterator[Case]:
    """Bodies with one output each on the same tensors, in few groups: compiling takes time."""
    for start in range(0, len(bodies), 6):
        some = bodies[start : start + 6]
        yield Case(
            f"{label} ({start})", lambda *xs, some=some: tuple(f(*xs) for f in some), tensors
        )


def pointwise_ops() -> Iterator[Pointwise]:
    """Every registered elementwise operation, with its fields' defaults; some are apart."""
    for _, kind in sorted(Op.registry.items()):
        ours = issubclass(kind, Pointwise) and kind.__module__.startswith("lazytorch.ops.")
        if ours and kind is not Cast and not kind.__module__.endswith((".philox", ".counting")):
            yield kind()


DIVISIONS = (FloorDivide(), Remainder(), Fmod())
OTHERWISE = {"where": 1, "masked_fill": 2, "add_scaled": 2, "addcmul": 3, "addcdiv": 3, "clamp": 3,
             "pow": 2}  # fmt: skip
"""Operations with operands of their own kind, and how many of those are tensors."""


def op_cases() -> Iterator[Case]:
    """Every operation on tensors of one dtype; the integer divisions are in `refused_cases`."""
    ops = [op for op in pointwise_ops() if op.name() not in OTHERWISE]
    for dtype, arity in product(DTYPES, (1, 2, 3)):
        tensors = grid(*[dtype] * arity)
        bodies = [
            op_body(op)
            for op in ops
            if len(inspect.signature(op.emit).parameters) == arity + 1
            and takes(op, tensors)
            and (op not in DIVISIONS or dtype.is_floating_point)
        ]
        yield from at_once(f"{arity} operands of {dtype}", bodies, lambda t=tensors: t)


def takes(op: Op, tensors: Tensors) -> bool:
    try:
        op.infer(*map(type_of, tensors))
    except DTypeError:
        return False
    return True


def op_body(op: Op, *numbers: Number) -> Body:
    return lambda *xs: b(op, *xs, *numbers)


def other_cases() -> Iterator[Case]:
    """The operations named in `OTHERWISE`."""
    for dtype in DTYPES:
        known = dtype.is_floating_point
        yield Case(f"where: {dtype}", op_body(Where()), lambda d=dtype: grid(torch.bool, d, d))
        yield Case(
            f"masked_fill: {dtype}",
            op_body(MaskedFill(), 2),
            lambda d=dtype: grid(d, torch.bool),
        )
        if dtype is not torch.bool:
            yield Case(f"clamp: {dtype}", op_body(Clamp()), lambda d=dtype: grid(d, d, d))
            yield Case(
                f"pow: {dtype}",
                op_body(Pow()),
                lambda d=dtype: grid(d, d) if d.is_floating_point else integer_powers(d),
            )
            yield Case(
                f"addcmul: {dtype}",
                op_body(Addcmul(), 0.5 if known else 3),
                lambda d=dtype: grid(d, d, d),
            )
        if known:
            yield Case(f"addcdiv: {dtype}", op_body(Addcdiv(), 0.5), lambda d=dtype: grid(d, d, d))
            yield Case(
                f"add_scaled: {dtype}", op_body(AddScaled(), 0.5), lambda d=dtype: grid(d, d)
            )


def integer_powers(dtype: torch.dtype) -> Tensors:
    x, y = grid(dtype, dtype)
    return x, y.remainder(9) - (0 if dtype is torch.uint8 else 2)


def number_cases() -> Iterator[Case]:
    """Operations with a Python number on either side."""
    for dtype in INTEGERS:
        divisors = (3, 1, 7) if dtype is torch.uint8 else (3, -3, 1, -1, 7)
        bodies = [op_body(op, divisor) for op in DIVISIONS for divisor in divisors]
        yield from at_once(f"divisions of {dtype}", bodies, lambda d=dtype: grid(d))
    exponents = (0, 1, 2, 3, 0.5, -0.5, -1, -2, 1.7, -3.0)
    for dtype in FLOATS:
        bodies = [op_body(Pow(), exponent) for exponent in exponents]
        yield from at_once(f"powers of {dtype}", bodies, lambda d=dtype: grid(d))
    for dtype in (torch.float32, torch.bfloat16):
        bodies = [
            op_body(op, number)
            for op in (Add(), Mul(), Div(), ClampMin(), ClampMax(), Gt(), Eq())
            for number in (0, -0.0, 1, True, 0.1, -2.5, 1e-40, math.inf, -math.inf, math.nan)
            if op != Div() or number != 1e-40  # torch's own kernels differ: 1 / 1e-40 is infinite
        ]
        yield from at_once(f"numbers with {dtype}", bodies, lambda d=dtype: grid(d))
    for dtype in (torch.int32, torch.int64):
        bodies = [
            op_body(op, number)
            for op in (Add(), Mul(), Div(), ClampMin(), Gt())
            for number in (0, -1, 7, 2**31 - 1)
        ]
        yield from at_once(f"numbers with {dtype}", bodies, lambda d=dtype: grid(d))
    yield Case("number first", lambda x: b(Sub(), 1, b(Div(), 2.5, x)), lambda: grid(torch.float32))


def cast_cases() -> Iterator[Case]:
    """Every conversion of values for which it is defined: C++ leaves the others open, as torch."""
    for source in DTYPES:
        everywhere = (*FLOATS, torch.bool) if source.is_floating_point else DTYPES
        yield from at_once(
            f"casts of {source}", [op_body(Cast(t)) for t in everywhere], lambda s=source: grid(s)
        )
    for source, (low, high, targets) in product(
        FLOATS,
        (
            (-0.9, 255.9, (torch.uint8,)),
            (-128.9, 127.9, INTEGERS[:4]),
            (-(2.0**31), 2.0**31 - 129, INTEGERS[:2]),
            (-(2.0**62), 2.0**62, INTEGERS[:1]),
        ),
    ):
        yield from at_once(
            f"casts of {source} from {low} to {high}",
            [op_body(Cast(t)) for t in targets],
            lambda s=source, low=low, high=high: within(s, low, high),
        )
    for source, half in product((torch.float32, torch.float64), HALVES):
        yield Case(
            f"cast rounds: {source} through {half}",
            lambda x, h=half: b(Cast(torch.float32), b(Cast(h), x)),
            lambda s=source: grid(s),
        )


def within(dtype: torch.dtype, low: float, high: float) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    random = torch.rand(2000, generator=generator, dtype=torch.float64) * (high - low) + low
    x = torch.cat([grid(dtype)[0], random.to(dtype)])
    return (x[(x.double() >= low) & (x.double() <= high)],)


# ---- groups ------------------------------------------------------------------------------------


def several(x: Node, y: Node) -> tuple[Node, ...]:
    """Several outputs, one of which feeds another, one of another dtype, one that is an input."""
    total = b(Add(), x, y)
    gate = b(Sigmoid(), total)
    return total, b(Mul(), gate, x), b(Gt(), total, 0.0), x


def promoted(x: Node, y: Node, z: Node) -> Node:
    """Three dtypes and a comparison in one group."""
    return b(Where(), b(Gt(), x, y), b(Mul(), x, z), b(Maximum(), y, 1))


def group_cases() -> Iterator[Case]:
    for dtype in FLOATS:
        yield Case(
            f"several outputs: {dtype}",
            several,
            lambda d=dtype: (random(33, 65, dtype=d), random(33, 1, dtype=d)),
        )
        yield Case(
            f"bias gelu: {dtype}",
            lambda x, y: b(Gelu(), b(Add(), x, y)),
            lambda d=dtype: (random(65, 256, dtype=d), random(256, dtype=d)),
        )
        yield Case(
            f"silu mul: {dtype}",
            lambda x, y: b(Mul(), b(Silu(), x), y),
            lambda d=dtype: (random(65, 256, dtype=d), random(65, 256, dtype=d)),
        )
    yield Case(
        "promoted",
        promoted,
        lambda: (
            random(40, 30),
            random(30, dtype=torch.int64),
            random(40, 30, dtype=torch.bfloat16),
        ),
    )
    yield Case(
        "16-bit with a 0-d float32",
        lambda x, y: b(Mul(), b(Exp(), x), y),
        lambda: (random(501, dtype=torch.bfloat16), random()),
    )
    yield Case(
        "bool arithmetic",
        lambda x, y: b(Add(), b(Mul(), b(LogicalNot(), x), y), b(Mul(), y, 2)),
        lambda: (random(77, dtype=torch.bool), random(77, dtype=torch.bool)),
    )
    yield Case(
        "outputs in two orders",
        lambda x, y: (b(Exp(), x), b(Exp(), y), b(Add(), x, y)),
        lambda: (random(31, 37).t(), random(37, 31)),
    )


def all_cases() -> list[Case]:
    """Every case; labels are unique."""
    return [
        *layout_cases(),
        *op_cases(),
        *other_cases(),
        *number_cases(),
        *cast_cases(),
        *group_cases(),
    ]


def refused_cases() -> Iterator[Case]:
    """Groups that no C++ kernel may take, because eager raises where a kernel could not."""
    for op, dtype in product(DIVISIONS, INTEGERS):
        yield Case(f"{op.name()}: {dtype}", op_body(op), lambda d=dtype: grid(d, d))
    yield Case("remainder by 0", op_body(Remainder(), 0), lambda: (random(9, dtype=torch.int32),))
