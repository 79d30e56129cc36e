"""Masks of attention: what is known of their values, and the numbers that torch's kernels add.

A row that is masked with -inf everywhere is NaN in a written-out softmax, and 0 in torch's kernels.
So where a mask may hold such a row, the numbers of that row are NaN: the kernels then give NaN too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Literal as OneOf

import torch

from lazytorch.ir import Builder, Const, Node, Op
from lazytorch.ops.base import Pointwise
from lazytorch.ops.compare import Eq, MaskedFill, Where
from lazytorch.ops.create import Arange, Eye, Full, Linspace, Literal, Tril, Triu
from lazytorch.ops.layout import Clone, Detach, Expand, Permute, Reshape, Select, Slice
from lazytorch.ops.pointwise import Add, Cast, ClampMin
from lazytorch.ops.reduce import Amax
from lazytorch.types import ScalarType, Shape, TensorType

FAR = -1e30
"""What hides a key and is still a number, in every dtype but float16.

A score vanishes beside it, so that a row of it alone comes out even, as in eager; times log2(e),
which some kernels multiply with, it is finite.
"""

HIDES = -1e9
"""From here down a number that replaces scores is taken to hide them: their weight is 0."""

LOOKED_AT = 1 << 26
"""Bytes of constants that are computed in order to look at one mask, at most."""

Pattern = OneOf["causal", "nothing"]
"""What a mask may hide: the keys behind each query, as many as these are, or none."""

VIEWS = Clone | Detach | Expand | Permute | Reshape | Select | Slice


def number(node: Node) -> float | None:
    """The one real number that a node is, or that fills it."""
    value = node.op.value if isinstance(node.op, Const | Full) else None
    return float(value) if isinstance(value, int | float) else None


def constant_value(node: Node) -> torch.Tensor | None:
    """The values, on the CPU, of a tensor that depends on nothing but constants; None if it does,
    or on a constant in the memory of a device that is not here."""
    known: dict[Node, Any] = {}
    left = LOOKED_AT
    stack = [node]
    while stack:
        x = stack[-1]
        if x in known:
            stack.pop()
            continue
        made = isinstance(x.op, Const | Full | Literal | Arange | Eye | Linspace | Tril | Triu)
        if not made and not isinstance(x.op, VIEWS | Pointwise):
            return None
        missing = [y for y in x.inputs if y not in known]
        if missing:
            stack += missing
            continue
        if isinstance(x.type, TensorType):
            left -= x.type.nbytes
            if left < 0 or (isinstance(x.op, Literal) and not x.op.data.readable):
                return None
        elif not isinstance(x.type, ScalarType):
            return None
        known[x] = on_cpu(x.op, [known[y] for y in x.inputs])
    value = known[node]
    return value if isinstance(value, torch.Tensor) else None


def on_cpu(op: Op, operands: Sequence[Any]) -> Any:
    """What an operation gives on the CPU, so that a plan for a GPU needs none."""
    if isinstance(op, Full | Arange | Eye | Linspace):
        op = op.with_attributes(device=torch.device("cpu"))
    value = op.run(*operands)
    return value.cpu() if isinstance(value, torch.Tensor) else value


def above_infinity(node: Node) -> bool:
    """Whether no element can be -inf, whatever the inputs hold."""
    if number(node) is not None:
        return number(node) != -math.inf
    typed = node.type
    if isinstance(typed, TensorType) and not typed.dtype.is_floating_point:
        return not typed.dtype.is_complex
    match node.op:
        case Where():
            return all(above_infinity(x) for x in node.inputs[1:])
        case MaskedFill():
            return above_infinity(node.inputs[0]) and above_infinity(node.inputs[2])
        case Cast(dtype):
            wide = dtype in (torch.float32, torch.float64)  # a narrower one may overflow
            (x,) = node.inputs
            same = isinstance(x.type, TensorType) and x.type.dtype.itemsize <= dtype.itemsize
            return wide and same and above_infinity(x)
        case Clone() | Detach() | Expand() | Permute() | Reshape() | Select() | Slice():
            return above_infinity(node.inputs[0])
        case _:
            return False


def pattern(mask: Node) -> Pattern | None:
    """What a mask hides, if that is known when the graph is compiled."""
    value = constant_value(mask)
    if value is None:
        return None
    if value.dtype is torch.bool:
        value = torch.zeros(value.shape, device=value.device).masked_fill(~value, -torch.inf)
    if bool((value == 0).all()):
        return "nothing"
    value = value.reshape(-1, *value.shape[-2:])
    if bool((value != value[:1]).any()):
        return None
    value = value[0]
    return "causal" if is_causal(value) else None


def is_causal(value: torch.Tensor) -> bool:
    """Whether numbers to add hide exactly the keys behind each query, and change nothing else."""
    rows, columns = value.shape[-2:]
    if rows != columns or value.numel() != rows * columns:
        return False
    behind = torch.ones(rows, columns, dtype=torch.bool, device=value.device).triu(1)
    square = value.reshape(rows, columns)
    return bool((square[~behind] == 0).all() and (square[behind] <= HIDES).all())


def regrouped(mask: Shape, scores: Shape, batch: tuple[int, int]) -> Shape | None:
    """The 4-d shape of a mask on scores whose leading dimensions are put together to `batch`.

    None where a dimension of the result would show some of its elements again.
    """
    padded = (1,) * (len(scores) - len(mask)) + mask
    pairs = list(zip(padded[:-2], scores[:-2], strict=True))[::-1]
    found: list[int] = []
    for size in batch:
        mine: list[tuple[int, int]] = []
        while pairs and (math.prod(full for _, full in mine) < size or pairs[-1][1] == 1):
            mine.append(pairs.pop())
        if math.prod(full for _, full in mine) != size:
            return None
        if any(n != full for n, full in mine) and any(n != 1 for n, _ in mine):
            return None
        found.append(math.prod(n for n, _ in mine))
    return None if pairs else (*found, *padded[-2:])


@dataclass(frozen=True, eq=False)
class Mask:
    """One step of masking: numbers that are added, or (`below` given) a condition that hides.

    `shape` is what the scores look like where it happens.
    """

    node: Node
    shape: Shape
    below: float | None = None
    hides: bool = True
    """Whether the condition hides where it holds, or where it does not."""

    def numbers(self, b: Builder, mask: Node, shape: Shape, before: Node | None) -> Node:
        """What to add to the scores, on top of the numbers from `before`; float32 or its own."""
        assert isinstance(mask.type, TensorType)
        mask = mask if mask.type.shape == shape else b(Reshape(shape), mask)
        if self.below is None:
            return mask if before is None else b(Add(), before, mask)
        below = -math.inf if self.below == -math.inf else FAR
        others = 0.0 if before is None else before
        return b(Where(), mask, *((below, others) if self.hides else (others, below)))


def safe(b: Builder, mask: Node, dtype: torch.dtype) -> Node | None:
    """Numbers to add as the kernels take them; None where these cannot do what eager does."""
    assert isinstance(mask.type, TensorType)
    value, chosen = constant_value(mask), choices(mask)
    least = torch.finfo(dtype).min
    dead, far = not above_infinity(mask), dtype is not torch.float16
    if value is not None:
        rounded = value.to(dtype)
        if bool((rounded.amax(-1) == -math.inf).any()):
            return None
        if not bool(((rounded == value) | (value <= HIDES)).all()):
            return None
        dead, far = False, bool((value.isfinite() & (value < FAR)).any())
    elif chosen is not None:
        finite = [x for x in chosen if x != -math.inf]
        if any(x != 0 and x > HIDES for x in finite) and mask.type.dtype is not dtype:
            return None
        if dtype is torch.float16 and any(x < least for x in finite):
            return None  # a row of these alone is even in eager; float16 has no such number
        far = any(x < FAR for x in finite)
    elif mask.type.dtype is not dtype:
        return None  # rounded to fewer digits
    guarded = mask
    if far:
        # The least of float32 overflows in kernels that multiply scores with log2(e).
        guarded = b(ClampMin(), mask, FAR)
    if dead:
        largest = b(Amax((mask.type.rank - 1,), True), mask)
        guarded = b(Where(), b(Eq(), largest, -math.inf), math.nan, guarded)
    return guarded if mask.type.dtype is dtype else b(Cast(dtype), guarded)


def choices(mask: Node) -> set[float] | None:
    """The few numbers that the elements of a mask are; None if there may be others."""
    match mask.op:
        case Where() | MaskedFill():
            places = (1, 2) if isinstance(mask.op, Where) else (0, 2)
            found = [choices(mask.inputs[i]) for i in places]
            one, other = found
            return None if one is None or other is None else one | other
        case Clone() | Detach() | Expand() | Permute() | Reshape() | Select() | Slice():
            return choices(mask.inputs[0])
        case _:
            one = number(mask)
            return None if one is None else {one}
