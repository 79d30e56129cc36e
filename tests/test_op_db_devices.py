"""Derivatives of the operator database's samples are recorded for a GPU that is not here, too."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import op_db
import pytest
import torch

import lazytorch as lt
from lazytorch.autodiff.derive import derived
from lazytorch.forecast import standing
from lazytorch.frontend import trees
from lazytorch.frontend.record import record
from lazytorch.frontend.stand_in import StandIns
from lazytorch.ir import Builder, Graph, Operand, input
from lazytorch.ops.aten import Aten
from lazytorch.ops.calculus import Calculus
from lazytorch.types import TensorType, tensor_type

PARTS = 4
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
NOT_HERE = re.compile("not compiled with CUDA|random_scaled_dot_product_attention draws")
"""What torch's own code, or its choice of a kernel, needs a GPU for."""


def recorded(case: op_db.Case, order: int, device: torch.device) -> Graph:
    """The derivative's graph on a device."""
    case.moving.clear()
    return graph_of(op_db.derivative(case, order), *[x.detach() for x in case.tensors], on=device)


def half(case: op_db.Case, key: tuple[Any, ...]) -> torch.Tensor:
    """A weight that is made where it is."""
    _, _, dtype, shape, device = key
    return torch.full(shape, 0.5, dtype=dtype, device=device)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("part", range(PARTS))
def test_derivatives_are_recorded_for_a_gpu(
    part: int, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op_db.Case, "weight", half)
    dtype = torch.float32 if order == 1 else torch.float64
    failed: list[str] = []
    for op in op_db.operations()[part::PARTS]:
        if order == 2 and not op.supports_gradgrad:
            continue
        for case in list(op_db.cases(op, dtype))[:3]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    recorded(case, order, CPU)
                except Exception:
                    continue
                try:
                    graph = recorded(case, order, GPU)
                except Exception as error:
                    if not NOT_HERE.search(str(error)):
                        failed.append(f"{op_db.called(op)}: {error}")
                    continue
            types = [x.type for x in graph.outputs]
            if any(isinstance(x, TensorType) and x.device != GPU for x in types):
                failed.append(f"{op_db.called(op)}: gives {types}")
    assert not failed, "\n".join(failed)


def test_what_was_observed_on_a_gpu_has_a_derivative() -> None:
    """A rule is recorded on the CPU, where the operation has its results, too."""
    b = Builder()
    x = input("x", tensor_type((4, 5), torch.float32, GPU))
    mask = input("mask", tensor_type((4, 5), torch.bool, GPU))
    seen = tensor_type((7,), torch.float32, GPU)
    chosen = b(Aten("aten.masked_select.default", (Operand(0), Operand(1)), (), seen), x, mask)
    g, none = derived(Calculus(), chosen, input("g", chosen.type), [True, False])
    assert none is None
    assert g is not None
    assert g.type == x.type


def graph_of(function: Callable[..., Any], *args: torch.Tensor, on: torch.device = GPU) -> Graph:
    """What is recorded on a device that need not be here."""
    made = StandIns(on)
    given: Any = made.tree(args)
    with standing(made, None):
        leaves, spec = trees.flatten((given, {}))
        return record(function, leaves, spec, fullgraph=True).piece.graph


def test_one_value_put_where_a_mask_on_the_cpu_says_has_a_derivative() -> None:
    def put(x: torch.Tensor, value: torch.Tensor) -> Any:
        mask = torch.tensor([True, False, True])
        return lt.grad(lambda v: torch.index_put(x, (mask,), v).square().sum())(value)

    (found,) = graph_of(put, torch.randn(3, 5), torch.randn(5)).outputs
    assert found.type == tensor_type((5,), torch.float32, GPU)


def test_cudnns_sampler_has_a_derivative() -> None:
    """Torch's composite of `grid_sample` comes to it on a GPU; torch's own kernel is the same."""

    def sampled(x: torch.Tensor, grid: torch.Tensor) -> Any:
        return lt.grad(lambda *xs: torch.cudnn_grid_sampler(*xs).sum(), argnums=(0, 1))(x, grid)

    graph = graph_of(sampled, torch.randn(2, 3, 8, 8), torch.rand(2, 4, 4, 2))
    assert "cudnn" not in str(graph)
    assert [x.type for x in graph.outputs] == [
        tensor_type(shape, torch.float32, GPU) for shape in ((2, 3, 8, 8), (2, 4, 4, 2))
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_batch_norm_without_parameters_has_a_derivative_on_a_gpu(dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, 5, 7, dtype=dtype, device=GPU)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.batch_norm(x, None, None, training=True).pow(3).sum()

    y = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(loss(y), y)
    torch.testing.assert_close(lt.compile(lt.grad(loss), wait=True)(x), want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_connectionist_temporal_classification_has_a_derivative_on_a_gpu() -> None:
    x = torch.randn(6, 2, 5, device=GPU).log_softmax(-1)
    target = torch.randint(1, 5, (2, 3), device=GPU)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.ctc_loss(x, target, (6, 5), (3, 2))

    y = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(loss(y), y)
    torch.testing.assert_close(lt.compile(lt.grad(loss), wait=True)(x), want)
