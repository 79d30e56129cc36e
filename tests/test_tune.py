"""`tune=True`: what is measured, chosen, remembered and said; the clock is a pretended one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from comparison import same

import lazytorch as lt
from lazytorch.lower.call import TORCH, Measured
from lazytorch.options import Environment, environment
from lazytorch.runtime import choices, tune
from lazytorch.runtime.choices import Choices
from lazytorch.runtime.tune import Tuner, alike, fastest, searched, tuner_for
from lazytorch.view.explain import measured_text

CPU = torch.device("cpu")


def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((x * y + 1).relu() @ y).tanh() * 2 - x


X, Y = torch.randn(7, 7), torch.randn(7, 7)


class Clock:
    """Stands for `measure`: one way is fast, and it is kept which were measured where."""

    def __init__(self) -> None:
        self.fast = TORCH
        self.met: list[list[str]] = []

    def __call__(
        self, ways: Mapping[str, Callable[[], object]], device: torch.device
    ) -> dict[str, float]:
        self.met.append(list(ways))
        for way in ways.values():
            way()
        return {name: 1e-6 if name == self.fast else 2e-6 for name in ways}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    """The pretended clock, in a process with an empty cache folder of its own."""
    monkeypatch.setenv("LAZYTORCH_CACHE", str(tmp_path / "cache"))
    found = Clock()
    monkeypatch.setattr(tune, "measure", found)
    return found


def run(*args: Any, wait: bool = True, tune: bool = True) -> lt.Compiled:
    """`function` compiled and called, as often as it takes until it is measured."""
    fast = lt.compile(function, wait=wait, tune=tune)
    with torch.no_grad():
        for _ in range(2):
            same(fast(*args), function(*args))
            fast.wait()
        same(fast(*args), function(*args))
    return fast


def chosen(fast: lt.Compiled) -> list[str]:
    calls = fast.programs()[0].main.calls
    assert all(call.settled for call in calls)
    return [x.measured.chosen for x in calls if x.measured is not None]


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("way", ["generated", TORCH])
def test_the_faster_way_stays(clock: Clock, way: str, wait: bool) -> None:
    clock.fast = way
    fast = run(X, Y, wait=wait)
    assert chosen(fast) == [way, way]
    assert clock.met == [["generated", TORCH]] * 2
    for call in fast.programs()[0].main.calls:
        assert (call.call == call.by_torch) == (way == TORCH)
    text = fast.explain()
    times = "generated 1.0, torch 2.0" if way == "generated" else "generated 2.0, torch 1.0"
    assert f"{times}: {way} runs\n" in text
    assert ("measured to be faster than the generated one" in text) == (way == TORCH)
    assert "not in use yet" not in text


def test_with_wait_it_is_measured_inside_the_first_call(clock: Clock) -> None:
    fast = lt.compile(function, wait=True, tune=True)
    with torch.no_grad():
        fast(X, Y)
        assert len(clock.met) == 2
        assert fast.programs()[0].main.settled()


def test_before_it_is_measured_a_program_is_not_settled(clock: Clock) -> None:
    fast = lt.compile(function, tune=True)
    with torch.no_grad():
        fast(X, Y)
        fast.wait()
        program = fast.programs()[0].main
        if not clock.met:  # else the kernels were there in time for the first call
            assert not program.settled()
        fast(X, Y)
        assert program.settled()


def test_without_tune_nothing_is_measured_or_read(clock: Clock) -> None:
    run(X, Y)
    del clock.met[:]
    tuner_for.cache_clear()
    fast = run(X, Y, tune=False)
    assert clock.met == [] and chosen(fast) == []
    assert all(call.call != call.op.run for call in fast.programs()[0].main.calls)
    assert "measured" not in fast.explain()


@pytest.mark.parametrize("way", ["generated", TORCH])
def test_a_later_process_does_not_measure_again(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    clock.fast = way
    run(X, Y)
    tuner_for.cache_clear()  # as a later process begins
    monkeypatch.setattr(tune, "measure", None)
    fast = run(X, Y)
    assert chosen(fast) == [way, way]
    assert f"{way} runs (measured before, and remembered)" in fast.explain()


def test_other_sizes_are_measured_for_themselves(clock: Clock) -> None:
    run(X, Y)
    run(X, Y)
    assert len(clock.met) == 2
    run(torch.randn(9, 9), torch.randn(9, 9))
    assert len(clock.met) == 4


def test_equal_call_sites_are_measured_once(clock: Clock) -> None:
    def layers(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            x = (x @ y).tanh() * 2
        return x

    fast = lt.compile(layers, wait=True, tune=True)
    with torch.no_grad():
        same(fast(X, Y), layers(X, Y))
    assert len(fast.programs()[0].main.calls) == 4
    assert clock.met == [["generated", TORCH]]


def test_gradients_are_eagers(clock: Clock) -> None:
    xs = [X.clone().requires_grad_() for _ in range(2)]
    fast = lt.compile(function, wait=True, tune=True)
    for f, x in zip((fast, function), xs, strict=True):
        f(x, Y).sum().backward()
    same(xs[0].grad, xs[1].grad)
    assert len(clock.met) == 4  # two kernels of the forward, two of the backward


def test_what_is_written_is_written_once(clock: Clock) -> None:
    def count(x: torch.Tensor) -> torch.Tensor:
        x.add_(1).mul_(2)
        return x.relu() + 1

    ours, theirs = X.clone(), X.clone()
    fast = lt.compile(count, wait=True, tune=True)
    with torch.no_grad():
        same(fast(ours), count(theirs))
    same(ours, theirs)
    assert clock.met


def test_noise_does_not_change_the_way() -> None:
    assert fastest({"generated": 1.00, TORCH: 0.96}) == "generated"
    assert fastest({"generated": 1.00, TORCH: 0.94}) == TORCH
    assert fastest({"generated": 1.00, "generated/1": 0.9, TORCH: 0.94}) == "generated/1"


def test_what_cannot_be_captured_stays_only_where_nothing_else_can_be(tmp_path: Path) -> None:
    assert fastest({"generated": 9.0, TORCH: math.inf}) == "generated"
    assert fastest({"generated": math.inf, TORCH: math.inf}) == "generated"
    assert fastest({"generated": math.inf, TORCH: 9.0}) == TORCH
    found = Measured({"generated": 9.0, TORCH: math.inf}, "generated")
    assert "torch not in a CUDA graph: generated runs" in measured_text(found)
    Choices(tmp_path, CPU).add("a", found)
    again = Choices(tmp_path, CPU).find("a")
    assert again is not None and again.seconds == found.seconds


def test_ways_that_fail_or_lay_results_out_otherwise_are_left_out() -> None:
    def refuses(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel")

    ways = {
        "own": torch.exp,
        "turned": lambda x: x.t().contiguous().exp().t(),
        "wider": lambda x: x.double(),
        "refuses": refuses,
        "same": lambda x: x + 1,
    }
    assert list(alike(ways, [X])) == ["own", "same"]
    with pytest.raises(RuntimeError, match="no kernel"):
        alike({"refuses": refuses, "same": ways["same"]}, [X])


# What is kept on disk.


def measured(n: int = 0) -> Measured:
    return Measured({"generated": 1e-6 * (n + 1), TORCH: 2e-6 * (n + 1)}, "generated")


def test_a_file_holds_what_several_processes_measured(tmp_path: Path) -> None:
    first, second = Choices(tmp_path, CPU), Choices(tmp_path, CPU)
    first.add("a", measured())
    second.add("b", measured(3))
    third = Choices(tmp_path, CPU)
    assert third.find("a") == Measured(measured().seconds, "generated", remembered=True)
    assert third.find("b") == Measured(measured(3).seconds, "generated", remembered=True)
    assert third.find("c") is None and second.find("b") == measured(3)


def test_a_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "KEPT", 3)
    found = Choices(tmp_path, CPU)
    for key in "abcad":
        found.add(key, measured())
    assert list(Choices(tmp_path, CPU).known) == ["c", "a", "d"]


def damaged(text: str, about: object) -> dict[str, str]:
    said = json.loads(text)
    return {
        "cut": text[: len(text) // 2],
        "empty": "",
        "a list": "[]",
        "deep": "[" * 100_000,
        "another device": json.dumps({**said, "about": {**said["about"], "device": "other"}}),
        "no choices": json.dumps({"about": about, "choices": 3}),
        "no times": json.dumps({"about": about, "choices": {"a": {"chosen": "generated"}}}),
        "text for a time": text.replace("1.0", '"1.0"'),
        "an unmeasured choice": text.replace('"chosen": "generated"', '"chosen": "other"'),
    }


@pytest.mark.parametrize("kind", damaged('{"about": {}}', {}))
def test_a_damaged_or_foreign_file_counts_as_empty(tmp_path: Path, kind: str) -> None:
    found = Choices(tmp_path, CPU)
    found.add("a", measured())
    text = found.path.read_text()
    found.path.write_text(damaged(text, found.about)[kind])
    again = Choices(tmp_path, CPU)
    assert again.find("a") is None
    again.add("a", measured())
    assert Choices(tmp_path, CPU).find("a") is not None


def test_versions_and_devices_have_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {Choices(tmp_path, CPU).path}
    monkeypatch.setattr(choices, "version_of", lambda package: "9.9")
    found.add(Choices(tmp_path, CPU).path)
    for name in ("H200", "H100"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        found.add(Choices(tmp_path, torch.device("cuda", 0)).path)
    assert len(found) == 4


def test_a_folder_that_cannot_be_used_costs_only_the_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    found = Choices(blocked, CPU)
    found.add("a", measured())
    assert found.find("a") == measured()


def test_a_remembered_way_that_does_not_exist_is_measured_again(clock: Clock) -> None:
    run(X, Y)
    (file,) = Path(tuner_for(environment()).folder).glob("tuned-*.json")
    file.write_text(file.read_text().replace(TORCH + '"', 'generated/7"'))
    tuner_for.cache_clear()
    del clock.met[:]
    clock.fast = "generated"
    assert chosen(run(X, Y)) == ["generated", "generated"]
    assert len(clock.met) == 2


# On a GPU, by stand-ins.


class OnGpu:
    """A call site on a GPU that is not there."""

    device = torch.device("cuda", 0)

    def __init__(self) -> None:
        self.call: Callable[..., Any] = lambda x: x + 1
        self.settled = True
        self.measured: Measured | None = None
        self.given = {TORCH: self.call, "other": lambda x: 1 + x}

    def key(self, xs: Any) -> str:
        return "site"

    def spare(self, xs: Any) -> Any:
        return xs

    def ways(self, xs: Any) -> dict[str, Callable[..., Any]]:
        return self.given

    def take(self, measured: Measured, way: Callable[..., Any]) -> None:
        self.measured, self.call, self.settled = measured, way, True


def test_nothing_is_measured_while_a_graph_is_recorded(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = True
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "none")
    clock.fast = "other"
    site, tuner = OnGpu(), Tuner(Environment(tmp_path, None))
    tuner.offer(site)
    same(site.call(X), X + 1)
    assert clock.met == [] and not site.settled
    recording = False
    same(site.call(X), X + 1)
    assert clock.met == [[TORCH, "other"]] and site.settled
    assert site.call is site.given["other"]


@pytest.mark.parametrize("users", [True, False])
def test_cudnn_searches_in_our_own_calls_alone(
    monkeypatch: pytest.MonkeyPatch, users: bool
) -> None:
    recording = False
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", users)
    seen: list[bool] = []

    def program(fails: bool) -> tuple[Any, ...]:
        seen.append(torch.backends.cudnn.benchmark)
        if fails:
            raise RuntimeError("out of memory")
        return ()

    assert searched(program, False) == ()
    with pytest.raises(RuntimeError, match="out of memory"):
        searched(program, True)
    assert torch.backends.cudnn.benchmark == users
    recording = True
    searched(program, False)
    assert seen == [True, True, users]
