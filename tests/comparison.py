"""Compares a compiled function with eager: what the tests of compiled use share."""

from collections.abc import Callable
from typing import Any

import torch

import lazytorch as lt
from lazytorch.frontend import trees
from lazytorch.frontend.tensor import LazyTensor


def tensors(value: Any) -> list[torch.Tensor]:
    return [x for x in trees.flatten(value)[0] if isinstance(x, torch.Tensor)]


def same(a: Any, b: Any) -> None:
    """Equal values, types and strides, leaf by leaf."""
    found, wanted = tensors(a), tensors(b)
    assert len(found) == len(wanted)
    for x, y in zip(found, wanted, strict=True):
        assert type(x) is not LazyTensor
        assert (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())
        assert x.requires_grad == y.requires_grad
        torch.testing.assert_close(x, y, equal_nan=True)


def check(fn: Callable[..., Any], *inputs: Callable[[], tuple[Any, ...]], **options: Any) -> Any:
    """Compare with eager on each input, on copies, so that writes to arguments are compared too."""
    fast = lt.compile(fn, wait=True, **options)
    for make in inputs * 2:
        torch.manual_seed(0)
        ours = make()
        torch.manual_seed(0)
        theirs = make()
        torch.manual_seed(1)
        result = fast(*ours)
        state = torch.get_rng_state()
        torch.manual_seed(1)
        same(result, fn(*theirs))
        assert torch.equal(state, torch.get_rng_state())
        same(ours, theirs)
    return fast


def randn(*shapes: tuple[int, ...]) -> Callable[[], tuple[torch.Tensor, ...]]:
    return lambda: tuple(torch.randn(s) for s in shapes)
