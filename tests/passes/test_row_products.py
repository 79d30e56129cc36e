"""`row_products`: a matrix times one vector as sums along rows, with what follows."""

# ruff: noqa: E501  golden text is as wide as it is

from collections.abc import Callable

import pytest
import torch
from check import Check
from torch import nn
from torch.nn import functional

import lazytorch as lt
from lazytorch.passes import row_products


def test_one_row_and_what_follows_are_of_a_column(check: Check) -> None:
    check(
        row_products,
        """
        graph(%x: f32[1, 64], %w: f32[32, 64], %b: f32[32], %y: f32[1, 32]) {
          %0 = linear %x %w %b
          %1 = relu %0
          %2 = add %1 %y
          %3 = reshape{shape=(1, 4, 8)} %2
          %4 = mul %3 0.5
          return %4
        }
        """,
        """
        graph(%x: f32[1, 64], %w: f32[32, 64], %b: f32[32], %y: f32[1, 32]) {
          %0: f32[64] = reshape{shape=(64,)} %x
          %1: f32[32, 1] = reshape{shape=(32, 1)} %b
          %2: f32[32, 1] = row_dots %w %0 %1
          %3: f32[32, 1] = relu %2
          %4: f32[32, 1] = reshape{shape=(32, 1)} %y
          %5: f32[32, 1] = add %3 %4
          %6: f32[32, 1] = mul %5 0.5
          %7: f32[1, 4, 8] = reshape{shape=(1, 4, 8)} %6
          return %7
        }
        """,
        close=1e-4,
    )


def test_one_column_is_of_the_rows_of_what_it_multiplies(check: Check) -> None:
    check(
        row_products,
        """
        graph(%x: f32[8, 3, 64], %w: f32[1, 64], %b: f32[1]) {
          %0 = linear %x %w %b
          %1 = sigmoid %0
          return %1
        }
        """,
        """
        graph(%x: f32[8, 3, 64], %w: f32[1, 64], %b: f32[1]) {
          %0: f32[24, 64] = reshape{shape=(24, 64)} %x
          %1: f32[64] = reshape{shape=(64,)} %w
          %2: f32[1, 1] = reshape{shape=(1, 1)} %b
          %3: f32[24, 1] = row_dots %0 %1 %2
          %4: f32[24, 1] = sigmoid %3
          %5: f32[8, 3, 1] = reshape{shape=(8, 3, 1)} %4
          return %5
        }
        """,
        close=1e-4,
    )


def test_a_matrix_whose_columns_are_rows_in_memory_is_read_across(check: Check) -> None:
    check(
        row_products,
        """
        graph(%x: bf16[1, 64], %w: bf16[64, 128], %b: bf16[128]) {
          %0 = addmm %b %x %w
          return %0
        }
        """,
        """
        graph(%x: bf16[1, 64], %w: bf16[64, 128], %b: bf16[128]) {
          %0: bf16[128, 64]{1, 128} = permute{perm=(1, 0)} %w
          %1: bf16[64] = reshape{shape=(64,)} %x
          %2: bf16[128, 1] = reshape{shape=(128, 1)} %b
          %3: bf16[128, 1] = row_dots %0 %1 %2
          %4: bf16[1, 128] = reshape{shape=(1, 128)} %3
          return %4
        }
        """,
        close=2e-1,
    )


@pytest.mark.parametrize(
    "text",
    [
        "graph(%x: f32[2, 64], %w: f32[32, 64]) { %0 = linear %x %w return %0 }",
        "graph(%x: f32[1, 31], %w: f32[33, 31]) { %0 = linear %x %w return %0 }",
        "graph(%x: i64[1, 64], %w: i64[64, 32]) { %0 = mm %x %w return %0 }",
        "graph(%x: bf16[1, 64], %w: bf16[32, 64]) { %0 = linear %x %w return %0 }",
        "graph(%x: f16[1, 4096], %w: f16[4096, 4096]) { %0 = linear %x %w return %0 }",
        "graph(%x: f32[1, 64], %w: f32[32, 64]{192, 3}) { %0 = linear %x %w return %0 }",
        "graph(%x: f32[1, 64], %w: f32[64, 32], %b: f32[1, 32]) { %0 = addmm{beta=2} %b %x %w return %0 }",
        "graph(%x: f32[1, 64] state, %w: f32[32, 64] state) { %0 = linear %x %w return %0 }",
        "graph(%x: f32[1, 0], %w: f32[32, 0]) { %0 = linear %x %w return %0 }",
        "graph(%x: f32[0, 64], %w: f32[1, 64]) { %0 = linear %x %w return %0 }",
    ],
    ids=[
        "two rows", "small", "integers", "16 bits in the cache", "float16", "holes between elements",
        "a scaled base", "the prologue's", "no columns", "no rows",
    ],
)  # fmt: skip
def test_row_products_decline(check: Check, text: str) -> None:
    check.declines(row_products, text)


def test_what_is_turned_is_no_column(check: Check) -> None:
    """A view that changes the order of the numbers ends the chain."""
    check(
        row_products,
        """
        graph(%x: f32[1, 64], %w: f32[32, 64]) {
          %0 = linear %x %w
          %1 = reshape{shape=(4, 8)} %0
          %2 = permute{perm=(1, 0)} %1
          %3 = exp %2
          return %3
        }
        """,
        """
        graph(%x: f32[1, 64], %w: f32[32, 64]) {
          %0: f32[64] = reshape{shape=(64,)} %x
          %1: f32[32, 1] = row_dots %w %0
          %2: f32[4, 8] = reshape{shape=(4, 8)} %1
          %3: f32[8, 4]{1, 8} = permute{perm=(1, 0)} %2
          %4: f32[8, 4]{1, 8} = exp %3
          return %4
        }
        """,
        close=1e-4,
    )


CALLS: dict[str, Callable[..., torch.Tensor]] = {
    "linear": lambda x, w, b: functional.linear(x, w, b),
    "linear and gelu": lambda x, w, b: functional.gelu(functional.linear(x, w, b)),
    "columns": lambda x, w, b: torch.addmm(b, x, w.t().contiguous().clone()).tanh() * 2,
    "a vector": lambda x, w, b: (w @ x[0] + b).relu(),
    "one column": lambda x, w, b: functional.linear(w, x).squeeze(-1) + b,
    "a scaled one": lambda x, w, b: torch.addmm(b, x, w.t(), alpha=0.5),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("into", "out"), [(64, 64), (8, 129), (1000, 67), (257, 1031), (1024, 4096)]
)
@pytest.mark.parametrize("name", CALLS)
def test_it_is_as_exact_as_eager(name: str, into: int, out: int, dtype: torch.dtype) -> None:
    x, w, b = torch.randn(1, into), torch.randn(out, into) / into**0.5, torch.randn(out)
    x, w, b = x.to(dtype), w.to(dtype), b.to(dtype)
    compiled = lt.compile(CALLS[name], wait=True)
    found, eager = compiled(x, w, b), CALLS[name](x, w, b)
    true = CALLS[name](x.double(), w.double(), b.double())
    assert found.dtype == dtype and found.shape == eager.shape
    if dtype.itemsize > 2 and name != "a scaled one":
        assert "row_dots" in compiled.source()
    if dtype is torch.float64:
        torch.testing.assert_close(found, true)
    else:
        assert (found - true).abs().max() <= 2 * (eager - true).abs().max() + 1e-7


def test_what_is_not_finite_stays_so() -> None:
    x, w, b = torch.randn(1, 64), torch.randn(33, 64), torch.randn(33)
    w[3, 5], w[4, 6], w[5, 7], b[6] = float("nan"), float("inf"), float("-inf"), float("nan")

    def call(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, w, b) * 2

    compiled = lt.compile(call, wait=True)
    found = compiled(x, w, b)
    torch.testing.assert_close(found, call(x, w, b), equal_nan=True, rtol=1e-4, atol=1e-5)
    assert "row_dots" in compiled.source()


class Excited(nn.Module):
    """Channels weighed by what two convolutions make of their means."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 72, 3, padding=1)
        self.down, self.up = nn.Conv2d(72, 24, 1), nn.Conv2d(24, 72, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return x * functional.hardsigmoid(self.up(self.down(x.mean((2, 3), keepdim=True)).relu()))


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_channels_are_weighed_by_two_kernels(freeze: bool, last: bool) -> None:
    net = Excited().eval()
    x = torch.randn(1, 3, 12, 11)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    compiled = lt.compile(net, wait=True, freeze=freeze)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
        assert compiled(x).stride() == net(x).stride()
    source = compiled.source()
    assert "row_dots_relu" in source.replace("add_", "") and "row_dots_hardsigmoid" in source


def test_a_training_step_of_one_row_gets_eagers_gradients() -> None:
    net = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 1))
    x = torch.randn(1, 64)

    def loss(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(net, weights, (x,)).square().sum()

    weights = {k: v.detach() for k, v in net.named_parameters()}
    compiled = lt.compile(lt.grad(loss), wait=True)
    found = compiled(weights, x)
    assert "row_dots" in compiled.source()
    want = torch.func.grad(loss)(weights, x)
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
