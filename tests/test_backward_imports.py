"""torch's named derivatives are imported as primitives, and give its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from single import import_single

from lazytorch.interpret import interpret

aten: Any = torch.ops.aten
Case = Callable[[torch.Tensor, torch.Tensor], Any]
CASES: dict[str, Case] = {
    "tanh": lambda g, x: aten.tanh_backward(g, x),
    "sigmoid": lambda g, x: aten.sigmoid_backward(g, x),
    "threshold": lambda g, x: aten.threshold_backward(g, x, 0.5),
    "gelu": lambda g, x: aten.gelu_backward(g, x),
    "gelu tanh": lambda g, x: aten.gelu_backward(g, x, approximate="tanh"),
    "silu": lambda g, x: aten.silu_backward(g, x),
    "mish": lambda g, x: aten.mish_backward(g, x),
    "hardtanh": lambda g, x: aten.hardtanh_backward(g, x, -0.5, 1.0),
    "hardsigmoid": lambda g, x: aten.hardsigmoid_backward(g, x),
    "hardswish": lambda g, x: aten.hardswish_backward(g, x),
    "leaky relu": lambda g, x: aten.leaky_relu_backward(g, x, 0.2, False),
    "elu": lambda g, x: aten.elu_backward(g, 1.5, 2.0, 0.5, False, x),
    "softplus": lambda g, x: aten.softplus_backward(g, x, 2.0, 1.0),
    "softmax": lambda g, x: aten._softmax_backward_data(g, x, 1, x.dtype),
    "log softmax": lambda g, x: aten._log_softmax_backward_data(g, x, 0, x.dtype),
    "log sigmoid": lambda g, x: aten.log_sigmoid_backward(g, x, torch.exp(-x.abs())),
    "dropout": lambda g, x: aten.native_dropout_backward(g, x > 0, 2.0),
    "mse": lambda g, x: aten.mse_loss_backward(g, x, x * 2, 0),
    "mse mean": lambda g, x: aten.mse_loss_backward(g[0, 0], x, x * 2, 1),
    "smooth l1": lambda g, x: aten.smooth_l1_loss_backward(g, x, x * 2, 0, 0.7),
    "huber": lambda g, x: aten.huber_loss_backward(g[0, 0], x, x * 2, 2, 0.7),
    "slice": lambda g, x: aten.slice_backward(g, [5, 11], 0, 1, 4, 1),
    "slice from behind": lambda g, x: aten.slice_backward(g, [3, 20], -1, -11, 99, 1),
    "select": lambda g, x: (
        aten.select_backward(g, [3, 4, 7], 2, -2)
        if g.shape == (3, 4)
        else aten.select_backward(g, [3, 2, 7], 1, -1)
    ),
}


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_named_derivative_is_written_in_primitives(name: str, dtype: torch.dtype) -> None:
    shape = (3, 7) if name == "select" else (3, 11) if "slice" in name else (5, 9)
    g, x = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype) * 2
    want = CASES[name](g, x)
    graph = import_single(CASES[name], g, x)
    assert not any([node.op.name() == "aten" for node in graph.nodes])
    (got,) = interpret(graph, g, x)
    near = {torch.float32: 1e-5, torch.float64: 1e-7, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(got, want, rtol=near, atol=near)


def test_what_has_no_rule_is_left_to_torchs_kernel() -> None:
    x = torch.randn(4, 6)
    with pytest.raises(AssertionError, match="has no importer"):
        import_single(lambda g: aten.slice_backward(g, [8, 6], 0, 0, 8, 2), x)
    with pytest.raises(AssertionError, match="has no importer"):
        import_single(lambda g: aten.elu_backward(g, 1.0, 1.0, 1.0, True, g), x)
