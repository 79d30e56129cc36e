"""Kernels compiled by a process of its own: they are found, and nothing waits in vain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lazytorch.ir import Builder, Graph, Op, input
from lazytorch.lower.kernel import Kernel
from lazytorch.lower.triton import TritonTarget
from lazytorch.lower.triton.ahead import Ahead
from lazytorch.ops.elementary import Exp
from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import Neg
from lazytorch.types import tensor_type

pytest.importorskip("triton")
H200 = ("cuda", 90, 32)


def kernel_of(op: Op) -> Kernel:
    """A kernel for a GPU that need not be here."""
    typed = tensor_type((33,), torch.float32, torch.device("cuda", 0))
    x = input("x", typed)
    return TritonTarget().prepare(Fused(Graph((x,), (Builder()(op, x),))), (typed,))


@pytest.fixture
def ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ahead]:
    """A process with an empty cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = Ahead()
    found.start()
    yield found
    found.stop()
    assert found.running() is None


FOUND = """
import json, sys
from triton.backends.compiler import GPUTarget
from lazytorch.lower.triton.source import compile_kernel, run_source

name, source, target = json.load(sys.stdin)
module = run_source(name, source)
compile_kernel(module, getattr(module, name), True, GPUTarget(*target))
"""


def test_what_it_compiled_is_in_the_cache(ahead: Ahead, tmp_path: Path) -> None:
    kernels = [kernel_of(Exp()), kernel_of(Neg())]
    for kernel in kernels:
        ahead.ask(kernel, H200)
    ahead.wait(kernels)
    there = set(tmp_path.rglob("*.cubin"))
    assert len(there) == 2
    for kernel in kernels:  # where no test has Triton's interpreter on
        asked = json.dumps((kernel.name, kernel.source, H200))
        subprocess.run([sys.executable, "-c", FOUND], input=asked, text=True, check=True)
    assert set(tmp_path.rglob("*.cubin")) == there, "compiled again"


def test_what_cannot_be_compiled_is_answered(ahead: Ahead, tmp_path: Path) -> None:
    broken = replace(kernel_of(Exp()), source="no Python")
    for kernel in (broken, kernel_of(Neg())):
        ahead.ask(kernel, H200)
        ahead.wait([kernel])
    assert len(list(tmp_path.rglob("*.cubin"))) == 1


def test_nobody_waits_for_a_process_that_ended(ahead: Ahead, tmp_path: Path) -> None:
    assert ahead.process is not None
    os.kill(ahead.process.pid, signal.SIGKILL)
    ahead.ask(kernel_of(Exp()), H200)
    ahead.wait([kernel_of(Exp())])
    assert not list(tmp_path.rglob("*.cubin"))
    ahead.start()
    assert ahead.running() is not None


def test_a_rehearsal_leaves_the_cache_alone(tmp_path: Path) -> None:
    code = (
        "import os; from lazytorch.lower.triton.server import rehearse; rehearse(); "
        "print(os.environ['TRITON_CACHE_DIR'])"
    )
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    env.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path)
    assert not list(tmp_path.iterdir())
