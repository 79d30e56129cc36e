"""`lt.grad` and its kin against torch.func, nested, compiled and inside recordings."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.passes import REWRITES, optimize

F64 = torch.float64


def f(x: torch.Tensor) -> torch.Tensor:
    return (x.sin() * x.roll(1)).sum() + x.prod()


def vector(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x.sin() * x.sum(), x.exp()])


def point() -> torch.Tensor:
    return torch.randn(5, dtype=F64)


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


TRANSFORMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "grad": (lt.grad(f), torch.func.grad(f)),
    "grad of grad": (
        lt.grad(lambda x: lt.grad(f)(x).square().sum()),
        torch.func.grad(lambda x: torch.func.grad(f)(x).square().sum()),
    ),
    "third derivative": (
        lt.grad(lambda x: lt.grad(lambda y: lt.grad(f)(y).square().sum())(x).square().sum()),
        torch.func.grad(
            lambda x: (
                torch.func.grad(lambda y: torch.func.grad(f)(y).square().sum())(x).square().sum()
            )
        ),
    ),
    "jacrev": (lt.jacrev(vector), torch.func.jacrev(vector)),
    "jacfwd": (lt.jacfwd(vector), torch.func.jacfwd(vector)),
    "hessian": (lt.hessian(f), torch.func.hessian(f)),
    "vmap": (torch.func.vmap(lt.grad(lambda x: x.sin().sum())), torch.cos),
    "jvp": (
        lambda x: lt.jvp(vector, (x,), (x.cos(),)),
        lambda x: torch.func.jvp(vector, (x,), (x.cos(),)),
    ),
    "vjp": (
        lambda x: lt.vjp(f, x)[1](torch.tensor(2.0, dtype=F64)),
        lambda x: torch.func.vjp(f, x)[1](torch.tensor(2.0, dtype=F64)),
    ),
}


@pytest.mark.parametrize("name", list(TRANSFORMS))
@pytest.mark.parametrize("compiled", [False, True])
def test_transform_is_torch_funcs(name: str, compiled: bool) -> None:
    ours, theirs = TRANSFORMS[name]
    if compiled:
        ours = lt.compile(ours)
    for _ in range(3):  # other values each time: nothing of the first call is baked in
        x = point()
        close(ours(x), theirs(x))


def test_inner_derivatives_do_not_mix_with_outer_ones() -> None:
    # d/dx (x * d/dy (x + y)) = 1, not 2: Siskind and Pearlmutter (2005), perturbation confusion.
    one = lt.grad(lambda x: x * lt.grad(lambda y: x + y)(x))
    close(one(torch.tensor(3.0, dtype=F64)), torch.tensor(1.0, dtype=F64))


def test_argnums_trees_and_aux() -> None:
    def loss(p: dict[str, torch.Tensor], x: torch.Tensor, scale: float) -> Any:
        y = (x @ p["w"] + p["b"]).square().mean() * scale
        return y, {"scaled": y * 2}

    p = {"w": torch.randn(3, 2, dtype=F64), "b": torch.randn(2, dtype=F64)}
    x = torch.randn(4, 3, dtype=F64)
    for argnums in (0, (0, 1), -2):
        ours = lt.value_and_grad(loss, argnums, has_aux=True)(p, x, 0.5)
        found, value = torch.func.grad_and_value(
            loss, argnums if argnums != -2 else 1, has_aux=True
        )(p, x, 0.5)
        close(ours, (value, found))


def test_functional_call_by_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def loss(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, p, (x,)).square().mean()

    p = {k: v.detach() for k, v in model.named_parameters()}
    x = torch.randn(7, 3, dtype=F64)
    close(lt.grad(loss)(p, x), torch.func.grad(loss)(p, x))


def test_unused_argument_has_an_explicit_zero() -> None:
    x, y = point(), point()
    close(lt.grad(lambda x, y: x.sum(), (0, 1))(x, y), (torch.ones_like(x), torch.zeros_like(y)))


def test_no_grad_inside_stops_and_outside_does_not() -> None:
    def stopped(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            shift = x.square()
        return (x * shift).sum()

    x = point()
    with torch.no_grad():
        close(lt.grad(stopped)(x), x.square())


def test_refusals_name_what_is_wrong() -> None:
    x = point()
    with pytest.raises(lt.errors.LazyTorchError, match="one real scalar"):
        lt.grad(lambda x: x * 2)(x)
    with pytest.raises(lt.errors.LazyTorchError, match="floating tensors only"):
        lt.grad(lambda x: x.sum())(torch.arange(3))
    with pytest.raises(lt.errors.LazyTorchError, match="argnums 1"):
        lt.grad(lambda x: x.sum(), 1)(x)
    with pytest.raises(lt.errors.LazyTorchError, match="writes in place"):
        lt.grad(lambda x: x.mul_(2).sum())(x)


def test_autograd_grad_inside_a_compiled_function() -> None:
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def residual(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        u = model(x)
        (g,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (h,) = torch.autograd.grad(g[:, 0].sum(), x, create_graph=True)
        return (g[:, 1] - 0.1 * h[:, 0]).square().mean()

    fast = lt.compile(residual)
    parameters = list(model.parameters())
    for _ in range(2):
        x = torch.randn(16, 2, dtype=F64)
        y, z = fast(x), residual(x)
        close(y, z)
        ours = torch.autograd.grad(y, parameters, allow_unused=True)
        close(ours, torch.autograd.grad(z, parameters, allow_unused=True))


def test_autograd_grad_inside_says_what_torch_says() -> None:
    def unused(x: torch.Tensor) -> torch.Tensor:
        x, y = x.detach().requires_grad_(), x.detach().requires_grad_()
        return torch.autograd.grad(x.sum(), y)[0]

    with pytest.raises(RuntimeError, match="appears to not have been used"):
        lt.compile(unused)(point())


def test_plans_of_jvp_and_vjp_are_kept() -> None:
    before = {id(x) for x in lt.Compiled.alive}

    def once(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    for _ in range(3):
        x = point()
        close(lt.jvp(once, (x,), (x,)), (x.sin(), x.cos() * x))
        close(lt.vjp(once, x)[1](x), (x.cos() * x,))
    made = [x for x in lt.Compiled.alive if id(x) not in before]
    assert len(made) == 3
    assert all(len(x.programs()) == 1 for x in made)


@pytest.mark.parametrize("activation", [torch.tanh, torch.nn.functional.gelu])
def test_a_tangent_costs_the_products_of_a_forward_pass(activation: Any) -> None:
    weights = [torch.randn(8, 8) for _ in range(4)]
    x = torch.randn(3, 8)

    def mlp(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        for w in weights[:-1]:
            x = activation(x @ w)
        return x @ weights[-1]

    def products(*primals: torch.Tensor) -> tuple[int, int]:
        def moved(*along: torch.Tensor) -> Any:
            rest = weights[len(primals) - 1 :]
            return lt.jvp(lambda *p: mlp(*p, *rest), primals, along)

        graph = lt.trace(moved, *[torch.randn_like(p) for p in primals])
        names = [n.op.name() for n in optimize(graph, REWRITES).nodes]
        return names.count("matmul") + names.count("mm"), names.count(activation.__name__)

    assert products(x) == (8, 3)  # one more for each product, as by hand
    assert products(x, *weights) == (12, 3)  # two more: both operands move
