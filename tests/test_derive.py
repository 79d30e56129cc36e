"""Rules recorded from torch's formulas: what they take from a forward, and what they refuse."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

import lazytorch as lt
from lazytorch.ops.create import Full
from lazytorch.types import TensorType

F64 = torch.float64


def twice(f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    """First and second derivatives are eager's."""

    def slope(x: torch.Tensor) -> torch.Tensor:
        return (lt.grad(f)(x) * weights).sum()

    weights = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype).reshape(x.shape)
    y = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(y), y, create_graph=True)
    (second,) = torch.autograd.grad((first * weights).sum(), y)
    torch.testing.assert_close(lt.grad(f)(x), first.detach())
    torch.testing.assert_close(lt.grad(slope)(x), second)


def test_a_factorization_that_a_formula_reuses_has_derivatives_too() -> None:
    a = torch.randn(4, 4, dtype=F64) + 4 * torch.eye(4, dtype=F64)
    twice(lambda a: torch.linalg.solve(a, torch.arange(4.0, dtype=F64)).square().sum(), a)


def test_saved_constants_of_a_kernel_stay_constants() -> None:
    # The weights' total is a result of the loss's kernel that torch never differentiates.
    target = torch.tensor([0, 2, 1])
    twice(lambda x: functional.nll_loss(x.log_softmax(1), target), torch.randn(3, 4, dtype=F64))


def test_a_write_under_no_grad_keeps_the_history() -> None:
    def clamped(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        with torch.no_grad():
            y.clamp_(min=0.5)
        return (x / y).sum() + (y * y * y).sum()

    twice(clamped, torch.tensor([0.2, 0.9], dtype=F64))


def test_a_write_into_constants_has_the_value_s_history() -> None:
    def written(x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(3, 3, dtype=F64)
        y.as_strided((3,), (4,)).copy_(x * x)
        return (y * y).sum()

    twice(written, torch.tensor([0.2, 0.9, -1.0], dtype=F64))


def test_a_value_that_python_looks_at() -> None:
    def branching(x: torch.Tensor) -> torch.Tensor:
        y = x.sin()
        return (y * y if y.sum() > 0 else y * y * y).sum()

    slope = lt.grad(branching)
    for x in (torch.tensor([0.1, 0.2]), torch.tensor([-0.1, -0.2]), torch.tensor([0.3, 0.1])):
        y = x.clone().requires_grad_()
        torch.testing.assert_close(slope(x), torch.autograd.grad(branching(y), y)[0])


def test_an_operation_whose_size_depends_on_values() -> None:
    def chosen(x: torch.Tensor) -> torch.Tensor:
        y = torch.masked_select(x * x, x > 0)
        return (y * y[:1]).sum() if y.numel() > 1 else y.sum()

    slope = lt.grad(chosen)
    for x in (torch.tensor([0.5, -1, 2]), torch.tensor([-1.0, 3, -2]), torch.tensor([1.0, 2, 3])):
        y = x.clone().requires_grad_()
        torch.testing.assert_close(slope(x), torch.autograd.grad(chosen(y), y)[0])
    twice(lambda x: x[x > 0].square().prod(), torch.tensor([0.5, -1, 2], dtype=F64))


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (3, 1), (2, 1, 4), (2, 3, 4), (2, 3, 1)])
def test_values_put_where_a_mask_says_so(shape: tuple[int, ...]) -> None:
    mask = torch.tensor([[True, False], [True, True]])

    def written(value: torch.Tensor) -> torch.Tensor:
        y = torch.arange(32, dtype=F64).reshape(2, 2, 2, 4).cos()
        y[:, mask] = value.sin()
        return (y * y * y).sum()

    x = torch.randn(shape, dtype=F64)
    twice(written, x)


def test_least_squares_and_its_residuals() -> None:
    b = torch.randn(5, 2, dtype=F64)

    def fit(a: torch.Tensor) -> torch.Tensor:
        found = torch.linalg.lstsq(a, b, driver="gelsd")
        return found.solution.square().sum() + found.residuals.sum()

    twice(fit, torch.randn(5, 3, dtype=F64))


def test_values_outside_the_graph_have_no_derivative() -> None:
    outside = lt.disable(lambda x: x.square())
    with pytest.raises(lt.errors.LazyTorchError, match="outside the graph"):
        lt.grad(lambda x: outside(x * x).sum())(torch.randn(3))


def test_a_formula_that_looks_at_values_only_for_a_second_derivative() -> None:
    index = torch.tensor([0, 1, 0])

    def product(x: torch.Tensor) -> torch.Tensor:
        return torch.ones(2, dtype=F64).scatter_reduce(0, index, x, "prod").square().sum()

    x = torch.tensor([2.0, -1, 3], dtype=F64)
    y = x.clone().requires_grad_()
    torch.testing.assert_close(lt.grad(product)(x), torch.autograd.grad(product(y), y)[0])
    with pytest.raises(lt.errors.LazyTorchError, match="needs a value"):
        lt.grad(lambda x: lt.grad(product)(x).square().sum())(x)


def test_the_conjugate_of_a_number() -> None:
    def turned(x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.polar(x, x * x) * 2j)[..., 0].sin().sum()

    twice(turned, torch.tensor([0.5, 1.5], dtype=F64))


def test_a_norm_of_zero_has_a_first_derivative_and_no_second() -> None:
    x = torch.zeros(3, dtype=F64)
    assert torch.equal(lt.grad(torch.linalg.vector_norm)(x), x)
    second = lt.grad(lambda x: lt.grad(torch.linalg.vector_norm)(x).sum())(x)
    assert bool(second.isnan().all())


def test_a_gradient_past_a_cut_is_refused() -> None:
    def cut(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        y = x * x
        if y.sum() > 100:
            return y
        return torch.autograd.grad((y + x).sum(), x)[0]

    with pytest.raises(lt.errors.LazyTorchError, match="reaches back"):
        lt.compile(cut)(torch.ones(3))


def test_a_draw_that_no_result_tells_is_refused() -> None:
    layers = torch.nn.LSTM(3, 4, 2, dropout=0.5)

    def recurrent(x: torch.Tensor) -> torch.Tensor:
        return layers(x)[0].sum()

    with pytest.raises(lt.errors.LazyTorchError, match="random numbers"):
        lt.grad(recurrent)(torch.randn(5, 2, 3))


def test_zeros_of_a_formula_have_memory_that_a_kernel_reads() -> None:
    x = torch.tensor([0.5, -1.5, 0.0], dtype=F64)
    graph = lt.trace(lt.jacrev(lambda x: x.sgn() * x), x)
    made = [node.op for node in graph.nodes if node.type == TensorType((3,), F64, x.device, (1,))]
    assert Full((3,), 0.0, F64) in made
    assert not any("zerotensor" in str(getattr(op, "overload", "")) for op in made)
