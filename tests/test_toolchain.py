"""The C++ compiler: found or not, its errors, and libraries that share torch's threads."""

from __future__ import annotations

import ctypes
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lazytorch as lt
from lazytorch.lower.cpp import toolchain
from lazytorch.runtime.cache import DiskCache

needs_compiler = pytest.mark.skipif(
    toolchain.find_compiler() is None, reason="needs a C++ compiler"
)
ANSWER = 'extern "C" int answer() { return 42; }'


@pytest.fixture
def nothing_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    toolchain.find_compiler.cache_clear()
    yield
    toolchain.find_compiler.cache_clear()


@pytest.mark.usefixtures("nothing_on_path")
def test_no_compiler_is_none_and_a_clear_error() -> None:
    assert toolchain.find_compiler() is None
    with pytest.raises(toolchain.NoCompilerError, match=r"none of g\+\+"):
        toolchain.load(ANSWER)


def test_a_named_compiler_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "fails").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "fails").chmod(0o755)
    for name in ("no-such-compiler", str(tmp_path / "fails")):
        with pytest.raises(toolchain.NoCompilerError, match="cannot be run"):
            toolchain.find_compiler(name)


@needs_compiler
def test_torchs_kernels_run_where_the_compiler_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LAZYTORCH_CACHE", str(tmp_path))
    found = toolchain.find_compiler()
    assert found is not None
    gone = replace(found, command=(str(tmp_path / "gone"),))
    with pytest.raises(toolchain.NoCompilerError, match="cannot be run any more: No such file"):
        gone.build(ANSWER, True, tmp_path / "answer.so")
    monkeypatch.setattr(toolchain, "find_compiler", lambda *_: gone)
    fast = lt.compile(lambda x: (x * 2).tanh() - 3, wait=True)
    x = torch.randn(4099)
    with pytest.warns(UserWarning, match="cannot be run any more"):
        y = fast(x)
    torch.testing.assert_close(y, (x * 2).tanh() - 3)


@needs_compiler
def test_a_named_compiler_may_have_arguments() -> None:
    found = toolchain.find_compiler()
    assert found is not None
    named = toolchain.find_compiler(f"{found.command[0]} -DVALUE=7")
    assert named is not None and named.command[1:] == ("-DVALUE=7",)
    source = 'extern "C" int answer() { return VALUE; }'
    assert toolchain.load(source, cxx=f"{found.command[0]} -DVALUE=7").answer() == 7


@needs_compiler
def test_refused_source_names_the_first_error() -> None:
    with pytest.raises(toolchain.CompileError, match="nonsense"):
        toolchain.load("int f() { return nonsense; }")


@needs_compiler
def test_a_stored_library_is_not_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DiskCache(tmp_path).get_or_build
    assert toolchain.load(ANSWER, store=store).answer() == 42

    def build(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(toolchain.Compiler, "build", build)
    assert toolchain.load(ANSWER, store=store).answer() == 42
    with pytest.raises(AssertionError, match="built again"):
        toolchain.load(ANSWER, contract=False, store=store)


@needs_compiler
def test_the_key_is_all_that_the_library_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = toolchain.find_compiler()
    assert compiler is not None
    keys = [compiler.key("a", True), compiler.key("a", False), compiler.key("b", True)]
    other = toolchain.Compiler(compiler.command, "newer", compiler.flags, compiler.libraries)
    keys.append(other.key("a", True))
    monkeypatch.setattr(toolchain, "cpu_features", lambda: "fewer")
    keys.append(compiler.key("a", True))
    assert len(set(keys)) == len(keys)


@needs_compiler
@pytest.mark.skipif(toolchain.openmp_library() is None, reason="torch has no OpenMP runtime")
def test_threads_are_torchs() -> None:
    library = toolchain.load(
        """
        extern "C" int team() {
            int size = 0;
        #pragma omp parallel
        #pragma omp single
            size = omp_get_num_threads();
            return size;
        }
        """
    )
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert library.team() == threads
    finally:
        torch.set_num_threads(before)
    maps = Path("/proc/self/maps")
    if maps.exists():
        runtimes = {x.split()[-1] for x in maps.read_text().splitlines() if "libgomp" in x}
        assert len(runtimes) <= 1


@needs_compiler
@pytest.mark.parametrize("contract", [True, False])
def test_contraction_only_where_it_is_allowed(contract: bool) -> None:
    source = 'extern "C" double f(double a, double b, double c) { return a * b + c; }'
    library = toolchain.load(source, contract=contract)
    library.f.restype = ctypes.c_double
    a = 1.0 + 2.0**-30
    found = library.f(ctypes.c_double(a), ctypes.c_double(a), ctypes.c_double(-a * a))
    assert found == 0.0 or contract


@needs_compiler
def test_loads_from_another_thread() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(toolchain.load(ANSWER).answer()))
    thread.start()
    thread.join()
    assert found == [42]


@needs_compiler
def test_a_process_that_cannot_be_made_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found, run, failed = toolchain.find_compiler(), subprocess.run, [OSError(14, "Bad address")]
    assert found is not None

    def once(*args: Any, **named: Any) -> Any:
        if failed:
            raise failed.pop()
        return run(*args, **named)

    monkeypatch.setattr(subprocess, "run", once)
    found.build(ANSWER, True, tmp_path / "one.so")
    assert not failed and (tmp_path / "one.so").exists()
