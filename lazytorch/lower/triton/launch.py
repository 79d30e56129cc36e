"""Writes the function that a call site of a Triton kernel calls, with as few steps as can be."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from lazytorch.errors import LazyTorchError
from lazytorch.lower.kernel import Kernel, Launch, Operand
from lazytorch.lower.triton.binary import Binaries, interpreting
from lazytorch.lower.triton.source import ALIGNMENT
from lazytorch.types import TensorType

# What Triton's compiled launcher takes after the grid and the stream, by version of triton. It is
# not public; in other versions kernels are launched as Triton documents it, at more cost.
LAUNCHERS = {
    "3.6": "f, False, False, None, None, m, None, None, None, {arguments}",
    "3.7": "f, False, False, m, None, None, None, None, None, notes, kinds, ({arguments},)",
}


def make_launch(
    binaries: Binaries,
    kernel: Kernel,
    operands: tuple[Operand, ...],
    outputs: tuple[TensorType, ...],
    grid: int,
    numbers: tuple[int, ...],
    into: tuple[int, ...] = (),
) -> Launch:
    """The function for one call site: `operands` in, the outputs filled, allocated but for `into`.

    `numbers` are the arguments after the pointers; operands that are floats come last. It launches
    on the current stream of the outputs' device, from any thread, also while a CUDA graph is
    captured.
    """
    device = outputs[0].device
    given = [f"x{k}" for k in range(len(operands))]
    xs = [x for x, t in zip(given, operands, strict=True) if isinstance(t, TensorType)]
    floats = [x for x in given if x not in xs]
    last = [*map(str, numbers), *[f"bits({x})" for x in floats]]
    ys = [f"y{k}" for k in range(len(outputs))]
    space: dict[str, Any] = {f"new{k}": allocator(x) for k, x in enumerate(outputs)}
    space["bits"] = bits
    lines = [f"{y} = new{k}()" for k, y in enumerate(ys) if k not in into]
    start = start_lines(binaries, kernel, device, grid, [*xs, *ys], last, space)
    lines += start if math.prod(outputs[0].shape) else []
    lines.append(f"return {', '.join(ys)}")
    given += [ys[k] for k in into]
    text = "\n    ".join([f"def launch({', '.join(given)}):", *lines])
    exec(compile(text, f"<lazytorch launch of {kernel.name}>", "exec"), space)
    launch: Launch = space["launch"]
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        return partial(on_device, device.index or 0, launch)
    return launch


def start_lines(
    binaries: Binaries,
    kernel: Kernel,
    device: torch.device,
    grid: int,
    tensors: list[str],
    numbers: list[str],
    space: dict[str, Any],
) -> list[str]:
    """Lines that start a built kernel, where the names and numbers of its arguments are known."""
    index = device.index or 0
    loaded = binaries.loaded.get((kernel.name, index, True))
    if loaded is None:
        raise LazyTorchError(f"kernel {kernel.name} is not built for {device}")
    if interpreting():
        return interpreted(loaded, grid, [*tensors, *numbers], space)
    unaligned = partial(binaries.load, kernel, index, aligned=False)
    return launched(loaded, unaligned, index, grid, tensors, numbers, space)


def bits(number: float) -> int:
    """A double as the integer of the same bits: Triton's launchers round floats to float32."""
    return struct.unpack("q", struct.pack("d", number))[0]


def allocator(x: TensorType) -> partial[torch.Tensor]:
    """Makes an output."""
    return partial(torch.empty_strided, x.shape, x.strides, dtype=x.dtype, device=x.device)


def on_device(index: int, launch: Launch, *xs: torch.Tensor) -> Any:
    """Launch where kernel and tensors are, whatever device is current."""
    with torch.cuda.device(index):
        return launch(*xs)


def interpreted(function: Any, grid: int, arguments: list[str], space: dict[str, Any]) -> list[str]:
    """Lines that run a kernel in the interpreter."""
    import numpy

    from lazytorch.lower.triton.interpreted import ALONE

    space |= {"function": function, "alone": ALONE, "errstate": numpy.errstate}
    call = f"function[({grid},)]({', '.join(arguments)})"
    return [f"with alone, errstate(all='ignore'): {call}"]


def launched(
    compiled: Any,
    unaligned: partial[Any],
    index: int,
    grid: int,
    tensors: list[str],
    numbers: Sequence[object],
    space: dict[str, Any],
) -> list[str]:
    """Lines that launch a compiled kernel on the current stream."""
    import triton

    version = ".".join(triton.__version__.split(".")[:2])
    if version not in LAUNCHERS:
        space |= {"function": compiled.src.fn, "options": options(compiled)}
        arguments = ", ".join([*tensors, *map(str, numbers)])
        return [f"function[({grid},)]({arguments}, **options)"]

    def elsewhere() -> tuple[int, tuple[int, ...]]:
        other = unaligned()
        return other.function, other.packed_metadata

    run = compiled.run
    space |= {
        "start": run.launch,
        "stream": torch._C._cuda_getCurrentRawStream,  # pyright: ignore[reportPrivateUsage]
        "aligned": (compiled.function, compiled.packed_metadata),
        "unaligned": elsewhere,
        "notes": getattr(run, "arg_annotations", None),
        "kinds": getattr(run, "kernel_signature", None),
    }
    pointers = [f"address{k}" for k in range(len(tensors))]
    arguments = LAUNCHERS[version].format(arguments=", ".join([*pointers, *map(str, numbers)]))
    return [
        *(f"{p} = {x}.data_ptr()" for p, x in zip(pointers, tensors, strict=True)),
        f"f, m = unaligned() if ({' | '.join(pointers)}) & {ALIGNMENT - 1} else aligned",
        f"start({grid}, 1, 1, stream({index}), {arguments})",
    ]


def options(compiled: Any) -> dict[str, Any]:
    """The options that a kernel was compiled with, as its launch by name takes them."""
    return {
        name: getattr(compiled.metadata, name)
        for name in ("num_warps", "enable_fp_fusion", "enable_reflect_ftz")
    }
