"""A loop over neighbouring elements in C++, a block at a time.

float16 is converted for whole blocks, by an instruction that compilers do not find in a loop over
numbers: what the loop reads and writes of it lies in buffers that are float32.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

BLOCK = 1024
"""Elements of a block: its sum in float32 loses few digits, and its buffers stay in the cache."""

MANY = 8
"""Buffers beyond which blocks are shorter, to stay there."""


def in_blocks(
    index: str,
    size: str,
    loop: Sequence[str],
    head: Sequence[str] = (),
    tail: Sequence[str] = (),
    clauses: Sequence[str] = (),
) -> list[str]:
    """A loop over `index` up to `size`, with what is done before and behind each block."""
    read = re.compile(rf"lt::from_f16\((p\d+)\[{index}\]\)")
    written = re.compile(rf"^(p\d+)\[{index}\] = lt::to_f16\((.*)\);$")
    widened = sorted({name for text in loop for name in read.findall(text)})
    lines = [written.sub(rf"\1_narrow[{index} - begin] = \2;", text) for text in loop]
    narrowed = sorted({found[1] for text in loop if (found := written.match(text))})
    lines = [read.sub(rf"\1_wide[{index} - begin]", text) for text in lines]
    buffers = [f"{x}_wide" for x in widened] + [f"{x}_narrow" for x in narrowed]
    block = BLOCK if len(buffers) <= MANY else BLOCK // 8
    return [
        f"for (int64_t begin = 0; begin < {size}; begin += {block}) {{",
        f"    const int64_t end = begin + {block} < {size} ? begin + {block} : {size};",
        *[f"    alignas(64) float {x}[{block}];" for x in buffers],
        *[f"    lt::widen({x} + begin, {x}_wide, end - begin);" for x in widened],
        *[f"    {text}" for text in head],
        *[f"    {text}" for text in simd_loop(index, "begin", "end", lines, clauses)],
        *[f"    {text}" for text in tail],
        *[f"    lt::narrow({x}_narrow, {x} + begin, end - begin);" for x in narrowed],
        "}",
    ]


def simd_loop(
    index: str, begin: str, end: str, loop: Sequence[str], clauses: Sequence[str] = ()
) -> list[str]:
    """A loop that becomes vector code."""
    return [
        " ".join(["#pragma omp simd", *clauses]),
        f"for (int64_t {index} = {begin}; {index} < {end}; ++{index}) {{",
        *[f"    {text}" for text in loop],
        "}",
    ]
