"""Builds: a kernel that the compiler refuses takes no other with it; a launch calls Triton."""

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lazytorch.errors import CompilerError
from lazytorch.ir import Builder, Graph, input
from lazytorch.lower.lowered import lowered
from lazytorch.lower.triton import binary, foreach
from lazytorch.lower.triton.binary import Binaries
from lazytorch.ops.elementary import Exp
from lazytorch.options import Options
from lazytorch.runtime.build import refusals
from lazytorch.types import tensor_type


class Picky:
    """Refuses kernels with a bad name, and then builds nothing that came with it."""

    def __init__(self) -> None:
        self.built: set[str] = set()

    def build(self, kernels: Sequence[Any]) -> None:
        for kernel in kernels:
            if kernel.name.startswith("bad"):
                raise CompilerError(f"no {kernel.name}")
        self.built |= {kernel.name for kernel in kernels}


@pytest.mark.parametrize(
    ("names", "refused"),
    [(["a", "b"], []), (["a", "bad", "b"], ["bad"]), (["bad"], ["bad"]), (["bad1", "bad2"], None)],
)
def test_only_what_is_refused_is_not_built(names: list[str], refused: list[str] | None) -> None:
    target: Any = Picky()
    kernels: Any = {name: SimpleNamespace(name=name) for name in names}
    found = refusals(target, kernels)
    assert list(found) == (names if refused is None else refused)
    assert target.built == set(names) - set(found)


def test_the_launch_of_joined_updates_calls_tritons_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lines(*arguments: Any) -> list[str]:
        arguments[-1]["start"] = lambda *xs: xs
        return ["return start(7, table)"]

    monkeypatch.setattr(foreach, "start_lines", lines)
    layout: Any = SimpleNamespace(pointers=[], values=[1])
    kernel: Any = SimpleNamespace(name="k")
    launch = foreach.starter(None, kernel, layout, 2, 3, None)  # type: ignore[arg-type]
    assert launch("table", "blocks", "spans", 0.5) == (7, "table")


class Slow:
    """Has the first kernel only when the second is loaded."""

    def __init__(self) -> None:
        self.loaded = threading.Event()
        self.overlapped = False

    def running(self) -> None:
        return None

    def wait(self, kernels: Sequence[Any]) -> None:
        if kernels[0].name == "first":
            self.overlapped = self.loaded.wait(60)


def test_what_is_compiled_is_loaded_while_others_are_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ahead = Slow()
    monkeypatch.setattr(binary, "AHEAD", ahead)
    monkeypatch.setattr(binary.os, "cpu_count", lambda: 2)
    binaries = Binaries()
    done: list[str] = []

    def load(kernel: Any, index: int) -> None:
        done.append(kernel.name)
        ahead.loaded.set()

    monkeypatch.setattr(binaries, "load", load)
    kernels: Any = [SimpleNamespace(name=name) for name in ("first", "second")]
    binaries.build(kernels)
    assert done == ["second", "first"] and ahead.overlapped


def test_the_longest_kernels_are_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ahead = SimpleNamespace(
        running=lambda: True, ask=lambda kernel, gpu: asked.append(kernel.name + gpu)
    )
    monkeypatch.setattr(binary, "AHEAD", ahead)
    monkeypatch.setattr(binary, "gpu_of", lambda index: f"@{index}")
    binaries = Binaries()
    kernels: Any = [SimpleNamespace(name=x, source=x) for x in ("a", "ccc", "bb", "dddd")]
    for kernel in kernels:
        binaries.expect(kernel, torch.device("cuda", 1))
    assert not asked, "what is prepared need not be what is taken"
    binaries.loaded["dddd", 1, True] = None
    binaries.ask(kernels)
    assert asked == ["ccc@1", "bb@1", "a@1"]


def test_kernels_are_expected_before_a_graph_is_put_in_order() -> None:
    x = input("x", tensor_type((3,)))
    graph = Graph((x,), (Builder()(Exp(), x),))
    seen: list[str] = []
    found = lowered(
        graph,
        Options(),
        lambda graph: None,
        lambda name, *_: seen.append(name),
        expect=lambda graph: seen.append("expected"),
    )
    assert seen.count("expected") == 1
    assert seen[-3:] == ["horizontal", "expected", "order"]
    seen.clear()
    plan: Any = SimpleNamespace(needed_bytes=7)
    chosen = lowered(
        graph,
        Options(max_bytes=8),
        lambda graph: None,
        lambda name, *_: seen.append(name),
        lambda *_: plan,
        lambda graph: seen.append(f"expected {len(graph)}"),
    )
    assert seen[-1] == f"expected {len(chosen.graph)}" and len(chosen.graph) == len(found.graph)
    assert sum(x.startswith("expected") for x in seen) == 1
