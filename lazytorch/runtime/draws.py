"""The compiled function that draws what torch's generator on the CPU would: many numbers at once.

Torch's kernel for a Bernoulli distribution draws one number after the other, each from two words of
a Mersenne twister. Its state is asked for, as many words are made as it would make, with vectors,
and the state that it would be in is given back. Where there is no compiler, or this build of torch
draws in another way (MKL's, on Intel's processors), torch draws. Source: Matsumoto and Nishimura,
Mersenne twister, ACM TOMACS 8, 1998 (MT19937).
"""

from __future__ import annotations

import ctypes
import math
from typing import ClassVar

import torch

from lazytorch.ops.random import Bernoulli
from lazytorch.runtime.background import Background

WORDS = 624
"""Words of the twister's state."""

LEFT, STATE = 8, 24
"""Bytes before how many words are left, and one, and before the words themselves, of 64 bits each,
in what torch gives as a generator's state. The place of the next word lies right before them."""

FEWEST = 256
"""Numbers that are worth asking for the state."""

SOURCE = """
static uint32_t mixed(uint32_t u, uint32_t v) {
    return (((u & 0x80000000u) | (v & 0x7fffffffu)) >> 1) ^ ((0u - (v & 1u)) & 0x9908b0dfu);
}

static void twist(uint32_t* s) {
    // What is read ahead is from before, 227 words behind it is from now.
    #pragma omp simd
    for (int k = 0; k < 227; ++k) s[k] = s[k + 397] ^ mixed(s[k], s[k + 1]);
    #pragma omp simd safelen(64)
    for (int k = 227; k < 623; ++k) s[k] = s[k - 227] ^ mixed(s[k], s[k + 1]);
    s[623] = s[396] ^ mixed(s[623], s[0]);
}

// Whether each of `count` numbers of 53 bits is less than a bound; the next word is at `next`.
extern "C" int64_t lt_bernoulli(uint64_t* state, int64_t next, uint64_t bound, uint8_t* out,
                                int64_t count) {
    uint32_t s[624], words[625];
    for (int k = 0; k < 624; ++k) s[k] = (uint32_t)state[k];
    const uint32_t high = (uint32_t)(bound >> 32), low = (uint32_t)bound;
    int held = 0;  // the first word of a number whose second one is to come
    while (count > 0) {
        if (next == 624) {
            twist(s);
            next = 0;
        }
        const int64_t wanted = 2 * count - held, there = 624 - next;
        const int taken = (int)(there < wanted ? there : wanted);
        #pragma omp simd
        for (int k = 0; k < taken; ++k) {
            uint32_t y = s[next + k];
            y ^= y >> 11;
            y ^= (y << 7) & 0x9d2c5680u;
            y ^= (y << 15) & 0xefc60000u;
            words[held + k] = y ^ (y >> 18);
        }
        next += taken;
        const int all = held + taken, pairs = all / 2;
        #pragma omp simd
        for (int k = 0; k < pairs; ++k) {
            const uint32_t a = words[2 * k] & 0x1fffffu, b = words[2 * k + 1];
            out[k] = (uint8_t)((a < high) | ((a == high) & (b < low)));
        }
        out += pairs;
        count -= pairs;
        held = all % 2;
        words[0] = words[all - 1];
    }
    for (int k = 0; k < 624; ++k) state[k] = s[k];
    return next;
}
"""


class Draws(Background):
    """The compiled function, once for the process."""

    source: ClassVar[str] = SOURCE

    def __init__(self, library: ctypes.CDLL) -> None:
        kinds = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int64)
        # Python's lock stays held: no other thread draws between the state's way out and back.
        prototype = ctypes.PYFUNCTYPE(ctypes.c_int64, *kinds)
        self.run = prototype(("lt_bernoulli", library))

    @classmethod
    def take(cls, library: ctypes.CDLL) -> None:
        """Use it, if it draws what torch draws."""
        draws = cls(library)
        if draws.agrees():
            Bernoulli.compiled = draws.fill

    def fill(
        self, out: torch.Tensor, p: float, generator: torch.Generator = torch.default_generator
    ) -> bool:
        """Whether `out` was filled, true with probability `p`, as torch would have filled it."""
        if out.dtype is not torch.bool or out.device.type != "cpu" or out.numel() < FEWEST:
            return False
        if out.untyped_storage().nbytes() != out.numel():  # it has gaps
            return False
        state = generator.get_state()
        if state.numel() < STATE + 8 * WORDS:  # of another generator
            return False
        address = state.data_ptr()
        left = ctypes.c_int32.from_address(address + LEFT)
        place = ctypes.c_uint64.from_address(address + STATE - 8)
        bound, first = math.ceil(p * 2.0**53), WORDS + 1 - left.value
        after = self.run(address + STATE, first, bound, out.data_ptr(), out.numel())
        left.value, place.value = WORDS + 1 - after, after
        generator.set_state(state)
        return True

    def agrees(self) -> bool:
        """Whether it draws what torch draws, however memory lies, and leaves torch's state."""
        ours, theirs = torch.Generator(), torch.Generator()
        for seed, p, before in ((1, 0.9, 0), (2, 0.25, 7), (3, 1.0, 624)):
            for generator in (ours, theirs):
                generator.manual_seed(seed)
                torch.rand(before, generator=generator)
            for shape, strides in (((1000,), (1,)), ((30, 40), (1, 30)), ((311,), (1,))):
                made, wanted = (torch.empty_strided(shape, strides).bool() for _ in range(2))
                wanted.bernoulli_(p, generator=theirs)
                if not self.fill(made, p, ours) or not torch.equal(made, wanted):
                    return False
                if not torch.equal(ours.get_state(), theirs.get_state()):
                    return False
        return True
