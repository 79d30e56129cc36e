"""How long a fresh process waits for a first result, and for full speed: cold, and with caches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lazytorch.bench.case import Case
from lazytorch.bench.machine import PACKAGE
from lazytorch.bench.sides import MAX_AUTOTUNE
from lazytorch.errors import LazyTorchError
from lazytorch.types import dtype_name, dtype_named

CACHES = ("LAZYTORCH_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")

APART = 240.0
"""Seconds that max-autotune may take: with some models it does not come to an end in minutes."""


@dataclass(frozen=True)
class Start:
    """Seconds from the built model to its first result, and to the end of the first call at full
    speed (every kernel compiled and in use), in a process that goes on calling all the time. `near`
    is the end of the first call within 5 % of the final speed.

    `fault` says what is wrong with the first result. `memory` is the peak in bytes beside weights
    and inputs, with nothing else in the process; None where it is not torch's.
    """

    first: float
    full: float
    near: float
    fault: str
    memory: int | None


def starts(
    case: Case, side: str, progress: Callable[[str], object] = lambda text: None
) -> tuple[Start, Start]:
    """A cold start (every cache empty) and then a warm one, each in a process of its own.

    LazyTorchError with the end of its output if such a process fails.
    """
    with TemporaryDirectory(prefix="lazytorch-bench-") as folder:
        caches = {name: str(Path(folder) / name.lower()) for name in CACHES}
        progress(f"{side}: cold start in a fresh process")
        cold = fresh_process(case, side, caches)
        progress(f"{side}: warm start in a fresh process")
        return cold, fresh_process(case, side, caches)


def compile_apart(case: Case, side: str) -> None:
    """Compile a side into this process's caches, in a process that is ended after `APART` seconds.

    What finishes there takes seconds here; LazyTorchError for what does not.
    """
    fresh_process(case, side, {})


def fresh_process(case: Case, side: str, caches: dict[str, str]) -> Start:
    """One start, with the caches of compiled code where environment variables say."""
    limit = APART if side == MAX_AUTOTUNE else None
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    same = {"PYTHONPATH": os.pathsep.join(paths)}  # the lazytorch that runs here, wherever it is
    with subprocess.Popen(
        [sys.executable, "-m", "lazytorch.bench.child", pack(case, side)],
        env={**os.environ, **same, **caches},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=limit)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # and the workers that it compiles with
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise LazyTorchError(f"it did not compile within {limit:.0f} s") from error
    if process.returncode:
        last = errors.strip().splitlines()[-5:]
        raise LazyTorchError(
            f"a fresh process that starts {case.model} with {side} failed"
            + (f": {last[-1]}" if last else ""),
            {"status": process.returncode, "it wrote": "\n    ".join(["", *last])},
        )
    return Start(**json.loads(output.splitlines()[-1]))


def pack(case: Case, side: str) -> str:
    """A case and a side as text for the child process."""
    named = {"dtype": dtype_name(case.dtype), "device": str(case.device)}
    return json.dumps([{**asdict(case), **named}, side])


def unpack(text: str) -> tuple[Case, str]:
    """Inverse of `pack`."""
    fields, side = json.loads(text)
    dtype, device = dtype_named(fields.pop("dtype")), torch.device(fields.pop("device"))
    return Case(**fields, dtype=dtype, device=device), side
