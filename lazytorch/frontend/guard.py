"""A device guard for CUDA tensors without memory, in builds of torch that have none.

Around calls on a tensor torch makes its device current, which a build without CUDA refuses, even
where nothing is computed. A CUDA build replaces its guard by an idle one as soon as fake tensors
are made where there is no GPU; here the guard of meta tensors, which does nothing, is lent.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from lazytorch.errors import DeviceError

REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
CUDA, META = 1, 14  # of c10::DeviceType


@contextmanager
def guarded(device: torch.device) -> Generator[None]:
    """Around the recording of a function whose tensors stand on `device`."""
    if device.type != "cuda" or torch.version.cuda is not None:
        yield
        return
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        guards = (ctypes.c_void_p * (META + 1)).in_dll(library, REGISTRY)
    except (OSError, ValueError) as error:
        raise DeviceError(
            "this build of torch cannot record for a CUDA device",
            hint="a build with CUDA can, without a GPU too",
        ) from error
    before = guards[CUDA]
    guards[CUDA] = before or guards[META]
    try:
        yield
    finally:
        guards[CUDA] = before
