"""Keeps compiled kernels on disk, so that a fresh process does not compile them again."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from lazytorch.errors import LazyTorchError

DIGEST = ".sha256"
"""Ends the name of the file beside an entry that says what the entry's bytes must hash to."""

IN_USE = 60.0
"""Seconds for which a used entry is safe from eviction: who got its path may not have opened it."""


class CacheError(LazyTorchError):
    """The cache folder cannot be used safely."""


class DiskCache:
    """A folder of files named by what they were built from.

    Safe for several processes and threads at once. The folder belongs to the user alone (0700): its
    files are loaded as code, so nobody else may be able to write one. After a build, the entries
    that were used longest ago go until at most `limit` bytes are left.
    """

    def __init__(self, folder: Path, limit: int = 512 * 2**20) -> None:
        """Open or create `folder`; CacheError when it is not the user's own."""
        self.folder = private_folder(folder)
        self.limit = limit

    def get_or_build(self, key: str, build: Callable[[Path], None], suffix: str) -> Path:
        """Return the file for `key`, building it when it is missing or damaged.

        `key` is a file name that stands for everything the content depends on, such as a sha256.
        `build` writes the file at the path that it is given, which ends in `suffix`; what it raises
        goes to the caller and leaves no entry. Of several callers at once, one builds.
        """
        path = self.folder / f"{key}{suffix}"
        if is_intact(path):
            touch(path)
            return path
        # 16 locks serve all keys: a lock file of its own for each would outlive its entry, as
        # deleting a lock that another process may be waiting for is a race.
        with FileLock(self.folder / f"{key[:1]}.lock"):
            if not is_intact(path):
                self.write(path, build, suffix)
                self.evict(path)
        return path

    def write(self, path: Path, build: Callable[[Path], None], suffix: str) -> None:
        """Build into a file beside `path`, then put it and its digest in place, each atomically."""
        descriptor, name = tempfile.mkstemp(suffix, "building-", self.folder)
        os.close(descriptor)
        temporary = Path(name)
        beside = temporary.with_name(temporary.name + DIGEST)
        try:
            build(temporary)
            beside.write_text(digest_of(temporary), encoding="ascii")
            os.replace(temporary, path)
            os.replace(beside, digest_path(path))
        finally:
            temporary.unlink(missing_ok=True)
            beside.unlink(missing_ok=True)

    def evict(self, keep: Path) -> None:
        """Remove what was not used for longest until the folder fits its limit, but not `keep`."""
        entries: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            if path.suffix in (DIGEST, ".lock"):
                continue
            with suppress(FileNotFoundError):  # another process evicts too
                found = path.stat()
                entries.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in entries)
        recent = time.time() - IN_USE
        for used, size, path in sorted(entries):
            if total <= self.limit:
                return
            if path == keep or used > recent:
                continue
            path.unlink(missing_ok=True)
            digest_path(path).unlink(missing_ok=True)
            total -= size


def private_folder(folder: Path) -> Path:
    """Return `folder`, made if need be; CacheError unless only this user can write into it."""
    try:
        folder.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        link, found = folder.lstat(), folder.stat()
    except OSError as error:
        raise CacheError(f"cannot use the cache folder {folder}: {error.strerror}") from error
    for owner in (link.st_uid, found.st_uid):
        if owner != os.getuid():
            raise CacheError(
                f"the cache folder {folder} belongs to user {owner}, not to user {os.getuid()}",
                hint="choose another folder: whoever owns it could have your kernels replaced.",
            )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CacheError(
            f"others may write into the cache folder {folder}",
            {"mode": f"{stat.S_IMODE(found.st_mode):o}"},
            hint="delete it, or choose another: what is in it would be loaded as code.",
        )
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        folder.chmod(stat.S_IRWXU)
    return folder


def digest_path(path: Path) -> Path:
    """Where the digest of an entry is."""
    return path.with_name(path.name + DIGEST)


def digest_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_intact(path: Path) -> bool:
    """Whether an entry is there with the bytes that were written."""
    try:
        return digest_path(path).read_text(encoding="ascii") == digest_of(path)
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def touch(path: Path) -> None:
    """Note that an entry was used."""
    with suppress(FileNotFoundError):
        os.utime(path)
