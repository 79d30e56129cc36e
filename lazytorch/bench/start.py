"""How long a fresh process waits for a first result, and for full speed: cold, and with caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lazytorch.bench.case import Case
from lazytorch.errors import LazyTorchError
from lazytorch.types import dtype_name, dtype_named

CACHES = ("LAZYTORCH_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@dataclass(frozen=True)
class Start:
    """Seconds from the built model to its first result, and to the end of the first call at full
    speed (every kernel compiled and in use). `fault` says what is wrong with the first result.
    `memory` is the peak in bytes beside weights and inputs, with nothing else in the process.
    """

    first: float
    full: float
    fault: str
    memory: int


def starts(
    case: Case, side: str, progress: Callable[[str], object] = lambda text: None
) -> tuple[Start, Start]:
    """A cold start (every cache empty) and then a warm one, each in a process of its own.

    LazyTorchError with the end of its output if such a process fails.
    """
    with TemporaryDirectory(prefix="lazytorch-bench-") as folder:
        progress(f"{side}: cold start in a fresh process")
        cold = fresh_process(case, side, Path(folder))
        progress(f"{side}: warm start in a fresh process")
        return cold, fresh_process(case, side, Path(folder))


def fresh_process(case: Case, side: str, caches: Path) -> Start:
    """One start, with all caches of compiled code in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "lazytorch.bench.child", pack(case, side)],
        env={**os.environ, **{name: str(caches / name.lower()) for name in CACHES}},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-5:]
        raise LazyTorchError(
            f"a fresh process that starts {case.model} with {side} failed",
            {"status": done.returncode, "it wrote": "\n    ".join(["", *last])},
        )
    return Start(**json.loads(done.stdout.splitlines()[-1]))


def pack(case: Case, side: str) -> str:
    """A case and a side as text for the child process."""
    named = {"dtype": dtype_name(case.dtype), "device": str(case.device)}
    return json.dumps([{**asdict(case), **named}, side])


def unpack(text: str) -> tuple[Case, str]:
    """Inverse of `pack`."""
    fields, side = json.loads(text)
    dtype, device = dtype_named(fields.pop("dtype")), torch.device(fields.pop("device"))
    return Case(**fields, dtype=dtype, device=device), side
