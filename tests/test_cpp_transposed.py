"""C++ kernels that read an operand across the rows, through a buffer: eager's values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import lazytorch as lt
from lazytorch.lower.cpp.kernel import FEWEST
from lazytorch.lower.cpp.tile import PARTS

N, _ = PARTS[4]
SIZES = [
    (16, 16), (17, 23), (31, 16), (N + 1, N), (N - 1, N + 1), (3 * N + 5, N - 1), (40, 2 * N + 9),
    (9 * N + 7, 8 * N + 1), (700, 33), (1, 40), (40, 1), (0, 30), (5, 7),
]  # fmt: skip
DTYPES = [
    torch.float32, torch.float64, torch.bfloat16, torch.float16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


def made(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers that are exact in every dtype, also summed."""
    return torch.randint(0, 2 if dtype is torch.bool else 60, shape).to(dtype)


def check(function: Callable[..., torch.Tensor], *xs: torch.Tensor) -> None:
    """The compiled function's result is eager's, bit for bit, and lies as it does."""
    fast = lt.compile(function, wait=True)
    found, want = fast(*xs), function(*xs)
    assert found.stride() == want.stride()
    assert torch.equal(found, want)
    if want.numel() > 1 and min(want.shape[-2:]) >= FEWEST:
        assert "lt::beside" in fast.source()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_transposed_operand(size: tuple[int, int]) -> None:
    rows, columns = size
    x, y = made(rows, columns, dtype=torch.float32), made(columns, rows, dtype=torch.float32)
    check(lambda x, y: (x + y.t()).neg(), x, y)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype: torch.dtype) -> None:
    width, rows = PARTS[dtype.itemsize]
    for a, b in ((37, 45), (rows + 17, width + 9), (3 * rows + 1, 2 * width)):
        x, y = made(a, b, dtype=dtype), made(b, a, dtype=dtype)
        check(lambda x, y: torch.where(x == y.t(), x, y.t()), x, y)


def test_several_operands_of_different_dtypes() -> None:
    x, y = made(50, 530, dtype=torch.float32), made(530, 50, dtype=torch.bfloat16)
    z, w = made(530, 50, dtype=torch.int64), made(530, dtype=torch.float32)
    check(lambda x, y, z, w: x * y.t() + z.t() - w, x, y, z, w)


def test_too_many_operands_are_read_where_they_lie() -> None:
    xs = [made(30, 20, dtype=torch.float32) for _ in range(6)]

    def summed(*xs: torch.Tensor) -> torch.Tensor:
        total = xs[0].t().contiguous()
        for x in xs[1:]:
            total = total + x.t()
        return total

    fast = lt.compile(summed, wait=True)
    assert torch.equal(fast(*xs), summed(*xs))


def test_images_in_two_memory_orders() -> None:
    x = made(3, 18, 7, 5, dtype=torch.float32)
    y = made(3, 18, 7, 5, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    check(lambda x, y: (x + y).relu(), x, y)
    check(lambda x, y: (x + y).relu(), y, x)


def test_an_operand_that_begins_anywhere_and_skips() -> None:
    y = made(600, 90, dtype=torch.float32)
    x = made(40, 300, dtype=torch.float32)
    check(lambda x, y: (x - y[1::2, 3:43].t()).neg(), x, y)
    skipping = lt.compile(lambda x, y: (x - y[:300, 3:83:2].t()).neg(), wait=True)
    assert torch.equal(skipping(x, y), (x - y[:300, 3:83:2].t()).neg())
    assert "lt::beside" not in skipping.source()  # rows are no neighbours


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_work(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for shape in ((1000, 700), (3000, 40), (40, 3000)):
            x = made(*shape, dtype=torch.float32)
            y = made(*reversed(shape), dtype=torch.float32)
            check(lambda x, y: (x + y.t()).neg(), x, y)
    finally:
        torch.set_num_threads(before)
