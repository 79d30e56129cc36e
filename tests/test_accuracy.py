"""The accuracy rule: what it lets through, and what it does not."""

import math

import pytest
import torch

from lazytorch.accuracy import accuracy, tf32_on

torch.manual_seed(0)
EXACT = torch.randn(1000, dtype=torch.float64)
NOISE = torch.randn(1000, dtype=torch.float64)


def off_by(error: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (EXACT + error * NOISE).to(dtype)


@pytest.mark.parametrize(
    ("dtype", "eager", "ours", "right"),
    [
        (torch.float32, 1e-6, 1.8e-6, True),
        (torch.float32, 1e-6, 2.4e-6, False),
        (torch.bfloat16, 0.1, 0.28, True),
        (torch.bfloat16, 0.1, 0.35, False),
        (torch.float64, 1e-9, 1.8e-9, True),
        (torch.float64, 1e-9, 2.4e-9, False),
    ],
)
def test_error_is_measured_in_eagers(
    dtype: torch.dtype, eager: float, ours: float, right: bool
) -> None:
    found = accuracy([off_by(ours, dtype)], [off_by(eager, dtype)], [EXACT])
    assert found.right == right, found.fault
    assert found.error > found.eager


def test_rounding_alone_is_never_an_error() -> None:
    halves = torch.tensor([0.5, 0.25])  # exact in eager, by luck
    next_to = torch.nextafter(halves, torch.ones(2))
    assert accuracy([next_to], [halves], [halves.double()]).right
    assert not accuracy([halves + 1e-6], [halves], [halves.double()]).right


@pytest.mark.parametrize(("tf32", "right"), [(False, False), (True, True)])
def test_float32_has_a_limit_of_its_own_with_tf32_off(tf32: bool, right: bool) -> None:
    eager = off_by(1e-3)
    assert accuracy([eager], [eager], [EXACT], tf32).right == right


def test_other_shapes_dtypes_and_counts_are_wrong() -> None:
    x = EXACT.float()
    assert not accuracy([x[:, None]], [x], [EXACT]).right
    assert not accuracy([x.half()], [x], [EXACT]).right
    assert not accuracy([x], [x, x], [EXACT, EXACT]).right
    assert accuracy([], [], []).right


def test_integers_are_eagers_or_those_of_float64() -> None:
    ours, eager, exact = (torch.tensor(x) for x in ([1, 2, 3], [1, 2, 4], [1, 5, 3]))
    assert accuracy([ours], [eager], [exact]).right
    found = accuracy([ours + 1], [eager], [exact])
    assert found.error == math.inf and "2 of 3" in found.fault


def test_what_is_not_finite_is_as_in_eager() -> None:
    exact = torch.tensor([1.0, math.nan, math.inf, -math.inf], dtype=torch.float64)
    eager = exact.float()
    assert accuracy([eager.clone()], [eager], [exact]).right
    for i, value in enumerate((math.nan, 1.0, -math.inf, math.nan)):
        ours = eager.clone()
        ours[i] = value
        assert not accuracy([ours], [eager], [exact]).right


def test_overflow_where_eager_overflows_is_right() -> None:
    exact = torch.tensor([1.0, 65520.0], dtype=torch.float64)
    eager = exact.half()
    assert eager[1] == math.inf
    assert accuracy([eager], [eager], [exact]).right
    assert not accuracy([torch.tensor([1.0, 0.0]).half()], [eager], [exact]).right


def test_the_worst_of_several_results_is_told() -> None:
    good, bad = off_by(1e-6), off_by(1e-3)
    found = accuracy([good, bad, good], [good] * 3, [EXACT] * 3)
    assert not found.right and found.error == pytest.approx(1e-3, rel=0.1)
    empty = torch.empty(0)
    assert accuracy([empty], [empty], [empty.double()]).right


def test_complex_results() -> None:
    exact = torch.complex(EXACT, NOISE)
    eager = exact.to(torch.complex64)
    assert accuracy([eager], [eager], [exact]).right
    assert not accuracy([eager.conj().resolve_conj()], [eager], [exact]).right


def test_no_tf32_on_the_cpu() -> None:
    assert not tf32_on(torch.device("cpu"))
