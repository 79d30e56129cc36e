"""`lt.jacrev`, `lt.jacfwd` and `lt.hessian` against torch.func: a batch of derivatives is recorded
under torch's batching, which meets operations as neither a model nor a gradient does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import linalg
from torch.nn import functional

import lazytorch as lt

F64 = torch.float64
ONES = torch.ones(3, dtype=F64)

Function = Callable[[torch.Tensor], torch.Tensor]

ELEMENTWISE: dict[str, Function] = {
    "add": lambda x: x + 2,
    "add with alpha": lambda x: torch.add(x, x * x, alpha=2),
    "rsub with alpha": lambda x: torch.rsub(x, 3, alpha=2),
    "a number by it": lambda x: 2 / x,
    "power": lambda x: x**3,
    "power of a number": lambda x: 2.0**x,
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_max": lambda x: x.clamp_max(0.1),
    "clamp": lambda x: x.clamp(-0.5, 1.0),
    "clamp between tensors": lambda x: (x * x).clamp(torch.tensor(-0.5, dtype=F64), ONES),
    "maximum": lambda x: torch.maximum(x * x, torch.tensor(0.3, dtype=F64)),
    "where": lambda x: torch.where(x > 0, x * x, 0.0),
    "lerp": lambda x: torch.lerp(x, x * x, 0.3),
    "addcdiv": lambda x: torch.addcdiv(x, x, x.abs() + 1, value=0.5),
    "fmod": lambda x: torch.fmod(x * x, 0.7),
    "sgn": lambda x: x.sgn() * x,
    "xlogy": lambda x: torch.xlogy(x.abs(), 2.0),
    "elu": functional.elu,
    "softplus": functional.softplus,
    "hardswish": functional.hardswish,
    "softshrink": functional.softshrink,
    "gelu": functional.gelu,
}
ROWS: dict[str, Function] = {
    "mean": lambda x: x.mean(),
    "mse_loss": lambda x: functional.mse_loss(x, x * x),
    "huber_loss": lambda x: functional.huber_loss(x, 0 * ONES, delta=0.5),
    "kl_div": lambda x: functional.kl_div(x, 0.3 * ONES, reduction="batchmean"),
    "std": lambda x: x.std(),
    "norm": lambda x: x.norm(),
    "third norm": lambda x: x.norm(3),
    "largest norm": lambda x: x.norm(float("inf")),
    "prod": lambda x: x.prod(),
    "cumprod": lambda x: x.cumprod(0),
    "amax": lambda x: x.amax(),
    "sort": lambda x: x.sort()[0] * x,
    "softmax": lambda x: x.softmax(0),
    "logsumexp": lambda x: x.logsumexp(0),
    "cosine_similarity": lambda x: functional.cosine_similarity(x, x * x, dim=0),
    "trapezoid": lambda x: torch.trapezoid(x * x),
    "quantile": lambda x: torch.quantile(x, 0.3),
    "write to a part": lambda x: written(x),
}


def written(x: torch.Tensor) -> torch.Tensor:
    """Constants, of which a part is written over by what varies."""
    made = torch.zeros(2, 3, dtype=F64)
    made.t()[1] = (x * x)[:2]
    return made.exp()


def matrix(x: torch.Tensor) -> torch.Tensor:
    """A symmetric positive matrix."""
    return torch.outer(x, x) + torch.diag(x.abs() + 1)


MATRICES: dict[str, Function] = {
    "inv": linalg.inv,
    "det": linalg.det,
    "slogdet": lambda a: linalg.slogdet(a)[1],
    "cholesky": linalg.cholesky,
    "solve": lambda a: linalg.solve(a, a[:1].T * 2),
    "solve_triangular": lambda a: linalg.solve_triangular(a, a * 2, upper=True),
    "cholesky_solve": lambda a: torch.cholesky_solve(a, linalg.cholesky(a)),
    "lu_solve": lambda a: linalg.lu_solve(*linalg.lu_factor(a), a),
    "lstsq": lambda a: linalg.lstsq(a, a[:1].T)[0],
    "pinv": linalg.pinv,
    "eigvalsh": linalg.eigvalsh,
    "eig": lambda a: linalg.eig(a)[0].real,
    "svdvals": linalg.svdvals,
    "qr": lambda a: linalg.qr(a)[1],
    "matrix_exp": linalg.matrix_exp,
    "matrix_power": lambda a: linalg.matrix_power(a, -2),
    "nuclear norm": lambda a: linalg.matrix_norm(a, "nuc"),
    "multi_dot": lambda a: linalg.multi_dot([a, a, a]),
}


def of_matrix(f: Function) -> Function:
    return lambda x: f(matrix(x))


FUNCTIONS = ELEMENTWISE | ROWS | {name: of_matrix(f) for name, f in MATRICES.items()}


def point() -> torch.Tensor:
    return torch.tensor([-1.1, 0.6, 2.3], dtype=F64)


@pytest.mark.parametrize("name", list(FUNCTIONS))
@pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "hessian"])
def test_jacobians_are_torch_funcs(name: str, transform: str) -> None:
    f = FUNCTIONS[name]
    taken: Function = (lambda x: f(x).square().sum()) if transform == "hessian" else f
    theirs: Any = getattr(torch.func, transform)(taken)
    ours: Any = getattr(lt, transform)(taken)
    torch.testing.assert_close(ours(point()), theirs(point()))


@pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "hessian"])
def test_a_number_that_changes(transform: str) -> None:
    def f(x: torch.Tensor, weight: float) -> torch.Tensor:
        return torch.lerp(x, x * x, weight).clamp_min(weight).mean()

    ours: Any = getattr(lt, transform)(f)
    for weight in (0.3, 0.5, 0.7):
        theirs = getattr(torch.func, transform)(f)(point(), weight)
        torch.testing.assert_close(ours(point(), weight), theirs)


def test_rows_through_an_operation_that_has_no_tangents() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(x[:, None], x[:, None] * 2 + 9)

    torch.testing.assert_close(lt.jacrev(f)(point()), torch.func.jacrev(f)(point()))
