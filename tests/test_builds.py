"""Builds: a kernel that the compiler refuses takes no other with it; a launch calls Triton."""

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from lazytorch.errors import CompilerError
from lazytorch.lower.triton import binary, foreach
from lazytorch.lower.triton.binary import Binaries
from lazytorch.runtime.build import refusals


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
