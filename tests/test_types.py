"""Types against torch itself: names, promotion, broadcasting, and the strides of fresh results."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lazytorch.ops.activation import Gelu, Hardtanh, LogSigmoid, Relu
from lazytorch.ops.aten import value_type
from lazytorch.ops.base import Pointwise
from lazytorch.ops.compare import Eq, Isinf, Isnan, LogicalAnd, MaskedFill, Where
from lazytorch.ops.elementary import Exp
from lazytorch.ops.pointwise import Add, Addcmul, Cast, Clamp, ClampMin, Lerp, Maximum, Mul, Pow
from lazytorch.types import (
    ScalarType,
    TensorType,
    broadcast,
    dtype_name,
    dtype_named,
    promote,
    tensor_type,
)

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
)
NUMBERS = (True, 2, 2.5, 1j)


def operands() -> list[Any]:
    """A 0-d tensor and a vector of every dtype, and a number of every kind."""
    tensors = [torch.ones(shape, dtype=dtype) for dtype in DTYPES for shape in ((), (2,))]
    return [*tensors, *NUMBERS]


def test_every_dtype_has_a_name_that_reads_back() -> None:
    for dtype in {x for x in vars(torch).values() if isinstance(x, torch.dtype)}:
        assert dtype_named(dtype_name(dtype)) is dtype
    with pytest.raises(KeyError):
        dtype_named("f33")


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.float16])
def test_promote_is_torchs_result_type(default: torch.dtype) -> None:
    torch.set_default_dtype(default)
    try:
        for x, y in itertools.product(operands(), operands()):
            assert promote([value_type(x), value_type(y)]) is torch.result_type(x, y), (x, y)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("seed", range(4))
def test_promote_of_three_is_what_addcmul_and_where_compute_in(seed: int) -> None:
    chosen = random.Random(seed)
    tensors = [x for x in operands() if isinstance(x, torch.Tensor)]
    for _ in range(300):
        x, y, z = (chosen.choice(tensors) for _ in range(3))
        types = [value_type(v) for v in (x, y, z)]
        stacked = torch._prims_common.elementwise_dtypes(
            x, y, z, type_promotion_kind=torch._prims_common.ELEMENTWISE_TYPE_PROMOTION_KIND.DEFAULT
        )[1]
        assert promote(types) is stacked, types


def test_promote_of_one_number() -> None:
    assert [promote([ScalarType(type(x))]) for x in NUMBERS] == [
        torch.bool,
        torch.int64,
        torch.float32,
        torch.complex64,
    ]


def test_broadcast_is_torchs() -> None:
    sizes = [(), (1,), (3,), (0,), (2, 1), (2, 3), (1, 3), (4, 1, 1), (4, 2, 3)]
    for a, b in itertools.product(sizes, sizes):
        try:
            expected = tuple(torch.broadcast_shapes(a, b))
        except RuntimeError:
            with pytest.raises(ValueError, match="cannot be broadcast"):
                broadcast([a, b])
        else:
            assert broadcast([a, b]) == expected


def test_a_type_prints_what_sets_it_apart() -> None:
    assert str(tensor_type((2, 3))) == "f32[2, 3]"
    assert str(tensor_type((2, 3), torch.bfloat16, "cuda:0")) == "bf16[2, 3] on cuda:0"
    assert str(tensor_type((2, 3), strides=(1, 2))) == "f32[2, 3]{1, 2}"
    assert str(tensor_type((), torch.int64)) == "i64[]"


class Layouts:
    """Random tensors: permuted, expanded, sliced, channels last, 0-d, with sizes of 0 and 1."""

    def __init__(self, seed: int) -> None:
        self.chosen = random.Random(seed)

    def shape(self) -> list[int]:
        sizes = [0, 1, 1, 2, 3, 4] if self.chosen.random() < 0.15 else [1, 2, 3, 4]
        return [self.chosen.choice(sizes) for _ in range(self.chosen.choice([0, 1, 2, 3, 3, 4, 5]))]

    def permuted(self, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
        order = list(range(len(shape)))
        self.chosen.shuffle(order)
        inverse = [order.index(d) for d in range(len(shape))]
        return torch.zeros([shape[d] for d in order], dtype=dtype).permute(inverse)

    def tensor(self, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
        match self.chosen.choice(
            ["plain", "plain", "permuted", "expanded", "sliced", "fewer", "0-d"]
        ):
            case "plain" if len(shape) == 4 and self.chosen.random() < 0.5:
                return torch.zeros(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
            case "permuted":
                return self.permuted(shape, dtype)
            case "expanded":
                kept = [self.chosen.choice([1, size]) for size in shape]
                return self.permuted(kept, dtype).expand(shape)
            case "sliced":
                wider = [size + self.chosen.randrange(3) for size in shape]
                return self.permuted(wider, dtype)[tuple(slice(size) for size in shape)]
            case "fewer":
                kept = [self.chosen.choice([1, size]) for size in shape]
                return self.permuted(kept[self.chosen.randrange(len(shape) + 1) :], dtype)
            case "0-d":
                return torch.zeros((), dtype=dtype)
            case _:
                return torch.zeros(shape, dtype=dtype)


Case = tuple[Pointwise, Callable[..., torch.Tensor], str]
CASES: list[Case] = [  # the letters: f a float tensor, b a bool one, n the number 2.0, m any dtype
    (Exp(), torch.exp, "m"),
    (Relu(), torch.relu, "f"),
    (Gelu(), torch.nn.functional.gelu, "f"),
    (Hardtanh(), torch.nn.functional.hardtanh, "f"),
    (LogSigmoid(), torch.nn.functional.logsigmoid, "f"),
    (Isnan(), torch.isnan, "m"),
    (Isinf(), torch.isinf, "m"),
    (Cast(torch.float64), lambda x: x.to(torch.float64, copy=True), "m"),
    (Add(), torch.add, "mm"),
    (Add(), torch.add, "mn"),
    (Mul(), torch.mul, "fn"),
    (Maximum(), torch.maximum, "mm"),
    (Eq(), torch.eq, "mm"),
    (Eq(), torch.eq, "mn"),
    (LogicalAnd(), torch.logical_and, "mm"),
    (Pow(), torch.pow, "ff"),
    (Pow(), torch.pow, "fn"),
    (ClampMin(), torch.clamp_min, "mm"),
    (ClampMin(), torch.clamp_min, "fn"),
    (Clamp(), torch.clamp, "fnn"),
    (Clamp(), torch.clamp, "fff"),
    (Where(), torch.where, "bmm"),
    (Where(), torch.where, "bfn"),
    (Where(), torch.where, "bnn"),
    (MaskedFill(), torch.masked_fill, "fbn"),
    (Lerp(), torch.lerp, "fff"),
    (Lerp(), torch.lerp, "ffn"),
    (Addcmul(), lambda x, y, z, v: torch.addcmul(x, y, z, value=v), "fffn"),
]


@pytest.mark.parametrize(
    ("op", "reference", "letters"), CASES, ids=[f"{case[0].name()}-{case[2]}" for case in CASES]
)
def test_type_rule_gives_torchs_shape_dtype_and_strides(
    op: Pointwise, reference: Callable[..., torch.Tensor], letters: str
) -> None:
    layouts = Layouts(seed=7)
    some = {"f": [torch.float32], "b": [torch.bool], "m": list(DTYPES[1:10])}
    for _ in range(250):
        shape = layouts.shape()
        values = [
            2.0 if k == "n" else layouts.tensor(shape, layouts.chosen.choice(some[k]))
            for k in letters
        ]
        types = [value_type(x) for x in values]
        found = op.infer(*types)
        assert isinstance(found, TensorType)
        assert found == value_type(reference(*values)), list(map(str, types))


@pytest.mark.parametrize("seed", range(3))
def test_layout_questions_are_answered_as_torch_does(seed: int) -> None:
    layouts = Layouts(seed)
    for _ in range(300):
        x = layouts.tensor(layouts.shape(), torch.float32)
        typed = value_type(x)
        assert isinstance(typed, TensorType)
        assert typed.is_contiguous == x.is_contiguous()
        assert typed.is_dense == torch.ops.aten.is_non_overlapping_and_dense(x), str(typed)
        assert typed.dense() == value_type(torch.empty_like(x)), str(typed)
        assert typed.nbytes == x.numel() * 4
