"""Compiled functions and lazytorch's derivatives inside torch.func's transforms, and those inside
compiled functions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import linalg

import lazytorch as lt

F64 = torch.float64
vmap, slope = torch.func.vmap, torch.func.grad

Function = Callable[[torch.Tensor], torch.Tensor]


def matrix(x: torch.Tensor) -> torch.Tensor:
    """A symmetric positive matrix."""
    return torch.outer(x, x) + torch.diag(x.abs() + 1)


FUNCTIONS: dict[str, Function] = {
    "elementwise": lambda x: (x * x).clamp_min(0.5).mean(),
    "inv": lambda x: linalg.inv(matrix(x)).square().sum(),
    "det": lambda x: linalg.det(matrix(x)),
    "slogdet": lambda x: linalg.slogdet(matrix(x))[1],
    "cholesky": lambda x: linalg.cholesky(matrix(x)).sum(),
    "solve": lambda x: linalg.solve(matrix(x), x).sum(),
    "pinv": lambda x: linalg.pinv(matrix(x)).sum(),
    "eigvalsh": lambda x: linalg.eigvalsh(matrix(x)).square().sum(),
}


def points() -> torch.Tensor:
    return torch.tensor([[-1.1, 0.6, 2.3], [0.4, -0.7, 1.2]], dtype=F64)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_batch_of_gradients(name: str) -> None:
    f = FUNCTIONS[name]
    expected = vmap(slope(f))(points())
    ways: list[Function] = [
        vmap(lt.grad(f)),
        vmap(slope(lt.compile(f))),
        vmap(lt.compile(lt.grad(f))),
        vmap(lt.jacrev(lt.compile(f))),
        lt.compile(vmap(lt.grad(f))),
        lt.compile(vmap(slope(f))),
        lt.grad(lambda x: vmap(f)(x).sum()),
        lt.grad(lambda x: vmap(lt.compile(f))(x).sum()),
    ]
    for way in ways:
        torch.testing.assert_close(way(points()), expected)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_batch_of_second_derivatives(name: str) -> None:
    f = FUNCTIONS[name]
    expected = vmap(torch.func.hessian(f))(points())
    for way in (vmap(lt.hessian(f)), lt.compile(vmap(torch.func.hessian(f)))):
        torch.testing.assert_close(way(points()), expected)


def test_a_plan_does_not_take_an_element_of_a_batch_for_a_tensor() -> None:
    compiled: Any = lt.compile(lambda x: (x * 2).sin())
    for _ in range(3):
        compiled(points()[0])
    torch.testing.assert_close(vmap(compiled)(points()), (points() * 2).sin())
    torch.testing.assert_close(
        slope(lambda x: compiled(x).sum())(points()), 2 * (points() * 2).cos()
    )


def test_what_a_function_holds_may_be_an_element_of_a_batch() -> None:
    def scaled(y: torch.Tensor) -> torch.Tensor:
        return lt.compile(lambda x: x * y)(torch.ones(3, dtype=F64))

    def pulled(y: torch.Tensor) -> torch.Tensor:
        return lt.grad(lambda x: (x * x * y).sum())(torch.ones(3, dtype=F64))

    torch.testing.assert_close(vmap(scaled)(points()), points())
    torch.testing.assert_close(vmap(pulled)(points()), 2 * points())
    torch.testing.assert_close(lt.compile(vmap(pulled))(points()), 2 * points())
