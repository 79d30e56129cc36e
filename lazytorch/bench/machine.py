"""What a measurement was made on: without it a number says nothing."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from lazytorch.errors import DeviceError


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
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["triton"] = installed("triton")
    return found


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
