"""`activations`: what is written out in arithmetic becomes gelu or silu."""

import pytest
import torch
from check import Check, assert_same_values
from torch import nn

import lazytorch as lt
from lazytorch.passes import activations, cse, optimize, simplify
from lazytorch.text import parse
from lazytorch.verify import verify


def test_activations_finds_the_tanh_form_of_gelu(check: Check) -> None:
    check(
        activations,
        """
        graph(%x: f32[3, 4]) {
          %0 = mul 0.5 %x
          %1 = pow %x 3.0
          %2 = mul 0.044715 %1
          %3 = add %x %2
          %4 = mul 0.7978845608028654 %3
          %5 = tanh %4
          %6 = add 1.0 %5
          %7 = mul %0 %6
          return %7
        }
        """,
        """
        graph(%x: f32[3, 4]) {
          %0: f32[3, 4] = gelu{approximate="tanh"} %x
          return %0
        }
        """,
        close=1e-5,
    )


def spelled(formula: str) -> torch.nn.Module:
    """A module that computes a formula of x."""

    class Spelled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return eval(formula, {"x": x, "torch": torch, "c": 0.7978845608028654})

    return Spelled()


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ("0.5 * x * (1 + torch.tanh(c * (x + 0.044715 * x**3)))", "gelu"),
        ("x * 0.5 * (torch.tanh(c * (x + 0.044715 * x * x * x)) + 1)", "gelu"),
        ("x * (0.5 * (1.0 + torch.tanh(x * c * (1 + 0.044715 * x * x))))", "gelu"),
        ("0.5 * x + 0.5 * x * torch.tanh(c * x + c * 0.044715 * x.pow(3))", "gelu"),
        ("0.5 * (x * (1 + torch.tanh((x + 0.044715 * x.square() * x) * c)))", "gelu"),
        ("x * 0.5 * (1.0 + torch.erf(x / 2.0**0.5))", "gelu"),
        ("0.5 * (1 + torch.erf(x * 0.5**0.5)) * x", "gelu"),
        ("x * torch.sigmoid(x)", "silu"),
        ("torch.sigmoid(x) * x", "silu"),
        ("x / (1 + torch.exp(-x))", "silu"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_activations_finds_every_spelling(formula: str, name: str, dtype: torch.dtype) -> None:
    x = torch.linspace(-6, 6, 35).reshape(5, 7).to(dtype).t()
    module = spelled(formula)
    with torch.no_grad():
        graph = optimize(lt.trace(module, x), (simplify, cse))
    after = verify(activations(graph), after="activations")
    assert [node.op.name() for node in after if node.inputs] == [name]
    assert activations(after) is after
    assert_same_values(graph, after, {8: 1e-12, 4: 1e-5}.get(dtype.itemsize, 2e-2))
    exact = module(x.double())
    (found,) = (node.op for node in after if node.inputs)
    wrong, allowed = (y.double() - exact for y in (found.run(x), module(x)))
    assert wrong.abs().max() <= 2 * allowed.abs().max() + 4 * torch.finfo(dtype).eps


GELU = """
graph(%x: f32[3, 4], %y: f32[3, 4], %s: float) {
  %0 = mul %x 0.7071067811865476
  %1 = erf %0
  %2 = add %1 1.0
  %3 = mul %x 0.5
  %4 = mul %3 %2
  return %4
}
"""


@pytest.mark.parametrize(
    ("reason", "before", "after"),
    [
        ("another constant", "0.7071067811865476", "0.7072"),
        ("another half", "mul %x 0.5", "mul %x 0.25"),
        ("a number that varies", "mul %x 0.5", "mul %x %s"),
        ("of something else", "mul %x 0.5", "mul %y 0.5"),
        ("the function is read elsewhere", "return %4", "return %4, %1"),
        ("it ends in something else", "add %1 1.0", "maximum %1 1.0"),
        ("another dtype on the way", "%1 = erf %0", "%9 = cast{dtype=f64} %0\n  %1 = erf %9"),
    ],
)
def test_activations_declines(check: Check, reason: str, before: str, after: str) -> None:
    assert before in GELU
    assert activations(parse(GELU)) != parse(GELU)
    check.declines(activations, GELU.replace(before, after))
