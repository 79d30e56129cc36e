"""`counting`: constants that follow from their indices are computed where they are read."""

from functools import partial

import pytest
import torch
from check import Check

from lazytorch.data import Data
from lazytorch.ir import Builder
from lazytorch.ops.create import Literal
from lazytorch.passes import counting as counting_where
from lazytorch.passes.counting import Band, Line, band, line, pattern

counting = partial(counting_where, fits=lambda _: True)


def test_a_causal_mask_is_arithmetic(check: Check) -> None:
    check(
        counting,
        """
        graph(%x: bool[2, 1, 3]) {
          %0 = literal{data=data(bool[1, 2, 3], (((True, True, False), (True, True, True)),))}
          %1 = bitwise_and %0 %x
          %2 = where %1 0.0 -inf
          return %2
        }
        """,
        """
        graph(%x: bool[2, 1, 3]) {
          %0: i32[2, 2, 3]{0, 0, 1} = counting{shape=(2, 2, 3), dim=2, dtype=i32}
          %1: i32[2, 2, 3]{0, 1, 0} = counting{shape=(2, 2, 3), dim=1, dtype=i32}
          %2: i32[2, 2, 3] = sub %0 %1
          %3: bool[2, 2, 3] = le %2 1
          %4: bool[2, 2, 3] = bitwise_and %3 %x
          %5: f32[2, 2, 3] = where %4 0.0 -inf
          return %5
        }
        """,
    )


def test_positions_are_arithmetic(check: Check) -> None:
    check(
        counting,
        """
        graph(%x: f32[2, 4, 3]) {
          %0 = arange{start=5, end=13, step=2}
          %1 = reshape{shape=(4, 1)} %0
          %2 = mul %x %1
          %3 = exp %2
          return %3
        }
        """,
        """
        graph(%x: f32[2, 4, 3]) {
          %0: i64[2, 4, 3]{0, 1, 0} = counting{shape=(2, 4, 3), dim=1, start=5, step=2, dtype=i64}
          %1: f32[2, 4, 3] = mul %x %0
          %2: f32[2, 4, 3] = exp %1
          return %2
        }
        """,
    )


def test_tables_of_positions_are_made_at_every_call(check: Check) -> None:
    check(
        partial(counting, tables=True),
        """
        graph(%f: f32[3] state, %x: f32[2, 4, 3]) {
          %0 = literal{data=data(f32[4, 1], ((0.0,), (1.0,), (2.0,), (3.0,)))}
          %1 = mul %0 %f
          %2 = cos %1
          %3 = mul %x %2
          %4 = exp %3
          return %4
        }
        """,
        """
        graph(%f: f32[3] state, %x: f32[2, 4, 3]) {
          %0: f32[4, 3]{1, 0} = counting{shape=(4, 3), dim=0}
          %1: f32[4, 3] = mul %0 %f
          %2: f32[4, 3] = cos %1
          %3: f32[2, 4, 3] = mul %x %2
          %4: f32[2, 4, 3] = exp %3
          return %4
        }
        """,
    )


@pytest.mark.parametrize(
    "body",
    [
        # a table that the prologue keeps, where there is room
        "%0 = arange{start=0, end=3}\n%1 = mul %0 %f\n%2 = mul %x %1\n%3 = exp %2\nreturn %3",
        # torch's own operation reads it
        "%0 = arange{start=0, end=3}\n%1 = mul %x %0\n%2 = cumsum{dim=1} %1\nreturn %2",
        # no pattern
        "%0 = literal{data=data(i64[3], (0, 1, 3))}\n%1 = mul %x %0\n%2 = exp %1\nreturn %2",
    ],
)
def test_what_stays(check: Check, body: str) -> None:
    check.declines(
        counting, f"graph(%f: f32[3] state, %x: f32[2, 3], %v: f32[1, 3]) {{\n{body}\n}}"
    )


@pytest.mark.parametrize(
    ("mask", "found"),
    [
        (torch.ones(4, 4).tril(), Band(None, 0)),
        (torch.ones(4, 6).tril(2), Band(None, 2)),
        (torch.ones(5, 3).triu(-1), Band(-1, None)),
        (torch.ones(6, 6).tril(0).triu(-2), Band(-2, 0)),
        (torch.eye(3), Band(0, 0)),
        (torch.ones(3, 3), None),
        (torch.zeros(3, 3), None),
        (torch.ones(4, 4).tril().fliplr(), None),
        (torch.ones(4, 4) - torch.eye(4), None),
    ],
)
def test_bands(mask: torch.Tensor, found: Band | None) -> None:
    assert band(mask.bool()) == found


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((0.0, 1.0, 2.0), Line(-1, 0, 1)),
        ((7, 5, 3, 1), Line(-1, 7, -2)),
        ((0.0, 0.5, 1.0), None),
        ((2, 2), None),
        ((0, 1, 3), None),
        ((0, 2**25), None),
        ((float("nan"), 1.0), None),
        ((-0.0, 1.0, 2.0), None),
        ((float("inf"), float("inf")), None),
    ],
)
def test_lines(values: tuple[float, ...], found: Line | None) -> None:
    assert line(torch.tensor(values), -1) == found


def test_where_kernels_know_no_index_constants_stay(check: Check) -> None:
    check.declines(
        partial(counting_where, fits=lambda _: False),
        """
        graph(%x: f32[2, 3]) {
          %0 = arange{start=0, end=3}
          %1 = mul %x %0
          %2 = exp %1
          return %2
        }
        """,
    )


def test_matrices_of_numbers_are_not_looked_through() -> None:
    for shape in ((2, 3), (1, 1), ()):
        value = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
        assert pattern(Builder()(Literal(Data(value)))) is None
    deep = torch.ones(2, 3, 3, dtype=torch.bool).tril()
    assert pattern(Builder()(Literal(Data(deep)))) is None
