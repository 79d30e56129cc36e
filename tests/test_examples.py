"""Every example runs at a small size and ends with an error where it differs from eager."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from lazytorch.report import Report

FOLDER = Path(__file__).parent.parent / "examples"

SMALL: dict[str, dict[str, int]] = {
    "force_field": {"count": 3, "atoms": 4, "width": 8, "steps": 5},
    "maml": {"count": 2, "shots": 3, "steps": 5},
    "wgan_gp": {"count": 12, "width": 8, "steps": 5},
    "hessian": {"count": 6, "width": 8, "powers": 4},
}


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports an example as running it does: its folder is where Python looks first."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.mark.parametrize("name", list(SMALL))
def test_an_example_computes_what_eager_does_in_one_graph(
    name: str, examples: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Report.events.clear()
    example = examples(name)
    assert example.main(**SMALL[name], rounds=2) > 0
    assert "times as fast" in capsys.readouterr().out
    assert [e for e in Report.events if e.kind == "backward"] == []


def test_a_difference_ends_an_example(examples: Any) -> None:
    agree = examples("beside").agree
    x = torch.randn(5)
    agree("same", x, x + 1e-7, 1e-5)
    with pytest.raises(SystemExit, match="not what eager computes"):
        agree("other", [x, x], [x, x + 1], 1e-5)
    with pytest.raises(SystemExit, match="not what eager computes"):
        agree("nan", x * float("nan"), x, 1e-5)


def test_a_network_with_second_derivatives_in_its_loss(examples: Any) -> None:
    Report.events.clear()
    heat = examples("heat")
    ours, _, _ = heat.train(12, False)
    theirs, _, _ = heat.train(12, True)
    assert abs(ours - theirs) <= 1e-4 * abs(theirs)
    assert [e for e in Report.events if e.kind == "backward"] == []


def test_forces_point_down_the_energy(examples: Any) -> None:
    field = examples("force_field")
    torch.manual_seed(0)
    x, kinds, forces = field.molecules(2, 4)
    step = torch.randn_like(x) * 1e-3
    change = field.potential(x + step, kinds) - field.potential(x - step, kinds)
    torch.testing.assert_close(change / 2, -(forces * step).sum(), rtol=1e-2, atol=1e-6)
