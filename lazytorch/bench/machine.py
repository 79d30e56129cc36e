"""What a measurement was made on: without it a number says nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from lazytorch.errors import DeviceError

PACKAGE = Path(__file__).resolve().parent.parent

OTHERS = ("torchvision", "transformers", "jax", "onnxruntime", "openvino")
"""Whose versions belong to a number, where they are installed."""


def machine(device: torch.device) -> dict[str, str | int]:
    """Processor, cores, GPU, versions and the date, for a table and for JSON."""
    found: dict[str, str | int] = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lazytorch": installed("lazytorch"),
        **{package: installed(package) for package in OTHERS if find_spec(package) is not None},
        "commit": commit(),
        "sources": sources(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["triton"] = installed("triton")
    return found


def same(one: dict[str, str | int], other: dict[str, str | int]) -> bool:
    """Whether two measurements had the same machine, versions and sources, whenever they were."""
    aside = ("date", "commit")  # a commit may touch other files than the sources
    return all(one.get(name) == other.get(name) for name in {*one, *other} if name not in aside)


@cache
def sources() -> str:
    """A hash of lazytorch's own files: what was measured, also where there is no git."""
    files = {
        file
        for folder in (PACKAGE, PACKAGE / "passes")  # a link, which rglob does not follow
        for file in folder.rglob("*")
        if file.suffix in (".py", ".h")
    }
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(str(file.relative_to(PACKAGE)).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


@cache
def commit() -> str:
    """The git commit that lies here, `+` for changed files; empty outside git."""
    git = shutil.which("git")
    if git is None:
        return ""
    command = (git, "describe", "--always", "--dirty=+", "--exclude=*")
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def cpu_name() -> str:
    """The processor's name, where the system tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed(package: str) -> str:
    """A package's version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def parse_device(text: str) -> torch.device:
    """A device as torch spells it, or a GPU number; -1 and "" are the CPU and the best device.

    DeviceError for one that is not here.
    """
    if not text:
        return best_device()
    number = text.lstrip("-").isdigit()
    named = ("cpu" if text.startswith("-") else f"cuda:{text}") if number else text
    try:
        device = torch.device(named)
    except RuntimeError as error:
        raise DeviceError(f"no device is called {text!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"there is no device {text!r} here",
            {"GPUs": torch.cuda.device_count(), "torch": torch.__version__},
        )
    return device
