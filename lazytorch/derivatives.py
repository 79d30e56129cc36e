"""`lt.grad` and its kin: derivatives of functions, compiled, nested to any depth."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from lazytorch.autodiff import transforms
from lazytorch.compiled import Compiled
from lazytorch.frontend.modes import in_torch_func
from lazytorch.options import Options

Argnums = int | tuple[int, ...]
KEPT = 64  # functions whose plans for lt.jvp and lt.vjp are kept; the least recently used goes


class Derivative(functools.partial[Any]):
    """A function that differentiates another.

    Called inside a recording it records both; called outside, it is compiled as `lt.compile` does
    and replayed. Inside torch.func's own transforms it is torch.func's.
    """

    theirs: Callable[..., Any]

    @functools.cached_property
    def compiled(self) -> Compiled:
        """Its compiled form, for calls outside a recording."""
        return Compiled(functools.partial(apply, self.func, self.args), Options())

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """The derivative at these arguments."""
        if in_torch_func():
            return self.theirs(*args, **kwargs)
        if transforms.current() is not None:
            return self.func(*self.args, args, kwargs)
        return self.compiled(*args, **kwargs)


def apply(
    transform: Callable[..., Any], settings: tuple[Any, ...], *args: Any, **kwargs: Any
) -> Any:
    """What is recorded: the transform of the function, at these arguments."""
    return transform(*settings, args, kwargs)


def derivative(
    transform: Callable[..., Any], theirs: Callable[..., Any], f: Callable[..., Any], *settings: Any
) -> Derivative:
    """The function that applies `transform` to `f`."""
    made = Derivative(transform, f, *settings)
    made.theirs = theirs
    functools.update_wrapper(made, f, updated=())
    return made


def grad(f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Derivative:
    """The gradient of a function that returns one real scalar.

    `argnums` are the positional arguments (trees of floating tensors) that it is taken by; the
    result has their structure. With `has_aux`, `f` returns `(scalar, aux)` and this
    `(gradient, aux)`.
    """
    theirs = torch.func.grad(f, argnums, has_aux)
    return derivative(transforms.grad, theirs, f, argnums, has_aux)


def value_and_grad(
    f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False
) -> Derivative:
    """`(value, gradient)` in one pass; with `has_aux`, `((value, aux), gradient)`."""

    def theirs(*args: Any, **kwargs: Any) -> Any:
        found, value = torch.func.grad_and_value(f, argnums, has_aux)(*args, **kwargs)
        return value, found

    return derivative(transforms.value_and_grad, theirs, f, argnums, has_aux)


def jacrev(f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Derivative:
    """The Jacobian by reverse mode. Shape: (*result, *argument) for each pair of them."""
    theirs = torch.func.jacrev(f, argnums, has_aux=has_aux)
    return derivative(transforms.jacobian, theirs, f, argnums, has_aux, False)


def jacfwd(f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Derivative:
    """The Jacobian by forward mode. Shape: (*result, *argument) for each pair of them."""
    theirs = torch.func.jacfwd(f, argnums, has_aux=has_aux)
    return derivative(transforms.jacobian, theirs, f, argnums, has_aux, True)


def hessian(f: Callable[..., Any], argnums: Argnums = 0) -> Derivative:
    """The matrix of second derivatives: forward mode over reverse mode."""
    return jacfwd(jacrev(f, argnums), argnums)


def jvp(
    f: Callable[..., Any],
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """`(value, tangent)` of `f` at `primals` in the direction `tangents`; then aux, if any.

    The plans of the functions asked for last are kept.
    """
    if in_torch_func():
        return torch.func.jvp(f, primals, tangents, has_aux=has_aux)
    if transforms.current() is not None:
        return transforms.pushed(f, has_aux, (primals, tangents), {})
    return pushing(f, has_aux)(primals, tangents)


def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """`(value, pull)`, and aux with `has_aux`; `pull(cotangent)` is a tuple of cotangents, one for
    each primal.

    Outside a recording `pull` computes the value again, in one plan with its derivative. The plans
    of the functions asked for last are kept.
    """
    if in_torch_func():
        return torch.func.vjp(f, *primals, has_aux=has_aux)
    if transforms.current() is not None:
        return transforms.pullback(f, has_aux, primals, {})
    value, pulled = pulling(f, has_aux)
    returned = value(*primals)
    pull = functools.partial(pulled, primals)
    return (returned[0], pull, returned[1]) if has_aux else (returned, pull)


@functools.lru_cache(maxsize=KEPT)
def pushing(f: Callable[..., Any], has_aux: bool) -> Compiled:
    """The compiled tangents of a function."""
    return Compiled(functools.partial(push_at, f, has_aux), Options())


@functools.lru_cache(maxsize=KEPT)
def pulling(f: Callable[..., Any], has_aux: bool) -> tuple[Compiled, Compiled]:
    """A function and its cotangents, compiled."""
    return Compiled(f, Options()), Compiled(functools.partial(pull_at, f, has_aux), Options())


def push_at(f: Callable[..., Any], has_aux: bool, primals: Any, tangents: Any) -> Any:
    """The value and its tangent."""
    return transforms.pushed(f, has_aux, (primals, tangents), {})


def pull_at(f: Callable[..., Any], has_aux: bool, primals: Any, cotangents: Any) -> Any:
    """The cotangents of the primals."""
    return transforms.pullback(f, has_aux, tuple(primals), {})[1](cotangents)
