"""Training curves follow eager's as closely as eager follows itself; one that does not is found."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("curves")


def small(curves: Any, name: str) -> Any:
    torch.manual_seed(0)
    if name == "gpt":
        return curves.gpt(count=2, length=16, width=32)
    return curves.resnet18(count=4, size=32, classes=3)


@pytest.mark.parametrize("name", ["gpt", "resnet18"])
def test_a_curve_follows_eagers(curves: Any, name: str) -> None:
    found = curves.measured(small(curves, name), 12, CPU)
    assert found["eager instead"] == []
    assert found["follows"], found
    assert len({len(losses) for losses in found["curves"].values()}) == 1


def test_another_rate_is_another_curve(curves: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def faster(training: Any) -> Callable[..., torch.Tensor]:
        optimizer = torch.optim.AdamW(training.model.parameters(), 3.03e-3)
        return curves.eager(curves.Training(training.model, lambda _: optimizer, training.batch))

    monkeypatch.setattr(curves, "compiled", faster)
    assert not curves.measured(small(curves, "gpt"), 12, CPU)["follows"]
