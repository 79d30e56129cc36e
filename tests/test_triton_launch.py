"""The lines that launch a compiled Triton kernel, run against a stand-in for its launcher."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported
pytest.importorskip("triton")

from triton.runtime import driver

from lazytorch.lower.kernel import Kernel
from lazytorch.lower.triton import binary
from lazytorch.lower.triton.launch import LAUNCHERS, launched


class Recorder:
    """Stands for Triton's compiled kernel, and keeps what it is launched with."""

    def __init__(self, function: int) -> None:
        self.function = function
        self.packed_metadata = (4, 1, 0)
        self.run = self
        self.calls: list[tuple[object, ...]] = []

    def launch(self, *arguments: object) -> None:
        self.calls.append(arguments)


@pytest.mark.parametrize("version", LAUNCHERS)
def test_only_aligned_tensors_take_the_kernel_with_wide_loads(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triton.__version__", f"{version}.0")
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda i: 40 + i, raising=False)
    aligned, other = Recorder(1), Recorder(2)
    space: dict[str, object] = {}
    lines = launched(aligned, lambda: other, 0, 7, ["x", "y"], (100, 3), space)
    memory = torch.empty(64, dtype=torch.uint8)
    start = -memory.data_ptr() % 16
    for x, y in ((0, 16), (0, 4), (8, 16)):
        values = {"x": memory[start + x :], "y": memory[start + y :]}
        exec("\n".join(lines), space | values)
    assert [call[:5] for call in aligned.calls] == [(7, 1, 1, 40, f) for f in (1, 2, 2)]
    pointers = [memory.data_ptr() + start + k for k in (0, 4)]
    flat = aligned.calls[1][-1] if version == "3.7" else aligned.calls[1][-4:]
    assert flat == (*pointers, 100, 3)


@pytest.mark.parametrize("names", [("table", "p2"), ("p1", "p0"), ("f", "m"), ("x1", "x0")])
def test_operands_may_have_any_names(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda i: i, raising=False)
    kernel, tensors = Recorder(1), [torch.empty(64), torch.empty(64)]
    space: dict[str, object] = {}
    lines = launched(kernel, lambda: kernel, 0, 1, list(names), (), space)
    exec("\n".join(lines), space | dict(zip(names, tensors, strict=True)))
    call = kernel.calls[0][-1]
    found = call if isinstance(call, tuple) else kernel.calls[0][-2:]
    assert found == tuple([x.data_ptr() for x in tensors])


def test_launchers_are_loaded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that Python loads at once are one module to it: either may get the other's function."""
    inside: list[int] = []
    most: list[int] = []

    class Compiled:
        @property
        def run(self) -> None:
            inside.append(1)
            time.sleep(0.01)
            most.append(len(inside))
            inside.pop()

    monkeypatch.setattr(binary, "interpreting", lambda: False)
    monkeypatch.setattr(binary, "compile_kernel", lambda *_, **__: Compiled())
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(driver, "_active", SimpleNamespace(get_current_target=lambda: None))
    kernels = [Kernel(f"k{i}", f"def k{i}(): pass") for i in range(6)]
    each = [binary.Binaries(), binary.Binaries()]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: each[i % 2].load(kernels[i], 0), range(6)))
    assert most == [1] * 6
