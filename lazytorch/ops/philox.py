"""What torch's dropout on a GPU drops, element by element, for kernels that draw it themselves.

torch's generator on a GPU is Philox 4x32 with 10 rounds: four numbers of 32 bits are a function of
a seed and of a counter, so that a kernel which knows which counter torch's own kernel would use for
an element draws the very same number. Source: Salmon, Moraes, Dror and Shaw, Parallel random
numbers: as easy as 1, 2, 3, SC 2011; counters as in ATen/native/cuda/Dropout.cu, where thread t of
all that are under way at once computes `vector` elements after each other, then those that lie
`threads * vector` elements behind them, and takes its next four numbers for every four.
"""

from __future__ import annotations

import struct
from functools import partial
from operator import floordiv, mod
from threading import Lock
from typing import Any, ClassVar

import torch

from lazytorch.ir import Op
from lazytorch.ops.alignment import BOUNDARY
from lazytorch.ops.base import Pointwise
from lazytorch.ops.emitter import Emitter, Value, cast
from lazytorch.types import Shape, Strides, TensorType, TupleType, tensor_type

BLOCK = 256
"""Threads of one block of torch's kernel."""

PART = 1 << 20
"""Elements that torch's kernels draw for at a time, where they stand in for a generated one."""

ALONE = Lock()
"""Held while a generator is asked and moved on."""

WORD = 0xFFFFFFFF
FACTORS = (0xD2511F53, 0xCD9E8D57)
STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


class PhiloxState(Op):
    """(seed, offset) of the device's generator, which goes on by `increment`."""

    effect: ClassVar[bool] = True
    increment: int
    device: torch.device

    def infer(self) -> TupleType:
        return TupleType((tensor_type((), torch.int64, self.device),) * 2)

    def run(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.device.type != "cuda":
            return torch.randint(1 << 62, ()), torch.zeros((), dtype=torch.int64)
        if torch.cuda.is_current_stream_capturing():
            return self.captured()
        generator = torch.cuda.default_generators[self.device.index or 0]
        with ALONE:
            seed, offset = generator.initial_seed(), generator.get_offset()
            generator.set_offset(offset + self.increment)
        signed = seed - (1 << 64) if seed >> 63 else seed
        made = partial(torch.full, (), dtype=torch.int64, device=self.device)
        return made(signed), made(offset)

    def captured(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What each replay of a graph finds: an attention that drops weights hands out the state
        from which it draws as many numbers as it has weights, and is torch's one operation to do so
        on the device."""
        made = partial(torch.empty, dtype=torch.float16, device=self.device)
        query, keys = (made((1, self.increment // 4, n, 8)) for n in (1, 4))
        attend = torch.ops.aten._scaled_dot_product_efficient_attention
        _, _, seed, offset = attend(query, keys, keys, None, False, 0.5)
        return seed, offset


class PhiloxMask(Pointwise):
    """Which elements of a tensor dropout keeps: those whose numbers are below `bound`.

    Operands: seed and offset, of no dimensions.
    """

    placed: ClassVar[bool] = True
    shape: Shape
    strides: Strides
    bound: int
    vector: int
    threads: int

    def infer(self, seed: TensorType, offset: TensorType) -> TensorType:
        return tensor_type(self.shape, torch.bool, seed.device, self.strides)

    def operand_dtypes(self, *xs: Any) -> tuple[torch.dtype, ...]:
        return (torch.int64,) * len(xs)

    def emit(self, s: Emitter, seed: Value, offset: Value, place: Value) -> Value:
        printer: Any = s  # no emitter but a GPU's printer has places
        return printer.philox_below(seed, offset, place, self.vector, self.threads, self.bound)

    def run(self, seed: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        count = tensor_type(self.shape, torch.bool).numel
        kept = torch.empty(count, dtype=torch.bool, device=seed.device)
        for first in range(0, count, PART):  # words of 64 bits, and several of them
            last = min(first + PART, count)
            place = torch.arange(first, last, 4, device=seed.device)
            turn, inside = (f(place, self.threads * self.vector) for f in (floordiv, mod))
            counter = offset // 4 + turn * (self.vector // 4) + inside % self.vector // 4
            words = philox(seed, counter, inside // self.vector)
            torch.lt(words.flatten(), self.bound, out=kept[first:last])
        return kept.as_strided(self.shape, self.strides)


class Dropout(Pointwise):
    """x times `factor` where the second operand holds, times 0 elsewhere; rounded once."""

    factor: float

    def compute_dtype(self, *xs: Any) -> torch.dtype:
        return xs[0].dtype

    def operand_dtypes(self, *xs: Any) -> tuple[torch.dtype, ...]:
        return xs[0].dtype, torch.bool

    def emit(self, s: Emitter, x: Value, kept: Value) -> Value:
        return x * (cast(s, kept, x.dtype) * self.factor)

    def run(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        return (x * (kept.to(torch.float32) * self.factor)).to(x.dtype)


def philox(seed: torch.Tensor, counter: torch.Tensor, thread: torch.Tensor) -> torch.Tensor:
    """Four numbers of 32 bits for each counter of a thread. Shape: (n, 4), in 64 bits."""
    a, b, c, d = counter & WORD, (counter >> 32) & WORD, thread, torch.zeros_like(thread)
    keys = [seed & WORD, (seed >> 32) & WORD]
    for _ in range(ROUNDS):
        # A product of 64 bits wraps, which loses nothing: its halves are what is asked for.
        first, second = FACTORS[0] * a, FACTORS[1] * c
        high = ((second >> 32) & WORD) ^ b ^ keys[0], ((first >> 32) & WORD) ^ d ^ keys[1]
        a, b, c, d = high[0], second & WORD, high[1], first & WORD
        keys = [(key + step) & WORD for key, step in zip(keys, STEPS, strict=True)]
    return torch.stack((a, b, c, d), 1)


def bound_of(keep: float) -> int:
    """The number of 32 bits from which on torch's kernel drops an element, where `keep` is the
    probability that it stays.

    The kernel makes a float32 of the number x, `fma(float(x), 2**-32, 2**-33)`, and keeps the
    element where that is less than `keep` as a float32. It never falls as x grows: one x parts all.
    """
    least = single(keep)
    low, high = 0, 1 << 32
    while low < high:
        middle = (low + high) // 2
        u = single(single(middle) * 2.0**-32 + 2.0**-33)
        low, high = (middle + 1, high) if u < least else (low, middle)
    return low


def factor_of(keep: float) -> float:
    """What torch's kernel multiplies the kept elements by, a float32."""
    return single(1.0 / single(keep))


def single(x: float) -> float:
    """The nearest float32."""
    return struct.unpack("f", struct.pack("f", x))[0]


def vector_of(x: TensorType) -> int | None:
    """Elements that a thread of torch's kernel computes after each other, for a tensor whose memory
    begins on a boundary of `BOUNDARY` bytes; None where it is fewer than the four that it draws."""
    vector = BOUNDARY // x.dtype.itemsize
    while vector >= 4 and x.numel % vector:
        vector //= 2
    return vector if x.is_dense and vector >= 4 else None


def increment_of(x: TensorType, threads: int) -> int:
    """How far torch's kernel takes the generator's offset on, on a device that holds `threads`.

    There are no more threads than elements; but then there is one turn, as there is for `threads`.
    """
    return ((x.numel - 1) // (4 * threads) + 1) * 4
