"""Comparing with peers, real or faked: what is measured, what is left out and why, what is kept."""

import importlib.util
import json
import runpy
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lazytorch import zoo
from lazytorch.bench import (
    Case,
    Model,
    Timing,
    child,
    compare,
    exported,
    kernel_speed,
    runs,
    start,
)
from lazytorch.bench.kernel_speed import speed
from lazytorch.bench.kernels import kernels
from lazytorch.bench.machine import machine, same, sources
from lazytorch.bench.measure import Pending, timed
from lazytorch.bench.paired import ratio
from lazytorch.bench.shards import Shards, case_name, holds
from lazytorch.bench.side import Side
from lazytorch.bench.sides import NEEDS, OURS, SIDES, make_side, missing, peers
from lazytorch.bench.suites import CPU, GPU, suite
from lazytorch.bench.table import as_json, comparison_json

ROOT = Path(__file__).parent.parent
HERE = torch.device("cpu")
CUDA = torch.device("cuda")


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
        return {"second": self.linear(x) * scale, "first": torch.relu(x)}


def tiny() -> Model:
    torch.manual_seed(0)
    return Model(Tiny().eval(), (torch.randn(4, 16),), {"scale": 2.0})


def fake(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Model], Side]:
    def side(model: Model) -> Side:
        def call() -> Pending:
            found = model()
            return Pending(lambda: [change(x) for x in (found["second"], found["first"])])

        return Side(name, call, foreign=True)

    return side


def broken(model: Model) -> Side:
    raise ValueError("cannot\nread this model")


# Peers.


def test_a_peer_that_fails_or_is_missing_is_told_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SIDES, "onnxruntime", broken)
    monkeypatch.setitem(NEEDS, "onnxruntime", ())
    monkeypatch.setitem(NEEDS, "openvino", ("no_such_package",))
    monkeypatch.setitem(SIDES, "jax", fake("jax", torch.clone))
    monkeypatch.setitem(NEEDS, "jax", ())
    names = ["onnxruntime", "openvino", "jax", "lazytorch"]
    found = compare(Case("tiny"), names, repeats=3, model=tiny())
    assert list(found.sides) == ["eager", "jax", "lazytorch"]
    assert found.failed == {
        "onnxruntime": "ValueError: cannot",
        "openvino": "no_such_package not installed",
    }
    assert found.right and found.sides["jax"].memory is None
    assert comparison_json(found)["failed"] == found.failed


def test_a_wrong_peer_is_not_the_best_and_not_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIDES, "jax", fake("jax", lambda x: x * 1.1))
    monkeypatch.setitem(NEEDS, "jax", ())
    found = compare(Case("tiny"), ["jax", "lazytorch"], repeats=3, model=tiny())
    assert not found.sides["jax"].right and found.right
    assert found.best_peer() == "eager"


def test_what_lazytorch_fails_at_is_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIDES, "lazytorch-freeze", broken)
    found = compare(Case("tiny"), OURS, repeats=2, model=tiny())
    assert list(found.failed) == ["lazytorch-freeze"] and not found.right


def test_eager_must_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIDES, "eager", broken)
    with pytest.raises(ValueError, match="cannot"):
        compare(Case("tiny"), OURS, repeats=2, model=tiny())


def test_peers_are_those_of_the_device() -> None:
    assert "reduce-overhead-freezing" in peers(CUDA) and "onnxruntime" not in peers(CUDA)
    assert {"onnxruntime", "openvino", "jax"} <= set(peers(HERE))
    assert "reduce-overhead" not in peers(HERE)
    for device in (HERE, CUDA):
        assert set(peers(device)) <= set(SIDES)
        assert "max-autotune" not in peers(device)  # it may not come to an end


def test_max_autotune_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "APART", 0.5)
    found = compare(Case("tiny"), ["max-autotune", "lazytorch"], repeats=2, model=tiny())
    assert found.failed == {"max-autotune": "it did not compile within 0 s"} and found.right


def test_a_sample_ends_when_a_result_from_outside_torch_is_there() -> None:
    waited: list[int] = []
    pending = Pending(list, lambda: waited.append(1))
    timed(lambda: pending, HERE, 5)
    assert waited == [1]  # once, after all five


def test_an_exported_model_takes_and_returns_its_tensors_in_order() -> None:
    model = tiny()
    program = exported.exported(model)
    found = program.module()(*model.args)
    expected = list(dict(sorted(model().items())).values())
    assert all(map(torch.equal, found, expected)) and len(found) == 2


def test_openvino_gets_float32_and_the_precision_of_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    class Compiled:
        outputs = (0, 1)

        def __init__(self, program: torch.export.ExportedProgram) -> None:
            self.program = program

        def create_infer_request(self) -> "Compiled":
            return self

        def infer(self, values: list[Any], **_: bool) -> list[Any]:
            given = [torch.from_numpy(x) for x in values]
            asked["given"] = [x.dtype for x in given]
            return [x.detach().numpy() for x in self.program.module()(*given)]

    def compile_model(program: Any, device: str, settings: dict[str, Any]) -> Compiled:
        asked.update(settings)
        return Compiled(program)

    package: Any = types.ModuleType("openvino")
    package.convert_model, package.compile_model = lambda program: program, compile_model
    monkeypatch.setitem(sys.modules, "openvino", package)
    model = tiny()
    half = Model(model.module.bfloat16(), (model.args[0].bfloat16(),), model.kwargs)
    results = exported.openvino(half).results()
    assert asked["INFERENCE_PRECISION_HINT"] == "bf16" and asked["given"] == [torch.float32]
    assert [x.dtype for x in results] == [torch.bfloat16] * 2
    assert half.module.linear.weight.dtype is torch.bfloat16  # a copy was converted


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_real_peers_compute_what_eager_does(name: str) -> None:
    if missing(name):
        pytest.skip(f"{missing(name)} not installed")
    found = compare(Case("tiny"), [name], repeats=2, model=tiny())
    assert found.failed == {} and found.sides[name].right


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.parametrize("name", ["jax", "jax-folded"])
def test_models_in_jax_compute_what_torch_does(name: str) -> None:
    resnet = zoo._torchvision_models().resnet  # torchvision alone may not load here
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    convolutional = resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], num_classes=7).eval()
    for x in convolutional.buffers():
        if x.is_floating_point():
            x.add_(torch.rand_like(x))
    models = [Model(convolutional, (torch.randn(2, 3, 65, 64),), {})]
    if name == "jax":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        text = BertModel(BertConfig(vocab_size=50, num_hidden_layers=2, **sizes)).eval()
        mask = torch.ones(2, 9, dtype=torch.int64)
        mask[1, 5:] = 0
        ids = torch.randint(0, 50, (2, 9))
        models.append(Model(text, (), {"input_ids": ids, "attention_mask": mask}))
    for model in models:
        ours, theirs = make_side(name, model).results(), model()
        expected = [theirs] if isinstance(theirs, torch.Tensor) else [*theirs.values()]
        for x, y in zip(ours, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


# Ratios.


def test_a_paired_ratio_is_of_rounds_and_has_its_bounds() -> None:
    drift = [1.0, 5.0, 2.0, 9.0, 3.0, 1.0, 4.0]
    ours, other = Timing(tuple(drift)), Timing(tuple(1.2 * x for x in drift))
    found = ratio(ours, other)
    assert found.median == pytest.approx(1.2)  # though a side's own samples differ ninefold
    assert found.low == pytest.approx(1.2) and found.high == pytest.approx(1.2)
    noisy = ratio(Timing((1.0,) * 5), Timing((0.9, 1.0, 1.1, 1.2, 1.3)))
    assert noisy.low < noisy.median < noisy.high
    assert noisy.median == pytest.approx(1.1)
    assert ratio(Timing((1.0,) * 5), Timing((0.9, 1.0, 1.1, 1.2, 1.3))) == noisy


# Starts.


def test_near_is_the_first_call_at_final_speed() -> None:
    slow = [(1.0, 0.4), (1.4, 0.4), (1.5, 0.1), (1.9, 0.4), (2.3, 0.4), (2.7, 0.4), (3.0, 0.4)]
    fast = [(3.1 + i / 10, 0.1) for i in range(child.FINAL)]
    assert child.near([*slow, *fast]) == pytest.approx(3.1)  # not the one quick call on the way
    assert child.near(fast) == pytest.approx(3.1)


def test_calls_go_on_while_kernels_are_compiled() -> None:
    calls: list[int] = []

    def settle() -> None:
        while len(calls) < 3:
            pass

    side = Side("a", lambda: calls.append(1), settle)
    assert len(child.called_until_settled(side, HERE, 0.0)) >= 3


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


def test_the_readme_joins_the_files_of_one_run() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "readme.py"))
    found = compare(Case("tiny"), ["lazytorch"], repeats=2, model=tiny())
    one = as_json([found], machine(HERE))
    (joined,) = script["joined"]([one, one])
    assert len(joined["comparisons"]) == 2
    one["comparisons"][0]["sides"] = {}
    assert script["joined"]([one]) == []


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
