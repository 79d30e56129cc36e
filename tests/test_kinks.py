"""First and second derivatives where formulas meet: kinks, ties, zeros. They are eager's."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

import lazytorch as lt

F64 = torch.float64
INF = float("inf")

Function = Callable[[torch.Tensor], torch.Tensor]


def point(*xs: float) -> torch.Tensor:
    return torch.tensor(xs, dtype=F64)


KINKS = point(-6, -3, -2, -1, -0.5, -0.0, 0, 0.5, 1, 2, 3, 6, 20, 20.1, 1000, 0.3)
NONE = torch.zeros_like(KINKS)

ELEMENTWISE: dict[str, Function] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hardtanh": functional.hardtanh,
    "hardswish": functional.hardswish,
    "leaky_relu": functional.leaky_relu,
    "threshold": lambda x: functional.threshold(x, 0.5, 20.0),
    "softshrink": functional.softshrink,
    "hardshrink": functional.hardshrink,
    "softplus": functional.softplus,
    "softplus with a low threshold": lambda x: functional.softplus(x, 2, 1),
    "elu": functional.elu,
    "elu in place": lambda x: functional.elu_(x * 1),
    "elu that falls": lambda x: functional.elu(x, -0.5),
    "selu": functional.selu,
    "celu": lambda x: functional.celu(x, 2.0),
    "prelu": lambda x: functional.prelu(x, point(0.2)),
    "abs": torch.abs,
    "sign": lambda x: x.sign() * x,
    "clamp": lambda x: x.clamp(0, 1),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp between tensors": lambda x: x.clamp(point(0), point(2)),
    "clamp by it": lambda x: KINKS.clamp(x, x + 1),
    "maximum": lambda x: torch.maximum(x, x * x),
    "minimum": lambda x: torch.minimum(x, KINKS),
    "fmax": lambda x: torch.fmax(x, x * x),
    "where": lambda x: torch.where(x > 0, x, x * x),
    "huber_loss": lambda x: functional.huber_loss(x, NONE, delta=0.5),
    "huber_loss of a target": lambda x: functional.huber_loss(NONE, x),
    "smooth_l1_loss": lambda x: functional.smooth_l1_loss(x, NONE, beta=0.5),
    "smooth_l1_loss of a target": lambda x: functional.smooth_l1_loss(NONE, x, reduction="sum"),
    "smooth_l1_loss without a bend": lambda x: functional.smooth_l1_loss(x, NONE, beta=0.0),
    "l1_loss": lambda x: functional.l1_loss(x, NONE),
    "hinge": lambda x: functional.hinge_embedding_loss(x, torch.ones_like(KINKS) * -1),
}
POINTS: dict[str, tuple[Function, torch.Tensor]] = {
    "largest of a tie": (lambda x: x.amax(), point(1, 2, 2, -1)),
    "one of a tie": (lambda x: x.max(0)[0], point(1, 2, 2, -1)),
    "largest of all": (lambda x: x.max(), point(1, 2, 2, -1)),
    "median of a tie": (lambda x: x.median(), point(1, 2, 2, -1)),
    "cummax of ties": (lambda x: x.cummax(0)[0] * KINKS[:4], point(1, 2, 2, 1)),
    "norm of zero": (lambda x: x.norm(), point(0, 0, 0)),
    "norm of absolute values": (lambda x: x.norm(1), point(0, 1, -1)),
    "third norm": (lambda x: x.norm(3), point(0, 0, 1)),
    "largest norm": (lambda x: x.norm(INF), point(1, -1, 0.5)),
    "sqrt of zero": (torch.sqrt, point(0, 1)),
    "square of zero": (lambda x: x**2, point(0, -1, 1)),
    "powers of zero": (lambda x: x ** point(0, 1, 2, 0.5), point(0, 0, 0, 0)),
    "zero to its power": (lambda x: x**x, point(0, 1, 2)),
    "one zero in a product": (lambda x: x.prod(), point(0, 2, 3)),
    "two zeros in a product": (lambda x: x.prod(), point(0, 0, 3)),
    "a zero in products": (lambda x: x.cumprod(0) * KINKS[:4], point(1, 0, 2, 3)),
    "zeros in products": (lambda x: x.cumprod(0) * KINKS[:4], point(0, 1, 0, 3)),
    "no deviation": (lambda x: x.std(), point(1, 1, 1)),
    "no variance": (lambda x: x.var(), point(1, 1, 1)),
}
CASES = {name: (f, KINKS) for name, f in ELEMENTWISE.items()} | POINTS


@pytest.mark.parametrize("name", list(CASES))
def test_derivatives_where_formulas_meet(name: str) -> None:
    f, x = CASES[name]
    weights = torch.linspace(0.5, 1.5, x.numel(), dtype=F64)

    def slope(x: torch.Tensor) -> torch.Tensor:
        return (lt.grad(lambda y: f(y).sum())(x) * weights).sum()

    y = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(y).sum(), y, create_graph=True)
    torch.testing.assert_close(lt.grad(lambda y: f(y).sum())(x), first.detach(), equal_nan=True)
    second = torch.zeros_like(x)
    if first.requires_grad:
        found = torch.autograd.grad((first * weights).sum(), y, materialize_grads=True)
        second = found[0]
    torch.testing.assert_close(lt.grad(slope)(x), second, equal_nan=True)
