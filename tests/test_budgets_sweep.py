"""The sweep over budgets goes on where it stopped, keeps to each of them, and is drawn."""

import math
import runpy
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    found = runpy.run_path(str(FOLDER / "budgets.py"))
    monkeypatch.setitem(found["swept"].__globals__, "BUDGETS", 3)
    monkeypatch.setitem(found["swept"].__globals__, "TIMED", 1)
    return found


def test_a_sweep_stops_goes_on_and_never_exceeds(script: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = sys.modules["small_gpt"].SmallGpt(32, 24, 16, 2, 2, 0.0)
    tokens = torch.randint(32, (8, 24))
    sweep = script["Sweep"](model, (tokens, tokens), torch.device("cpu"))
    found: dict[str, Any] = {"model": "small", "machine": {"cpu": "some"}}
    saved: list[int] = []
    save = lambda: saved.append(len(found["rows"]))  # noqa: E731
    script["swept"](sweep, found, -math.inf, save)
    assert found["rows"] == [] and found["smallest"] < found["largest"]
    before = {"budget": found["smallest"], "measured": 0, "replayed": 0, "ms": 1.0}
    found["rows"] = [before]  # of another run
    script["swept"](sweep, found, math.inf, save)
    assert saved == [2, 3, 4]
    first, *rows = found["rows"]
    assert first["ms"] == 1.0
    assert [row["budget"] for row in rows][1:] == [found["largest"], None]
    assert all(row["measured"] <= (row["budget"] or math.inf) for row in rows)
    assert all(row["replayed"] <= (row["budget"] or math.inf) for row in rows)
    assert found["never_exceeded"]
    assert rows[-1]["measured"] <= found["largest"]
    for row in rows:  # each takes the same steps
        assert row["losses"] == pytest.approx(rows[-1]["losses"], rel=1e-5)
        assert len(set(row["losses"])) > 1
    picture = ElementTree.fromstring(script["drawn"]([found]))
    marks = [x.get("class") for x in picture.iter() if x.tag.endswith("circle")]
    assert sorted(marks) == ["bound", "bound", "bound", "free"]
