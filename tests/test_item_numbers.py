"""`.item()` of a floating tensor used as a number: a value of the graph, with a number's rules."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_numbers import INF, NAN, agree, check, make, recordings

import lazytorch as lt
from lazytorch.errors import CutError, UnsupportedError

VALUES = (0.5, 0.25, 0.75, 0.5, 2.0)


def mean(x: torch.Tensor, s: float) -> Any:
    return (x * s).mean().item()


VALUE: dict[str, Callable[..., Any]] = {
    "times": lambda x, s: x * mean(x, s),
    "of integers": lambda x, s: (x.long() * mean(x, s), x.long().sum() + mean(x, s)),
    "of 16 bits": lambda x, s: x.bfloat16() * mean(x, s) + 1,
    "from 16 bits": lambda x, s: x * (x * s).bfloat16().mean().item() + 1,
    "derived": lambda x, s: x * (mean(x, s) * s - 1) + mean(x, s) / 3,
    "returned": lambda x, s: (mean(x, s), mean(x, s) * 2, x + 1),
    "alpha": lambda x, s: torch.add(x, x, alpha=mean(x, s)),
    "a bound": lambda x, s: x.clamp(min=mean(x, s)),
    "one element of two dimensions": lambda x, s: x * (x * s)[:1, :1].item(),
    "a read before a write": lambda x, s: (lambda a: x.mul_(2) * a)(mean(x, s)),
}


@pytest.mark.parametrize("name", VALUE)
def test_a_number_of_a_tensor_does_not_cut(name: str) -> None:
    fast = check(VALUE[name], VALUES, 2)
    assert all(stage.cut is None for stage in fast.programs())


def test_special_values_and_errors() -> None:
    check(lambda x, s: x * (x * s).sum().item(), (0.5, NAN, INF, -0.0, 0.0), 2)
    check(lambda x, s: x * (1 / (x * s).sum().item()), (0.5, 0.0, 0.25), 2)


def test_comparisons_cut_by_their_truth() -> None:
    def f(x: torch.Tensor, s: float) -> Any:
        return x * 2 if mean(x, s) > 1 else x * 3

    check(f, (0.5, 0.75, 0.1, NAN, INF, 0.2, 2.0), 3)


def test_a_value_that_python_needs_is_fetched() -> None:
    check(lambda x, s: x * float(mean(x, s)), VALUES, 5)
    check(lambda x, s: x * float(f"{mean(x, s):.3f}"), VALUES, 5)
    check(lambda x, s: x[:, : int(mean(x, s))], VALUES, 5)


def test_zeros_of_both_signs_are_two_values() -> None:
    check(lambda x, s: 1 / (x * 0 + float(x.sum() * s)), (0.0, -0.0, 0.0, -0.0), 3)


def test_numbers_outlive_cuts() -> None:
    def f(x: torch.Tensor, s: float) -> Any:
        a = mean(x, s)
        b = a * s + 1
        y = x + a
        if y.sum() > 30:
            y = y * b
        c = (y / 100).mean().item()
        if c > 0.05:
            y = y - c * a
        return y, a, b, c

    check(f, (*VALUES, 5.0, 9.0, 0.1), 3)


def test_a_parameter_read_as_a_number_is_read_again() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([2.0]))
            self.register_buffer("shift", torch.tensor(1.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale.item() + self.shift.item()  # type: ignore[operator]

    model = Scaled()
    fast = lt.compile(model)
    for _ in range(3):
        with torch.no_grad():
            agree(fast(make()), model(make()))
            model.scale += 1
            model.shift.mul_(3)  # type: ignore[operator]
    assert recordings(fast) == 1


def test_the_number_carries_no_gradient() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x * x.sum().item()).sum()

    fast = lt.compile(f)
    ours, theirs = (make().requires_grad_() for _ in range(2))
    for x, g in ((ours, fast), (theirs, f)):
        g(x).backward()
    agree(ours.grad, theirs.grad)


def test_text_and_trace() -> None:
    graph = lt.trace(lambda x, t: x * (t.item() + 1), make(), torch.tensor(2.0))
    text = str(graph)
    assert "to_number %t" in text and 'arithmetic{function="add"}' in text
    assert str(lt.parse(text)) == text


def test_fullgraph_takes_numbers_and_names_cuts() -> None:
    f = functools.partial(lambda s, x: x * mean(x, s), 0.5)
    agree(lt.compile(f, fullgraph=True)(make()), f(make()))
    with pytest.raises(CutError, match=r"float\(\) of a tensor"):
        lt.compile(lambda x: x * float(x.sum().item()), fullgraph=True)(make())


def test_a_number_that_escapes_says_so() -> None:
    kept: Any = logging.getLogger("kept")  # objects of the library are not looked into

    def f(x: torch.Tensor) -> torch.Tensor:
        kept.number = x.sum().item()
        return x + 1

    lt.compile(f)(make())
    with pytest.raises(UnsupportedError, match="kept beyond it"):
        float(kept.number)
    assert "number" in repr(kept.number)
