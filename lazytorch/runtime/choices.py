"""What was measured on a device, kept on disk beside the kernels, so that it is measured once.

One JSON file for each device and each set of versions. A file that is damaged, or that says of
itself that it is about something else, counts as empty.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock

from lazytorch.lower.call import Measured
from lazytorch.lower.cpp.toolchain import cpu_features
from lazytorch.runtime.cache import CacheError, private_folder, touch

KEPT = 2048
"""Call sites in one file; those that were measured longest ago make room."""


class Choices:
    """The choices for one device, in memory and in a file that processes share.

    Where the folder cannot be used, they are remembered for this process.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.about = about(device)
        digest = hashlib.sha256(json.dumps(self.about).encode()).hexdigest()
        self.path = folder / f"tuned-{digest[:32]}.json"
        self.lock = folder / "tuned.lock"
        self.known: dict[str, Measured] = {}
        with suppress(CacheError, OSError):
            private_folder(folder)
            self.known = self.read()
            touch(self.path)

    def find(self, key: str) -> Measured | None:
        """What is known of a call site."""
        return self.known.get(key)

    def add(self, key: str, measured: Measured) -> None:
        """Remember, beside what other processes have written since."""
        self.known[key] = measured
        with suppress(CacheError, OSError):
            private_folder(self.path.parent)
            with FileLock(self.lock):
                found = self.read()
                found.pop(key, None)  # what is measured last stands last
                found[key] = measured
                self.write(dict(list(found.items())[-KEPT:]))

    def read(self) -> dict[str, Measured]:
        """The file's entries, as far as they make sense."""
        try:
            found = json.loads(self.path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        said = cast(dict[str, Any], found)
        if said.get("about") != self.about or not isinstance(said.get("choices"), dict):
            return {}
        entries = {key: entry(value) for key, value in said["choices"].items()}
        return {key: value for key, value in entries.items() if value is not None}

    def write(self, choices: dict[str, Measured]) -> None:
        """Put the file in place as a whole."""
        entries = {
            key: {
                "chosen": x.chosen,
                "microseconds": {way: round(s * 1e6, 3) for way, s in x.seconds.items()},
            }
            for key, x in choices.items()
        }
        descriptor, name = tempfile.mkstemp(".json", "building-", self.path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"about": self.about, "choices": entries}, file, indent=1)
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)


def entry(found: Any) -> Measured | None:
    """A call site's entry; None for what is none."""
    match found:
        case {"chosen": str(chosen), "microseconds": dict(times)}:
            seconds = {
                str(way): time / 1e6
                for way, time in cast(dict[Any, Any], times).items()
                if isinstance(time, int | float)
            }
            return Measured(seconds, chosen, remembered=True) if chosen in seconds else None
        case _:
            return None


def about(device: torch.device) -> dict[str, str]:
    """What a measurement depends on beside the call site: the device, and whose code runs."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{cpu_features()}, {torch.get_num_threads()} threads"
    versions = {package: version_of(package) for package in ("lazytorch", "torch", "triton")}
    return {"device": name, **versions, "cuda": str(torch.version.cuda)}


def version_of(package: str) -> str:
    """A package's version; empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
