"""Python's operators on traced tensors: the short way gives what torch's dispatcher gives."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import lazytorch as lt
from lazytorch.errors import LazyTorchError

OPERATORS = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
)
DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.bool)


def value(dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, (3, 4), generator=generator).to(dtype)


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.__name__)
@pytest.mark.parametrize("other", [2, -1.5, True, np.float32(2.5), "row", "int", "real"], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operators_both_ways_round_equal_eager(
    op: Callable[[Any, Any], Any], other: Any, dtype: torch.dtype
) -> None:
    held = torch.tensor([1.0, -2.0, 3.0, 0.5])

    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = (
            {"row": y, "int": y.long(), "real": held}.get(other, other)
            if other.__class__ is str
            else other
        )
        return op(x, z), op(z, x)

    x, y = value(dtype, 0), value(torch.float32, 1)[:1]
    try:
        expected = function(x, y)
    except RuntimeError:  # eager refuses, `-` of bools
        with pytest.raises((RuntimeError, LazyTorchError)):
            lt.compile(function)(x, y)
        return
    for ours, theirs in zip(lt.compile(function)(x, y), expected, strict=True):
        assert ours.dtype is theirs.dtype
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_a_dispatch_mode_of_the_users_own_still_changes_operators() -> None:
    class Subtract(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.ops.aten.add.Tensor:
                return torch.ops.aten.sub.Tensor(*args)
            return func(*args, **(kwargs or {}))

    def function(x: torch.Tensor) -> torch.Tensor:
        with Subtract():
            return x + x

    assert torch.equal(lt.compile(function)(torch.ones(3)), torch.zeros(3))


def test_a_function_mode_of_the_users_own_still_changes_operators() -> None:
    class Subtract(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.Tensor.add:
                return torch.sub(*args)
            return func(*args, **(kwargs or {}))

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with Subtract():
            return x + y

    x, y = torch.ones(3), torch.full((3,), 5.0)
    assert torch.equal(lt.compile(function)(x, y), function(x, y))


def test_gradients_go_through_operators() -> None:
    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            stopped = x * w
        return (2 - x) * w + stopped / 3

    x = torch.randn(4, requires_grad=True)
    w = torch.randn(4, requires_grad=True)
    ours = torch.autograd.grad(lt.compile(function)(x, w).sum(), (x, w))
    theirs = torch.autograd.grad(function(x, w).sum(), (x, w))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_shapes_that_do_not_broadcast_name_the_users_line() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + x[:2]

    with pytest.raises(LazyTorchError, match=r"test_operators\.py"):
        lt.compile(function)(torch.ones(3))
