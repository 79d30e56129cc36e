"""Comparing with peers, real or faked: what is measured, what is left out and why."""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import CUDA, HERE, broken, fake, tiny

from lazytorch import zoo
from lazytorch.bench import (
    Case,
    Model,
    Timing,
    child,
    compare,
    exported,
    start,
)
from lazytorch.bench.compare import FOLDERS, reason
from lazytorch.bench.measure import Pending, timed
from lazytorch.bench.paired import ratio
from lazytorch.bench.side import Side
from lazytorch.bench.sides import NEEDS, OURS, SIDES, make_side, missing, peers
from lazytorch.bench.table import comparison_json

# Peers.


def test_reasons_and_results_name_files_without_their_folders() -> None:
    said = "['/opt/bin/tool', '/a-b/c.d/model.onnx'] failed, 1/2 of it: https://x.org/a/b/c"
    told = "['.../tool', '.../model.onnx'] failed, 1/2 of it: https://x.org/a/b/c"
    assert reason(ValueError(said)) == f"ValueError: {told}"
    results = Path(__file__).parent.parent / "benchmarks" / "results"
    assert [x for x in results.rglob("*.json") if FOLDERS.search(x.read_text())] == []


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
    expected = list(model().values())
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
