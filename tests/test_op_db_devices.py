"""Derivatives of the operator database's samples are recorded for a GPU that is not here, too."""

from __future__ import annotations

import re
import warnings
from typing import Any

import op_db
import pytest
import torch

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
    """The derivative's graph on a device that need not be here."""
    case.moving.clear()
    made = StandIns(device)
    args: Any = made.tree(tuple([x.detach() for x in case.tensors]))
    with standing(made, None):
        leaves, spec = trees.flatten((args, {}))
        return record(op_db.derivative(case, order), leaves, spec, fullgraph=True).piece.graph


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
