"""Results that carry gradients are written in place by the caller, where eager allows it."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

import lazytorch as lt

Fn = Callable[[torch.Tensor], Any]

VIEWS: dict[str, Fn] = {
    "flat": lambda x: (x * 2).view(-1),
    "turned": lambda x: (x @ x).t(),
    "rows": lambda x: (x * 2)[1:],
    "columns": lambda x: (x @ x)[:, ::2],
    "diagonal": lambda x: (x * 2).diagonal(),
    "real": lambda x: torch.view_as_complex(x[:, :2].contiguous()).real,
    "apart": lambda x: (lambda y: (y[0], y[2]))(x * 2),
    "with_base": lambda x: (lambda y: (y[1:], y))(x * 2),
    "with_base_and_detached": lambda x: (lambda y: (y[0], y.detach(), y))(x * 2),
    "linear": lambda x: functional.linear(x, x).unsqueeze(0),
}

WRITES: dict[str, Callable[[torch.Tensor], Any]] = {
    "add_": lambda y: y.add_(1),
    "mul_": lambda y: y.mul_(3),
    "part": lambda y: y[0:1].mul_(2),
    "relu_": lambda y: y.relu_(),
    "copy_": lambda y: y.copy_(torch.zeros_like(y)),
}


def listed(y: Any) -> list[torch.Tensor]:
    return [y] if isinstance(y, torch.Tensor) else list(y)


def gradient(fn: Fn, x: torch.Tensor, write: Callable[[torch.Tensor], Any]) -> list[Any]:
    """Every result after a write into the first one, and the gradient."""
    x = x.detach().clone().requires_grad_()
    ys = listed(fn(x))
    write(ys[0])
    total = sum((y.square().sum() for y in ys if y.requires_grad), torch.zeros(()))
    return [*[y.detach().clone() for y in ys], *torch.autograd.grad(total, x)]


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("write", WRITES)
def test_a_result_that_is_a_view_is_written(name: str, write: str) -> None:
    fn = VIEWS[name]
    fast = lt.compile(fn, wait=True)
    for _ in range(2):
        x = torch.randn(3, 3)
        found, wanted = [gradient(run, x, WRITES[write]) for run in (fast, fn)]
        torch.testing.assert_close(found, wanted)


READ: dict[str, Fn] = {
    "itself": lambda x: (x @ x).exp(),
    "view": lambda x: (x @ x).exp().t(),
    "more": lambda x: (lambda y: (y.view(-1), y.sin().exp() @ y))((x @ x).tanh()),
    "sorted": lambda x: (lambda y: (y.t(), y.cumprod(0)))((x @ x).sort().values),
    "dropped": lambda x: (lambda y: (y[None], y * y))(functional.dropout(x @ x, 0.0)),
}


@pytest.mark.parametrize("name", READ)
def test_what_the_backward_pass_reads_is_checked(name: str) -> None:
    """A write is refused, as in eager, or the gradient is that of results written afterwards."""
    torch.manual_seed(0)
    fn = READ[name]
    fast = lt.compile(fn, wait=True)
    for _ in range(2):
        x = torch.randn(3, 3)

        def copied(x: torch.Tensor) -> list[torch.Tensor]:
            return [y.clone() for y in listed(fn(x))]

        try:
            found = gradient(fast, x, lambda y: y.mul_(3))
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
        else:
            torch.testing.assert_close(found, gradient(copied, x, lambda y: y.mul_(3)))


def test_where_several_elements_are_one_place_nothing_is_written() -> None:
    fast = lt.compile(lambda x: (x.sum().expand(3), x.view(-1).unfold(0, 3, 1) * 1), wait=True)
    y, _ = fast(torch.randn(3, 3, requires_grad=True))
    with pytest.raises(RuntimeError):
        y.add_(1)


@pytest.mark.parametrize("name", [*VIEWS, *READ])
def test_results_hold_no_circle(name: str) -> None:
    fast = lt.compile((VIEWS | READ)[name], wait=True)
    for _ in range(2):
        gc.collect()
        gc.disable()
        try:
            y = listed(fast(torch.randn(3, 3, requires_grad=True)))
            gone = weakref.ref(y[-1].grad_fn)
            del y
            assert gone() is None
        finally:
            gc.enable()
