"""Single operations as kernels of their own on the CPU, where those are faster than torch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import lazytorch as lt
from lazytorch.lower.cpp.toolchain import find_compiler

if find_compiler() is None:
    pytest.skip("needs a C++ compiler", allow_module_level=True)

Function = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.uint8, torch.bool)
ALWAYS: dict[str, Function] = {
    "where": lambda x, y, mask: torch.where(mask, x, y),
    "masked_fill": lambda x, _, mask: x.masked_fill(mask, 1),
    "gt": lambda x, y, _: x > y,
    "eq a number": lambda x, _y, _: x == 1,
}
CURVED: dict[str, Function] = {
    "tanh": lambda x, *_: x.tanh(),
    "elu": lambda x, *_: F.elu(x),
    "mish": lambda x, *_: F.mish(x),
    "gelu by tanh": lambda x, *_: F.gelu(x, approximate="tanh"),
}
WIDE: dict[str, Function] = {
    "exp": lambda x, *_: x.exp(),
    "sigmoid": lambda x, *_: x.sigmoid(),
    "gelu": lambda x, *_: F.gelu(x),
}
NARROW: dict[str, Function] = {
    "relu": lambda x, *_: x.relu(),
    "add": lambda x, y, _: x + y,
    "clamp": lambda x, *_: x.clamp(-1, 1),
}
LEFT: dict[str, Function] = {"neg": lambda x, *_: -x, "abs": lambda x, *_: x.abs()}

KERNELS = [
    *(
        (f, t)
        for f in ALWAYS.items()
        for t in (*FLOATS, *INTEGERS)
        if (f[0], t) != ("masked_fill", torch.bool)
    ),
    *((f, t) for f in CURVED.items() for t in FLOATS),
    *((f, t) for f in WIDE.items() for t in (torch.float32, torch.float64)),
    *((f, torch.bfloat16) for f in NARROW.items()),
]
TORCHS = [
    *((f, t) for f in LEFT.items() for t in FLOATS),
    *((f, t) for f in NARROW.items() for t in (torch.float32, torch.float64, torch.float16)),
    *((f, torch.bfloat16) for f in WIDE.items()),
    *((f, torch.float16) for f in WIDE.items() if f[0] != "gelu"),
]


def label(x: tuple[str, Function] | torch.dtype) -> str:
    """What a test is of."""
    return x[0] if isinstance(x, tuple) else str(x).removeprefix("torch.")


def operands(dtype: torch.dtype, rows: int = 97) -> tuple[torch.Tensor, ...]:
    """An odd number of elements, special ones among them, and a mask."""
    x, y = torch.randn(2, rows, 131) * 3
    if dtype.is_floating_point:
        special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1.0, 1e-40, -1e-40])
        x[0, :8], y[1, :8], y[0, :8] = special, special, special.flip(0)
        return x.to(dtype), y.to(dtype), torch.rand(rows, 131) > 0.5
    return x.abs().to(dtype), y.abs().to(dtype), torch.rand(rows, 131) > 0.5


@pytest.mark.parametrize(("named", "dtype"), KERNELS, ids=label)
def test_it_is_a_kernel_that_gives_what_eager_gives(
    named: tuple[str, Function], dtype: torch.dtype
) -> None:
    args = operands(dtype)
    if named[0] == "gelu":  # torch's vectors of infinities are NaN, its scalars are not
        args[0].masked_fill_(args[0].isinf(), 1.0)
    compiled = lt.compile(named[1], wait=True)
    found, expected = compiled(*args), named[1](*args)
    assert ".call(" in compiled.source()
    torch.testing.assert_close(found, expected, equal_nan=True, check_stride=True)


@pytest.mark.parametrize(("named", "dtype"), TORCHS, ids=label)
def test_what_torch_does_as_fast_stays_torchs(
    named: tuple[str, Function], dtype: torch.dtype
) -> None:
    args = operands(dtype)
    compiled = lt.compile(named[1], wait=True)
    torch.testing.assert_close(compiled(*args), named[1](*args), rtol=0, atol=0, equal_nan=True)
    assert ".call(" not in compiled.source()


def test_of_equal_zeros_the_larger_is_eagers() -> None:
    x = torch.full((97, 131), -0.0).bfloat16()
    for function in (
        lambda x: torch.maximum(x, x.new_zeros(())),
        lambda x: torch.minimum(torch.zeros_like(x), x),
        lambda x: x.clamp_min(0.0),
    ):
        found, expected = lt.compile(function, wait=True)(x), function(x)
        assert torch.equal(found.signbit(), expected.signbit())


def test_a_number_on_the_left_is_an_operand_too() -> None:
    compiled = lt.compile(lambda x: 2 / x, wait=True)
    x = operands(torch.bfloat16)[0]
    torch.testing.assert_close(compiled(x), 2 / x, equal_nan=True)
    assert ".call(" in compiled.source()


def test_few_elements_stay_torchs() -> None:
    args = operands(torch.float32, rows=50)
    compiled = lt.compile(ALWAYS["where"], wait=True)
    compiled(*args)
    assert ".call(" not in compiled.source()


def test_casts_to_and_from_float16_stay_torchs() -> None:
    x = operands(torch.float32)[0]
    for source, dtype in ((torch.float32, torch.float16), (torch.float16, torch.float32)):
        compiled = lt.compile(lambda x, to=dtype: x.to(to), wait=True)
        compiled(x.to(source))
        assert ".call(" not in compiled.source()
    compiled = lt.compile(lambda x: x.to(torch.bfloat16), wait=True)
    assert torch.equal(compiled(x).isnan(), x.isnan())
    assert ".call(" in compiled.source()


@pytest.mark.parametrize("rows", [10, 97])
@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (lambda x, mask: x.masked_fill(mask, -1e9), torch.float16),
        (lambda x, mask: x.masked_fill(mask, 300), torch.uint8),
        (lambda x, mask: x.clamp(-1e39, 1e39), torch.bfloat16),
        (lambda x, mask: x.clamp_min(-1e39), torch.bfloat16),
        (lambda x, mask: x.clamp_max(1e5), torch.float16),
        (lambda x, mask: torch.where(mask, 300, x), torch.uint8),
        (lambda x, mask: torch.where(mask, x, -300), torch.uint8),
        (lambda x, mask: torch.where(mask, 1e40, x), torch.float32),
        (lambda x, mask: torch.where(mask, x, 1e40), torch.int32),
    ],
)
def test_numbers_that_do_not_fit_are_refused_as_in_eager(
    function: Function, dtype: torch.dtype, rows: int
) -> None:
    x, _, mask = operands(dtype, rows)
    compiled = lt.compile(function, wait=True)
    for call in (function, compiled):
        with pytest.raises(RuntimeError, match="without overflow"):
            call(x, mask)


def test_the_largest_numbers_fit_and_negative_ones_wrap() -> None:
    x, _, mask = operands(torch.uint8)
    for function in (
        lambda x, mask: x.masked_fill(mask, -1),
        lambda x, mask: x.masked_fill(mask, 255),
        lambda x, mask: x.half().masked_fill(mask, -torch.inf),
        lambda x, mask: x.half().masked_fill(mask, -65504.0),
        lambda x, mask: torch.where(mask, -255, x),
        lambda x, mask: torch.where(mask, x.half(), 1e40),
        lambda x, mask: torch.where(mask, 300.0, x),
        lambda x, mask: torch.where(mask, 1e40, x.double()),
    ):
        assert torch.equal(lt.compile(function, wait=True)(x, mask), function(x, mask))
