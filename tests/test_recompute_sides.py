"""Steps that compute values again beside those that do not: a benchmark's two sides."""

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lazytorch.bench.case import MeanSquare
from lazytorch.forecast import plan

FOLDER = Path(__file__).parent.parent / "benchmarks"


def test_a_budget_takes_fewer_bytes_and_first_makes_the_optimizers_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    importlib.import_module("small_gpt")
    script = runpy.run_path(str(FOLDER / "recompute.py"))

    def call() -> tuple[nn.Module, tuple[torch.Tensor], dict[str, Any]]:
        torch.manual_seed(0)
        model = sys.modules["small_gpt"].SmallGpt(32, 24, 16, 2, 2, 0.0)
        return model, (torch.randint(32, (8, 24)),), {}

    model, args, _ = call()
    free = plan(MeanSquare(model), args, optimizer=torch.optim.AdamW)
    budget = int(free.peak_bytes - 0.1 * free.values)
    cpu = torch.device("cpu")
    without, within = (script["Side"](call(), cpu, bound) for bound in (None, budget))
    assert within.highest() <= budget < free.peak_bytes
    assert within.highest() < without.highest() < without.eager()
    assert within.milliseconds() > 0
