"""`lt.jvp` against torch's forward mode: a choice of torch's operator database, points where a
derivative of a derivative is not a number, and operations that have none."""

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional

import lazytorch as lt

pytest.importorskip("expecttest", reason="torch's operator database imports it")

import op_db

F64 = torch.float64
PART = 4  # of the operations: each test takes every fourth, and together they take them all
SAMPLES = 3


def direction(i: int, x: torch.Tensor) -> torch.Tensor:
    """A tangent of a case's i-th tensor."""
    angle = torch.arange(x.numel(), dtype=F64) * 1.3 + i + 0.2
    made = torch.complex(angle.sin() + 0.3, angle.cos()) if x.is_complex() else angle.sin() + 0.3
    return made.to(x.dtype).reshape(x.shape)


def moves(y: Any) -> bool:
    return isinstance(y, torch.Tensor) and (y.is_floating_point() or y.is_complex())


def eager(case: op_db.Case, values: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """The tangents of the floating results by torch's forward mode."""
    torch.manual_seed(op_db.SEED)
    with forward_ad.dual_level(), torch.no_grad():
        given = [
            forward_ad.make_dual(op_db.fresh(x), direction(i, x)) if i in case.variables else x
            for i, x in enumerate(values)
        ]
        results = [y for y in case.results(given) if moves(y)]
        found = [forward_ad.unpack_dual(y).tangent for y in results]
        return [None if t is None else t.clone() for t in found]


def ours(case: op_db.Case, values: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same by `lt.jvp`."""

    def pushed(*tensors: Any) -> Any:
        def results(*xs: Any) -> Any:
            given = list(tensors)
            for i, x in zip(case.variables, xs, strict=True):
                given[i] = x
            return [y for y in case.results(given) if moves(y)]

        along = tuple([direction(i, values[i]) for i in case.variables])
        return lt.jvp(results, tuple([tensors[i] for i in case.variables]), along)[1]

    return op_db.Plan(pushed, values)(values)


def verdict(case: op_db.Case) -> str:
    """What is wrong with one sample, if anything is; values that torch cannot push are skipped."""
    values = [op_db.fresh(x) for x in case.tensors]
    try:
        theirs = eager(case, values)
    except Exception:
        return ""
    try:
        found = ours(case, values)
    except lt.errors.LazyTorchError as error:  # pyright: ignore[reportAttributeAccessIssue]
        return op_db.brief(error)
    for a, t in zip(found, theirs, strict=True):
        b = torch.zeros_like(a) if t is None else t
        if a.shape != b.shape or not torch.allclose(a, b, 1e-6, 1e-8, equal_nan=True):
            return f"wrong: {a} is not {b}"
    return ""


REFUSED = {
    "tensor_split": "values of a tensor",
    "nn.functional.batch_norm": "at least 2 dimensions",
}
"""What is not recorded at all."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("part", range(PART))
def test_tangents_are_torchs(part: int) -> None:
    wrong: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for op in [x for x in op_db.operations() if x.supports_forward_ad][part::PART]:
            cases = list(op_db.cases(op, F64))
            name = op_db.called(op)
            for case in random.Random(name).sample(cases, min(SAMPLES, len(cases))):
                said = verdict(case)
                if said and not (name in REFUSED and REFUSED[name] in said):
                    wrong.append(f"{name}: {said}")
    assert not wrong


def point(*xs: float) -> torch.Tensor:
    return torch.tensor(xs, dtype=F64)


INF = float("inf")
POINTS: dict[str, tuple[Callable[..., torch.Tensor], torch.Tensor]] = {
    "a norm of zero": (lambda x: x.norm(), point(0, 0)),
    "no deviation": (lambda x: x.std(), point(1, 1)),
    "no deviation, with a mean": (lambda x: torch.std_mean(x)[0], point(1, 1)),
    "zero to the power of zero": (lambda x: x ** point(0, 2), point(0, 0)),
    "elu": (functional.elu, point(1000, -1000, 0)),
    "celu": (functional.celu, point(1000, -1000, 0)),
    "selu": (functional.selu, point(1000, -1000, 0)),
    "softplus": (functional.softplus, point(1000, -1000, 0)),
    "mish": (functional.mish, point(1000, -1000, 0)),
    "gelu": (functional.gelu, point(1000, -1000, 0)),
    "sinc": (torch.sinc, point(0, 1)),
    "clamp": (lambda x: x.clamp(0, 1), point(0, 1, 2)),
    "two largest": (lambda x: x.amax(), point(1, 1)),
    "two zeros": (lambda x: x.prod(), point(0, 0, 2)),
    "logcumsumexp": (lambda x: torch.logcumsumexp(x, 0), point(-INF, 1000)),
    "certain": (lambda x: functional.binary_cross_entropy(x, point(0, 1)), point(0, 1)),
}


@pytest.mark.parametrize("name", list(POINTS))
def test_tangents_at_points_where_formulas_meet(name: str) -> None:
    f, x = POINTS[name]
    along = torch.full_like(x, 1.5)
    torch.testing.assert_close(lt.jvp(f, (x,), (along,)), torch.func.jvp(f, (x,), (along,)))


def scattered(x: torch.Tensor) -> torch.Tensor:
    return torch.as_strided_scatter(x.sin(), x[:3] ** 2, (3,), (1,), 1)


def filled(x: torch.Tensor) -> torch.Tensor:
    return x.exp().index_fill(0, torch.tensor([1, 3]), 2.0)


def spectrum(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(torch.fft.rfft(x)).square().sum(-1)


def waves(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(torch.view_as_complex(x.reshape(-1, 2)).tanh().sigmoid()).reshape(-1)


def diagonal(x: torch.Tensor) -> torch.Tensor:
    return torch.trace(x.outer(x).exp()).reshape(1)


FUNCTIONS = [scattered, filled, spectrum, waves, diagonal]


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_what_torch_pushes_forward_alone(f: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x, along = torch.randn(6, dtype=F64), torch.randn(6, dtype=F64)
    for _ in range(2):  # recorded, then replayed
        torch.testing.assert_close(lt.jvp(f, (x,), (along,)), torch.func.jvp(f, (x,), (along,)))
        if f not in (scattered, waves):  # torch cannot batch a scatter, nor conjugates
            torch.testing.assert_close(lt.jacfwd(f)(x), torch.func.jacfwd(f)(x))
        x, along = torch.randn(6, dtype=F64), torch.randn(6, dtype=F64)


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_tangents_of_tangents_and_gradients(f: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x, along = torch.randn(6, dtype=F64), torch.randn(6, dtype=F64)

    def once(jvp: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda y: jvp(f, (y,), (along,))[1]

    found = lt.jvp(once(lt.jvp), (x,), (along,))[1]
    want = torch.func.jvp(once(torch.func.jvp), (x,), (along,))[1]
    torch.testing.assert_close(found, want)
    if f is not filled:  # whose reverse formula looks at values
        slope = lt.grad(lambda y: once(lt.jvp)(y).sum())(x)
        torch.testing.assert_close(
            slope, torch.func.grad(lambda y: once(torch.func.jvp)(y).sum())(x)
        )


@pytest.mark.parametrize("f", [torch.tanh, torch.sigmoid], ids=lambda f: f.__name__)
def test_gradients_through_complex_numbers(f: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def real(x: torch.Tensor) -> torch.Tensor:
        return (f(torch.view_as_complex(x)) * (1 + 2j)).real.sum()

    x = torch.randn(3, 2, dtype=F64)
    torch.testing.assert_close(lt.grad(real)(x), torch.func.grad(real)(x))


class Doubled(torch.autograd.Function):
    """A straight-through estimator: a user's backward that is not that of the forward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return g * 2


def test_a_users_backward_is_pushed_by_its_transpose() -> None:
    x, along = torch.randn(4, dtype=F64), torch.randn(4, dtype=F64)
    moved = lt.jvp(lambda y: Doubled.apply(y.sin()), (x,), (along,))[1]
    torch.testing.assert_close(moved, 2 * x.cos() * along)


def test_dropout_moves_by_the_mask_it_drew() -> None:
    x, along = torch.ones(1000, dtype=F64), torch.full((1000,), 3.0, dtype=F64)
    value, moved = lt.jvp(lambda y: functional.dropout(y, 0.5), (x,), (along,))
    torch.testing.assert_close(moved, value * 3)
    assert 0 < int((value == 0).sum()) < 1000


def test_mixed_dtypes_and_shapes() -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x[:, None] * y + y.exp() / x[:, None]).double().logsumexp(0)

    xs = torch.rand(3) + 1, torch.rand(1, 4, dtype=torch.float16)
    along = torch.rand(3), torch.rand(1, 4, dtype=torch.float16)
    torch.testing.assert_close(
        lt.jvp(f, xs, along), torch.func.jvp(f, xs, along), rtol=2e-3, atol=2e-3
    )
