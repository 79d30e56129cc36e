"""Suites of models and kernels: what they name, what is kept, what is written about the numbers."""

import json
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import CUDA, HERE, broken, fake, tiny

from lazytorch.bench import (
    Case,
    compare,
    kernel_speed,
    runs,
)
from lazytorch.bench.kernel_speed import speed
from lazytorch.bench.kernels import kernels
from lazytorch.bench.machine import machine, same, sources
from lazytorch.bench.shards import Shards, case_name, holds
from lazytorch.bench.sides import NEEDS, OURS, SIDES
from lazytorch.bench.suites import CPU, GPU, suite
from lazytorch.bench.table import as_json

ROOT = Path(__file__).parent.parent


# Suites and shards.


def test_suites_name_models_that_there_are() -> None:
    for device, known in ((HERE, CPU), (CUDA, GPU)):
        for name in known:
            cases = suite(name, device)
            for case in cases:
                case.check()
            assert len({case_name(case) for case in cases}) == len(cases)


def test_a_case_that_is_there_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def measured(case: Case, names: Any, *_: Any) -> Any:
        ran.append(case.model)
        if case.model == "gpt2" and ran.count("gpt2") == 1:
            raise MemoryError("no memory left")
        return compare(case, names, repeats=2, model=tiny())

    monkeypatch.setattr(runs, "measured", measured)
    cases = [Case("bert"), Case("gpt2")]
    found = runs.bench_models(cases, ["lazytorch"], 2, False, Shards(tmp_path))
    assert [one.right for one in found] == [True, False]
    assert "MemoryError: no memory left" in capsys.readouterr().out
    runs.bench_models(cases, ["lazytorch"], 2, False, Shards(tmp_path))
    assert ran == ["bert", "gpt2", "gpt2"]  # what failed is tried again
    runs.bench_models(cases, [*OURS], 2, False, Shards(tmp_path))
    assert ran[3:] == ["bert", "gpt2"]  # another side is asked for
    file = tmp_path / "cpu_bert_b1_f32.json"
    changed = json.loads(file.read_text())
    changed["machine"]["sources"] = "others"
    file.write_text(json.dumps(changed))
    runs.bench_models(cases, ["lazytorch"], 2, False, Shards(tmp_path))
    assert ran[5:] == ["bert"]
    assert not list(tmp_path.glob("*.new"))


def test_no_case_is_started_when_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "measured", broken)
    assert runs.bench_models([Case("bert")], OURS, 2, False, Shards(tmp_path, 0.0)) == []
    assert "not measured: cpu_bert_b1_f32" in capsys.readouterr().out


def test_a_result_without_starts_is_not_whole_when_they_are_asked_for() -> None:
    one = {"sides": {"eager": {}, "lazytorch": {"cold_start_s": {}}}, "failed": {"jax": "broke"}}
    result: dict[str, Any] = {"comparisons": [one]}
    assert holds(["lazytorch", "jax"], True)(result)
    assert holds(["eager", "lazytorch"], False)(result)
    assert not holds(["eager", "lazytorch"], True)(result)
    assert not holds(["inductor"], False)(result)


def test_what_makes_two_machines_the_same() -> None:
    here = machine(HERE)
    assert here["sources"] == sources() and same(here, {**here, "date": "", "commit": "other"})
    assert not same(here, {**here, "torch": "1.0"}) and not same(here, {**here, "gpu": "one"})


# Kernels.


@pytest.mark.parametrize("name", kernels())
def test_every_kernel_is_judged_and_compared_with_a_copy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, dynamic: run)
    found = speed(kernels()[name], torch.float32, 2**18, HERE, repeats=2)
    assert found.failed == {} and found.right
    assert set(found.timings) == {"eager", "inductor", "lazytorch", "copy"}
    assert found.share("copy") == 1 and found.rate("eager") > 0
    assert 0 < found.nbytes < 2**21
    assert ("inductor" in found.judged) == (kernels()[name].exact is None)


def test_a_wrong_kernel_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, dynamic: lambda x, y: run(x, y) * 1.01)
    found = speed(kernels()["add_relu"], torch.float32, 2**16, HERE, repeats=2)
    assert "times eager's" in found.judged["inductor"].fault and found.right


def test_a_gpu_is_timed_by_its_own_clock_behind_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("event")

        def elapsed_time(self, other: "Event") -> float:
            return 2.0

    zero = torch.Tensor.zero_
    monkeypatch.setattr(torch.Tensor, "zero_", lambda x: (done.append("flush"), zero(x))[1])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append("wait"))
    monkeypatch.setattr(kernel_speed, "FLUSHED", 8)
    calls = {name: partial(done.append, name) for name in "ab"}
    found = kernel_speed.on_gpu(calls, HERE, 2)
    order = [["flush", "event", name, "event", "wait"] for name in "abba"]
    assert done == [step for sample in order for step in sample]
    assert found["a"].samples == (2e-3, 2e-3)


# What is written about the numbers.


def test_the_summary_says_how_each_model_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIDES, "jax", fake("jax", torch.clone))
    monkeypatch.setitem(NEEDS, "jax", ())
    lines = runpy.run_path(str(ROOT / "benchmarks" / "summary.py"))["lines"]
    found = compare(Case("tiny"), ["jax", "openvin", *OURS], repeats=3, model=tiny())
    result = as_json([found], machine(HERE))
    one = result["comparisons"][0]
    one["best_peer"] = "jax"
    for ours in OURS:
        one["sides"][ours]["times_as_fast"]["jax"] = {"median": 1.5, "low": 0.97, "high": 2.0}
    text = "\n".join(lines([result]))
    assert "| tiny, 1, f32 | lazytorch-freeze |" in text and "| 1.500 | 0.970 |" in text
    assert "openvin: no side is called 'openvin'" in text
    assert "geometric mean to the best peer: 1.500" in text
    assert "below 0.98: tiny, 1, f32 (0.970 of jax)" in text
    assert "- wrong or not measured: none" in text
    one["sides"] = {}
    assert "- wrong or not measured: tiny, 1, f32" in "\n".join(lines([result]))


def test_cold_starts_are_held_against_the_claims() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "cold.py"))
    ours = {"first": 0.4, "full": 1.0, "near": 1.0, "fault": "", "memory": 0}
    theirs = {**ours, "first": 5.0, "near": 4.0}
    both = {"cold_s": ours, "warm_s": ours}
    found = script["claims"]({"lazytorch": both, "inductor": {"cold_s": theirs, "warm_s": theirs}})
    assert found["first holds"] and not found["near holds"] and found["warm holds"]
    assert script["claims"]({"lazytorch": both, "inductor": {"failed": "it broke"}}) == {}
    assert {case.model for case in script["cases"](["bert"])} == {"bert"}


def test_growth_counts_nodes_and_kernels() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "growth.py"))
    with torch.no_grad():
        small, large = (script["measured"](blocks, HERE) for blocks in (1, 2))
    found = script["added"](small, large)
    assert large["nodes"] > small["nodes"] > 20 and found["kernels"] == 0
    assert {"record", "fuse", "lower"} <= set(found["steps, us a node"])
