"""The command line on a tiny model, and what its numbers are made of."""

import json
import re
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from lazytorch import cli
from lazytorch.bench import SIDES, Case, Model, Timing, compare, interleaved
from lazytorch.bench.machine import parse_device
from lazytorch.bench.memory import held
from lazytorch.bench.sides import NEEDS, make_side
from lazytorch.bench.start import pack, starts, unpack
from lazytorch.commands import app
from lazytorch.errors import DeviceError, LazyTorchError
from lazytorch.runtime.allocations import peak

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
MODEL = '''
import torch
from torch import nn

class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x * 2) + 1

def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), Swish(), nn.Linear(32, 16)), (torch.randn(4, 16),)

class Wrong(nn.Module):
    """Right in eager, wrong when anybody else calls it."""
    def forward(self, x):
        return x * (1.1 if torch.compiler.is_compiling() else 1.0)

def wrong():
    return Wrong(), (torch.randn(4, 16),)
'''


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module in the working directory, under a name that no other test has imported."""
    name = f"tiny_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LAZYTORCH_CACHE", str(tmp_path / "cache"))
    return f"{name}:mlp"


def run(*args: str) -> Result:
    return CliRunner().invoke(app, args, env={"COLUMNS": "100"})


# Commands.


def test_bench_prints_a_table_and_writes_json(tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    options = ("--device", "cpu", "--repeats", "5", "--no-start", "--json", str(file))
    result = run("bench", tiny, "--vs", "eager,channels_last", *options)
    assert result.exit_code == 0, result.output
    for side in ("eager", "channels_last", "lazytorch"):
        best = r"[\d.]+x >[\d.]+ +" if side == "lazytorch" else ""
        row = rf"{side} +[\d.]+ ±\S+ +[\d.]+x +{best}[\d.]+ +\S+ +yes"
        assert re.search(row, result.output)
    found = json.loads(file.read_text())
    assert {"cpu", "cores", "torch", "lazytorch", "date"} <= set(found["machine"])
    one = found["comparisons"][0]
    assert (one["model"], one["dtype"], one["device"]) == (tiny, "f32", "cpu")
    assert list(one["sides"]) == ["eager", "channels_last", "lazytorch"]
    eager, ours = one["sides"]["eager"], one["sides"]["lazytorch"]
    assert ours["speedup"] == pytest.approx(eager["median_ms"] / ours["median_ms"])
    assert ours["quartiles_ms"][0] <= ours["median_ms"] <= ours["quartiles_ms"][1]
    assert ours["fault"] == "" and 0 < ours["error"] < 1e-6
    assert "cold_start_s" not in ours


def test_bench_and_explain_with_frozen_weights(tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    options = ("--device", "cpu", "--repeats", "2", "--no-start", "--json", str(file))
    result = run("bench", tiny, "--freeze", *options)
    assert result.exit_code == 0, result.output
    sides = json.loads(file.read_text())["comparisons"][0]["sides"]
    assert list(sides) == ["eager", "lazytorch", "lazytorch-freeze"]
    asked = "as freeze=True asks"
    assert asked in run("explain", tiny, "--freeze", "--device", "cpu").output
    assert asked not in run("explain", tiny, "--device", "cpu").output


def test_bench_in_bfloat16(tiny: str) -> None:
    result = run(
        "bench", tiny, "--device", "-1", "--repeats", "2", "--no-start", "--dtype", "bfloat16"
    )
    assert result.exit_code == 0, result.output
    assert "bf16" in result.output


def test_bench_fails_on_a_wrong_result(tiny: str) -> None:
    result = run(
        "bench", tiny.replace("mlp", "wrong"), "--device", "cpu", "--repeats", "2", "--no-start"
    )
    assert result.exit_code == 1
    assert re.search(r"lazytorch .* NO", result.output)
    # A table's caption is wrapped to its width, which the measured times decide.
    assert "times eager's" in " ".join(result.output.split())


def test_a_fresh_process_starts_cold_and_then_warm(tiny: str, tmp_path: Path) -> None:
    cold, warm = starts(Case(tiny), "lazytorch")
    for start in (cold, warm):
        assert 0 < start.first <= start.near and start.first <= start.full
        assert start.fault == ""
    assert not (tmp_path / "cache").exists()  # it has caches of its own


def test_a_fresh_process_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho it broke >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(LazyTorchError, match="starts bert with eager failed") as caught:
        starts(Case("bert"), "eager")
    assert caught.value.values["status"] == 3 and "it broke" in str(caught.value)


def test_a_case_survives_the_way_to_another_process() -> None:
    case = Case("gpt2", 3, torch.bfloat16, torch.device("cuda:1"))
    assert unpack(pack(case, "inductor")) == (case, "inductor")


def test_view_draws_into_a_file(tiny: str, tmp_path: Path) -> None:
    for name in ("a.html", "a.dot"):
        result = run("view", tiny, "-o", str(tmp_path / name), "--device", "cpu")
        assert result.exit_code == 0 and name in result.output.replace("\n", "")
        assert "sigmoid" in (tmp_path / name).read_text()


def test_explain_says_what_was_fused(tiny: str) -> None:
    result = run("explain", tiny, "--device", "cpu")
    assert result.exit_code == 0
    assert result.stdout.startswith("Sequential: 1 plan")
    assert re.search(r"1 x (mul sigmoid mul|mul\(2\) sigmoid) add", result.output)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("bench", "resnet51"), "no model is called 'resnet51'"),
        (("explain", "no_such_package:model"), "No module named 'no_such_package'"),
        (("bench", "resnet50", "--vs", "eger"), "no side is called 'eger'"),
        (("bench",), "nothing to measure"),
        (("bench", "bert", "--suite", "cnn"), "nothing is called 'bert' there"),
        (("bench", "sotfmax", "--suite", "kernels"), "nothing is called 'sotfmax' there"),
        (("bench", "resnet50", "--device", "97"), "there is no device '97' here"),
        (
            ("view", "resnet50", "-o", "a.html", "--device", "toaster"),
            "no device is called 'toaster'",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(args: tuple[str, ...], message: str) -> None:
    result = run(*args)
    assert result.exit_code == 1
    assert f"error: {message}" in result.output or (
        "no_such_package" in message and message in result.output
    )
    assert "Traceback" not in result.output


def test_view_of_an_unknown_kind_of_file_is_told(tiny: str, tmp_path: Path) -> None:
    result = run("view", tiny, "-o", str(tmp_path / "a.bmp"), "--device", "cpu")
    assert result.exit_code == 1 and ".html, .svg or .dot" in result.output


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_missing_extras_are_told(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=r"pip install 'lazytorch\[cli\]'"):
        cli.main()


# Measuring.


def test_samples_are_interleaved_and_the_order_turns() -> None:
    ran: list[str] = []

    def side(name: str) -> Callable[[], None]:
        def call() -> None:
            ran.append(name)
            time.sleep(0.003)

        return call

    rounds: list[int] = []
    found = interleaved({n: side(n) for n in "abc"}, CPU, 4, lambda: rounds.append(len(ran)))
    assert "".join(ran[-12:]) == "abcbcacababc"
    assert len(rounds) == 4
    assert all(len(t.samples) == 4 and min(t.samples) >= 0.003 for t in found.values())


def test_short_calls_are_repeated_within_a_sample() -> None:
    count = 0

    def call() -> None:
        nonlocal count
        count += 1

    found = interleaved({"a": call}, CPU, 2)
    assert count > 100
    assert found["a"].median < 1e-3


def test_median_and_quartiles() -> None:
    timing = Timing((5.0, 1.0, 2.0, 4.0, 3.0))
    assert (timing.median, *timing.quartiles) == (3.0, 2.0, 4.0)
    assert Timing((7.0,)).quartiles == (7.0, 7.0)


def test_peak_counts_what_one_call_has_at_once() -> None:
    x = torch.ones(2**18)  # 1 MiB

    def call() -> torch.Tensor:
        y = x + 1
        z = y + 1
        del y
        return z + 1

    assert 0 <= peak(call, CPU) - 2 * 2**20 < 100  # and a number or two


def test_held_counts_each_storage_once() -> None:
    before = held(CPU)
    x = torch.ones(2**18)
    views = [x, x[1:], torch.nn.Parameter(x)]
    assert held(CPU) - before == 2**20
    del x, views
    assert held(CPU) == before


class Copies(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(512, 512))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight * 2).t()


def test_memory_tells_what_compiling_keeps() -> None:
    model = Model(Copies(), (torch.randn(1, 512),), {})
    found = compare(Case("copies"), repeats=1, model=model)
    memory = {name: side.memory or 0 for name, side in found.sides.items()}
    assert memory["eager"] >= 2**20  # doubled anew in every call
    assert memory["lazytorch"] >= 2**20  # doubled once, and kept


@pytest.mark.parametrize("name", [name for name in SIDES if name not in NEEDS])
def test_every_side_is_made_without_running_anything(name: str, tiny: str) -> None:
    model = Case(tiny).build()
    side = make_side(name, model)
    assert side.name == name
    with pytest.raises(LazyTorchError, match="there are eager, channels_last"):
        make_side("egaer", model)


def test_devices_are_parsed() -> None:
    assert parse_device("cpu") == parse_device("-1") == CPU
    assert parse_device("") == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(DeviceError):
        parse_device("cuda:97")


def test_models_of_a_user_are_moved_and_set_to_inference(tiny: str) -> None:
    model = Case(tiny, dtype=torch.bfloat16).build()
    assert not model.module.training
    kinds: list[Any] = [next(model.module.parameters()).dtype, model.args[0].dtype]
    assert kinds == [torch.bfloat16, torch.bfloat16]
    assert model.in_float64()().dtype == torch.float64
    assert model().dtype == torch.bfloat16  # the copy was converted, not the model


# What is written about the numbers.


def test_the_readme_is_filled_from_the_json(tiny: str, tmp_path: Path) -> None:
    fill = runpy.run_path(str(ROOT / "benchmarks" / "readme.py"))["filled"]
    file = tmp_path / "numbers.json"
    run("bench", tiny, "--vs", "eager,channels_last", "--device", "cpu", "--repeats", "2",
        "--no-start", "--json", str(file))  # fmt: skip
    readme = (ROOT / "README.md").read_text()
    text = fill(readme, [[json.loads(file.read_text())]])
    assert re.search(rf"\| {tiny}, 1, f32 \| lazytorch \| [\d.e-]+ \| eager|channels_last \|", text)
    assert "geometric mean to eager" in text
    assert fill(text, [[json.loads(file.read_text())]]) == text


def test_the_readme_has_the_tables_of_the_results() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "readme.py"))
    readme = (ROOT / "README.md").read_text()
    assert script["filled"](readme, script["results"]()) == readme


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text())
    assert links and all((ROOT / link).exists() for link in links)
