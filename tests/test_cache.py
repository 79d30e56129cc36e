"""The kernel cache: one build for many processes, damage, ownership, eviction."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lazytorch.runtime.cache import CacheError, DiskCache, digest_path


def writer(content: bytes, calls: list[Path] | None = None):
    def build(path: Path) -> None:
        if calls is not None:
            calls.append(path)
        path.write_bytes(content)

    return build


def files(folder: Path) -> list[str]:
    return sorted(x.name for x in folder.iterdir() if x.suffix != ".lock")


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_builds_once(tmp_path: Path) -> None:
    cache, calls = DiskCache(tmp_path / "cache"), []
    first = cache.get_or_build("abc", writer(b"code", calls), ".so")
    again = DiskCache(tmp_path / "cache").get_or_build("abc", writer(b"other", calls), ".so")
    assert first == again == tmp_path / "cache" / "abc.so"
    assert first.read_bytes() == b"code" and len(calls) == 1
    assert calls[0].name.endswith(".so") and calls[0] != first


def test_keys_and_suffixes_are_kept_apart(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    paths = [
        cache.get_or_build(key, writer(key.encode() + suffix.encode()), suffix)
        for key in ("a1", "a2", "b1")
        for suffix in (".so", ".cubin")
    ]
    assert len({x.read_bytes() for x in paths}) == 6


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "no digest", "bad digest"])
def test_a_damaged_entry_is_rebuilt(tmp_path: Path, damage: str) -> None:
    cache = DiskCache(tmp_path)
    path = cache.get_or_build("abc", writer(b"good code"), ".so")
    match damage:
        case "cut":
            path.write_bytes(b"good")
        case "changed":
            path.write_bytes(b"evil code")
        case "empty":
            path.write_bytes(b"")
        case "no digest":
            digest_path(path).unlink()
        case _:
            digest_path(path).write_bytes(b"\xff\xfe")
    assert cache.get_or_build("abc", writer(b"good code"), ".so").read_bytes() == b"good code"
    calls: list[Path] = []
    cache.get_or_build("abc", writer(b"never", calls), ".so")
    assert calls == []


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("compiler crashed")

    cache = DiskCache(tmp_path)
    with pytest.raises(RuntimeError, match="compiler crashed"):
        cache.get_or_build("abc", build, ".so")
    assert files(tmp_path) == []
    assert cache.get_or_build("abc", writer(b"code"), ".so").read_bytes() == b"code"


PROCESS = """
import sys, time
from pathlib import Path
from lazytorch.runtime.cache import DiskCache

def build(path):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    with path.open("wb") as file:  # slowly, so that the other processes find it half done
        for _ in range(10):
            file.write(b"x" * 1000)
            file.flush()
            time.sleep(0.02)

path = DiskCache(Path(sys.argv[1])).get_or_build("abc", build, ".so")
assert path.read_bytes() == b"x" * 10000
"""


def test_processes_at_once_build_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "cache"), str(tmp_path / "log")]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        assert process.communicate()[1] == "" and process.returncode == 0
    assert (tmp_path / "log").read_text() == "built\n"
    assert files(tmp_path / "cache") == ["abc.so", "abc.so.sha256"]


def test_threads_at_once_build_once(tmp_path: Path) -> None:
    cache, calls, found = DiskCache(tmp_path), [], []

    def build(path: Path) -> None:
        calls.append(path)
        time.sleep(0.05)
        path.write_bytes(b"code")

    def work() -> None:
        found.append(cache.get_or_build("abc", build, ".so").read_bytes())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and found == [b"code"] * 4


def test_the_folder_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        DiskCache(tmp_path / "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_readable_folder_is_closed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    DiskCache(tmp_path / "open")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_a_folder_that_others_may_write_into_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(CacheError, match="others may write"):
        DiskCache(tmp_path / "open")


@pytest.mark.parametrize("linked", [False, True], ids=["folder", "link"])
def test_somebody_elses_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    if linked:
        folder = tmp_path / "link"
        folder.symlink_to(tmp_path / "theirs")
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(CacheError, match="belongs to user"):
        DiskCache(folder)


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot use the cache folder"):
        DiskCache(tmp_path / "file")


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit=350)
    for i, key in enumerate("abc"):
        age(cache.get_or_build(key, writer(b"x" * 100), ".so"), 1000 - i)
    cache.get_or_build("a", writer(b"never"), ".so")  # used: now the youngest
    cache.get_or_build("d", writer(b"x" * 100), ".so")
    assert [x for x in files(tmp_path) if x.endswith(".so")] == ["a.so", "c.so", "d.so"]
    assert "b.so.sha256" not in files(tmp_path)


def test_what_was_just_used_stays(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit=50)
    for key in "abc":
        cache.get_or_build(key, writer(b"x" * 100), ".so")
    assert len([x for x in files(tmp_path) if x.endswith(".so")]) == 3


def test_what_a_killed_process_left_is_evicted(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit=150)
    (tmp_path / "building-xyz.so").write_bytes(b"x" * 100)
    age(tmp_path / "building-xyz.so", 1000)
    cache.get_or_build("a", writer(b"x" * 100), ".so")
    assert files(tmp_path) == ["a.so", "a.so.sha256"]
