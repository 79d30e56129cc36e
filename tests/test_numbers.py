"""Float arguments that vary: inputs of one plan from the second value on, never baked in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pytest
import torch
from torch.nn import functional

import lazytorch as lt
from lazytorch.compiled import Compiled

INF, NAN = math.inf, math.nan


def make() -> torch.Tensor:
    return torch.arange(1.0, 7.0).reshape(2, 3)


def recordings(fast: Compiled) -> int:
    return sum(name == "record" for name, *_ in fast.stages)


def agree(got: Any, want: Any) -> None:
    """Same types and dtypes; equal within a few roundings, NaN and the sign of zero included."""
    if isinstance(want, tuple | list):
        for one, other in zip(got, want, strict=True):
            agree(one, other)
    elif isinstance(want, torch.Tensor):
        torch.testing.assert_close(got, want, equal_nan=True)
        if want.is_floating_point():
            zero = want == 0
            assert torch.equal(got[zero].signbit(), want[zero].signbit())
    else:
        assert type(got) is type(want)
        if isinstance(want, float):
            assert got == pytest.approx(want, rel=1e-6, nan_ok=True)
            assert math.copysign(1, got) == math.copysign(1, want) or want != want
        else:
            assert got == want


def check(f: Callable[..., Any], values: Sequence[float], expected: int) -> Compiled:
    """Calls with each value agree with eager, before and after kernels are built; how often the
    function was recorded."""
    lt.reset()
    fast = lt.compile(f)
    for value in values:
        try:
            want = f(make(), value)
        except ArithmeticError as error:
            with pytest.raises(type(error)):
                fast(make(), value)
            continue
        agree(fast(make(), value), want)
        fast.wait()
        agree(fast(make(), value), want)
    assert recordings(fast) == expected
    return fast


VALUES = (0.5, 0.25, 0.75, 0.5, 2.0)

VARYING: dict[str, Callable[..., Any]] = {
    "times": lambda x, s: x * s,
    "either side": lambda x, s: (s - x, s / x, x / s, x // s, s // x, x % s, s**x, x**s),
    "a chain": lambda x, s: torch.relu(x * s - 1) * s + (1 - s),
    "derived": lambda x, s: x * (s * 0.5 + 1) - s**2 / (3 - s) * -abs(-s) + 0.9**s,
    "torch.sym_sqrt": lambda x, s: x * torch.sym_sqrt(s),
    "integers": lambda x, s: (x.long() * s, x.int() + s, (x > 2) * s),
    "16 bits": lambda x, s: (x.bfloat16() * s, x.bfloat16() > s, x.half() + s, x.half() - s * 0.1),
    "0-d": lambda x, s: (x.sum() * s, x.long().sum() * s, x.double().sum() + s),
    "alpha": lambda x, s: (torch.add(x, x, alpha=s), torch.sub(x, x, alpha=s)),
    "scalar arguments": lambda x, s: (
        torch.addcmul(x, x, x, value=s),
        torch.lerp(x, x * 2, s),
        x.clamp(s, 2.0),
        x.masked_fill(x > 2, s),
        torch.where(x > s, x, s),
        functional.leaky_relu(x - 3, s),
    ),
    "products": lambda x, s: torch.addmm(x @ x.T, x, x.T, alpha=s, beta=s / 2),
    "factories": lambda x, s: (torch.full((2,), s), x.new_full((2,), s), torch.arange(0.0, 2.5, s)),
    "in place": lambda x, s: x.mul_(s).add_(s).fill_(s),
    "an item of a tensor": lambda x, s: x.__setitem__((0,), s) or x,
    "lists": lambda x, s: tuple(torch._foreach_mul([x, x + 1], s)),
    "returned": lambda x, s: (s, s * 2, -s, abs(s), round(s, 1), x + s),
    "isinstance": lambda x, s: x * s if isinstance(s, float) else x,
    "sum": lambda x, s: x * sum([s, s]) * sum((1, s)),
    "unused": lambda x, s: x * 2,
    "printed later": lambda x, s: {"loss": x * s, "rate": s}["loss"],
}


@pytest.mark.parametrize("name", VARYING)
def test_the_second_value_makes_an_input(name: str) -> None:
    check(VARYING[name], VALUES, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_special_values(dtype: torch.dtype) -> None:
    def f(x: torch.Tensor, s: float) -> Any:
        x = x.to(dtype) - 2
        return x * s, x * s + 0.5, x > s, x.clamp(min=s), torch.full((2,), s), s

    check(f, (0.5, 0.0, -0.0, NAN, INF, -INF, 1e-42, 1e38, -0.0), 2)


def test_what_python_raises_is_raised() -> None:
    check(lambda x, s: x * (1 / s), (0.5, 0.25, 0.0, 0.75), 2)


CONSTANT: dict[str, Callable[..., Any]] = {
    "float()": lambda x, s: x * float(s),
    "a key": lambda x, s: x * {0.5: 1, 0.25: 2}.get(s, 3),
    "format": lambda x, s: x * float(f"{s:.2f}"),
    "math": lambda x, s: x * math.sqrt(s),
    "a power that may be complex": lambda x, s: x * s**0.5,
    "an argument that must be a double": lambda x, s: functional.layer_norm(x, (3,), None, None, s),
    "torch.tensor": lambda x, s: x * torch.tensor(s),
    "type()": lambda x, s: x * {float: 1.5}[type(s)] * s,
    "complex": lambda x, s: x * (s + 1j),
    "numpy": lambda x, s: x * torch.from_numpy(numpy.ones(3, "float32") * s),
    "an attribute of an operation": lambda x, s: x.std(correction=s),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_a_number_that_python_needs_stays_a_constant(name: str) -> None:
    f = CONSTANT[name]
    fast = check(f, VALUES, 4 if name != "an attribute of an operation" else 2)
    if recordings(fast) == 4:
        assert "s stays a constant, because" in lt.report()
        assert "s was 0.75 and is 2.0; it is a constant, because" in lt.report()
    agree(fast(make(), 0.5), f(make(), 0.5))


def test_comparisons_choose_among_plans() -> None:
    def f(x: torch.Tensor, s: float) -> torch.Tensor:
        if s > 0.6 and s != 1.0:
            return x * s
        return x - s if s else x + 100

    values = (0.5, 0.25, 0.75, 0.9, 0.0, -0.0, 1.0, 0.3, 0.8, NAN)
    check(f, values, 5)  # s = 0.5 itself; below; above; zero; one
    assert "a number compares otherwise at" in lt.report() and "test_numbers.py" in lt.report()


def test_a_size_made_of_a_number_is_guarded() -> None:
    check(lambda x, s: x[:, : int(s) + 1] * s, VALUES, 3)


def test_numbers_nested_in_arguments() -> None:
    def f(x: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        return x * options["rate"] - options["decay"][0]

    lt.reset()
    fast = lt.compile(f)
    for rate, decay in ((0.1, 0.2), (0.3, 0.2), (0.3, 0.4), (0.5, 0.6), (0.1, 0.2)):
        options = {"rate": rate, "decay": (decay,)}
        agree(fast(make(), options), f(make(), options))
    assert recordings(fast) == 3
    first, second = lt.report().splitlines()
    assert "options.rate was 0.1 and is 0.3: from now on it is an input" in first
    assert "options.decay.0 was 0.2 and is 0.4: from now on it is an input" in second


def test_another_shape_keeps_the_decision() -> None:
    fast = lt.compile(lambda x, s: x * s + 1)
    for n, s in ((3, 0.1), (4, 0.2), (5, 0.3), (3, 0.4), (4, 0.5), (5, 0.6)):
        agree(fast(torch.ones(n), s), torch.ones(n) * s + 1)
    assert recordings(fast) == 4  # three sizes, and once before anything was decided


def test_integers_stay_constants() -> None:
    fast = lt.compile(lambda x, n: x * n)
    for n in (1, 2, 3):
        agree(fast(make(), n), make() * n)
    assert recordings(fast) == 3


def test_an_integer_in_the_place_of_a_float_is_its_own() -> None:
    fast = lt.compile(lambda x, s: x.long() * s)
    for s in (0.5, 0.25, 2, 0.75, 3, True, 1.0):
        agree(fast(make(), s), make().long() * s)


def test_gradients_use_the_present_value() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, s: float) -> torch.Tensor:
        return (x * w * s).sum() * s

    fast = lt.compile(f)
    for s in (0.1, 0.5, 0.7, -0.0):
        ours = torch.ones(3, requires_grad=True)
        theirs = torch.ones(3, requires_grad=True)
        a, b = fast(make(), ours, s), f(make(), theirs, s)
        agree(a.detach(), b.detach())
        a.backward()
        b.backward()
        agree(ours.grad, theirs.grad)
    assert recordings(fast) == 2


def test_a_learning_rate_schedule() -> None:
    def step(p: Any, g: Any, v: Any, rate: float, momentum: float = 0.9, decay: float = 0.0) -> Any:
        with torch.no_grad():
            if decay != 0:
                g = g.add(p, alpha=decay)
            v.mul_(momentum).add_(g, alpha=1 - momentum)
            p.add_(v, alpha=-rate)

    fast = lt.compile(step)
    ours, theirs = ([torch.ones(4), torch.zeros(4)] for _ in range(2))
    for i in range(8):
        g = torch.randn(4)
        rate = 0.1 / (i + 1)
        fast(ours[0], g, ours[1], rate, decay=0.01 * i)
        step(theirs[0], g, theirs[1], rate, decay=0.01 * i)
        agree(ours, theirs)
    assert recordings(fast) == 2


def test_a_branch_taken_later_keeps_its_assumptions() -> None:
    def f(x: torch.Tensor, s: float) -> torch.Tensor:
        if x.sum() > 0:
            return x * s
        return x * float(s) if s > 1 else x - s

    fast = lt.compile(f)
    for sign, s in ((1, 0.1), (1, 0.2), (-1, 0.3), (-1, 2.0), (-1, 3.0), (1, 4.0), (-1, 0.5)):
        agree(fast(make() * sign, s), f(make() * sign, s))


def test_a_library_error_is_the_users_error() -> None:
    def f(x: torch.Tensor, s: float) -> torch.Tensor:
        if s > 0.5:
            raise ValueError(f"{s} is too large")
        return x * s

    fast = lt.compile(f)
    for s in (0.1, 0.2):
        agree(fast(make(), s), f(make(), s))
    with pytest.raises(ValueError, match=r"0.7 is too large"):
        fast(make(), 0.7)
    agree(fast(make(), 0.3), f(make(), 0.3))


def test_functions_kept_eager_get_floats() -> None:
    @lt.disable
    def host(x: torch.Tensor, s: float) -> torch.Tensor:
        assert type(s) is float
        return torch.from_numpy(x.numpy() * s)

    check(lambda x, s: host(x, s * 2) + 1, VALUES, 2)
