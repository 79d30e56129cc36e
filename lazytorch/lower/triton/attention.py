"""A Triton kernel for attention over short sequences, where torch's own spend their time starting.

A program computes `ROWS` queries of one head: it walks the keys in blocks and keeps a running
maximum and sum (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018; Dao et
al., FlashAttention, 2022). Products are of the operands' 16-bit numbers, summed in float32. A query
whose keys are all masked gives zeros, as torch's kernels do.
"""

from __future__ import annotations

import math

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.lower.kernel import NAME, Operand
from lazytorch.lower.triton.printer import POINTER, loaded
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.base import broadcast_strides
from lazytorch.types import TensorType

LONGEST = 128
"""Keys up to which torch's kernels are slower."""

FEW = (320, 264)
"""Keys up to which they are as long as there are no more programs than these, two for each of an
H200's processors."""

SIZES = (16, 32, 64, 128)
"""Sizes of a head."""

ROWS = 64
"""Queries of one program."""

KEYS = 64
"""Keys walked at a time."""


class Attention:
    """How programs walk heads and queries; a kernel's integers by name."""

    def __init__(self, op: ScaledDotProductAttention, operands: tuple[Operand, ...]) -> None:
        tensors = [x for x in operands if isinstance(x, TensorType)]
        check(op, tensors)
        self.op = op
        self.operands = tensors
        self.query, self.key, self.value, *self.mask = tensors
        result = op.infer(*tensors)
        self.result = result
        self.heads = self.query.shape[1]
        self.group = self.heads // max(self.key.shape[1], 1)

    @property
    def grid(self) -> int:
        """One program for some queries of each head."""
        batch, heads, length, _ = self.query.shape
        return batch * heads * -(-length // ROWS)

    def arguments(self) -> dict[str, int]:
        """Lengths and strides."""
        numbers = {"length": self.query.shape[2], "keys": self.key.shape[2], "heads": self.heads}
        for name, x in zip("qkvo", (self.query, self.key, self.value, self.result), strict=True):
            numbers |= {f"{name}{d}": stride for d, stride in enumerate(x.strides[:3])}
        numbers |= {f"m{d}": s for d, s in enumerate(self.strides()) if s not in (0, 1)}
        return numbers

    def strides(self) -> list[int]:
        """The mask's strides by batch, head, query and key; none without a mask."""
        whole = (*self.query.shape[:3], self.key.shape[2])
        return [s for mask in self.mask for s in broadcast_strides(mask, whole)]

    def source(self) -> str:
        """A module with the kernel, and what is needed to compile it ahead of its first launch."""
        types = (*self.operands, self.result)
        signature = {f"p{k}": POINTER[x.dtype] for k, x in enumerate(types)}
        numbers = self.arguments()
        signature |= dict.fromkeys(numbers, "i32")
        size = self.query.shape[-1]
        scale = self.op.scale if self.op.scale is not None else 1 / math.sqrt(size)
        return TEMPLATE.format(
            signature=signature,
            divisibility={name: 16 for name, value in numbers.items() if value % 16 == 0},
            numbers=list(numbers),
            name=NAME,
            parameters=", ".join(signature),
            size=size,
            rows=ROWS,
            block=KEYS,
            group=self.group,
            scale=scale * math.log2(math.e),
            mask="\n        ".join(masked(self.mask, self.strides(), self.op.is_causal)),
            end=f"tl.minimum(keys, first + {ROWS})" if self.op.is_causal else "keys",
            out=f"p{len(self.operands)}",
        )


def check(op: ScaledDotProductAttention, tensors: list[TensorType]) -> None:
    """UnsupportedError where the kernel does not fit, or torch's own are better."""
    query, key, value, *mask = tensors
    if type(op) is not ScaledDotProductAttention or op.dropout_p or op.kernels:
        raise UnsupportedError("attention with dropout, or with chosen backends")
    if query.dtype not in (torch.float16, torch.bfloat16) or query.rank != 4:
        raise UnsupportedError(f"attention of {query}")
    if query.shape[-1] not in SIZES or value.shape[-1] != query.shape[-1]:
        raise UnsupportedError(f"heads of size {query.shape[-1]}")
    programs = math.prod(query.shape[:2]) * -(-query.shape[2] // ROWS)
    longest = FEW[0] if programs <= FEW[1] else LONGEST
    if not 0 < key.shape[2] <= longest or not query.numel:
        raise UnsupportedError(f"attention over {key.shape[2]} keys")
    alike = key.shape[:2] == value.shape[:2] and key.shape[0] == query.shape[0]
    if not alike or not (key.shape[1] == query.shape[1] or op.grouped(query, key)):
        raise UnsupportedError("heads that are repeated")
    if any(x.strides[-1] != 1 for x in (query, key, value, op.infer(*tensors))):
        raise UnsupportedError("heads that do not lie in one piece")
    for x in mask:
        if x.dtype not in (query.dtype, torch.float32, torch.bool) or not op.mask_fits(
            query, key, x
        ):
            raise UnsupportedError(f"a mask {x}")
    for x in (*tensors, op.infer(*tensors)):
        if sum(n * s for n, s in zip(x.shape, x.strides, strict=True)) >= 2**31:
            raise UnsupportedError(f"{x} needs 64-bit indices")


def masked(mask: list[TensorType], strides: list[int], causal: bool) -> list[str]:
    """Statements that mask scores `x`, which are in powers of 2; the mask has `strides`."""
    lines: list[str] = []
    indices = ("batch", "head", "row[:, None]", "col[None, :]")
    pairs = enumerate(zip(indices, strides, strict=False))
    terms = [i if s == 1 else f"{i} * m{d}" for d, (i, s) in pairs if s]
    if mask:
        place = " + ".join(terms) or "0"
        load = f"tl.load(p3 + {place}, there[:, None] & inside[None, :], other=0.0)"
        if mask[0].dtype is torch.bool:
            lines.append(f'x = tl.where({load} != 0, x, float("-inf"))')
        else:
            lines.append(f"x += {loaded(load, mask[0].dtype)} * {math.log2(math.e)!r}")
    if causal:
        lines.append('x = tl.where(col[None, :] <= row[:, None], x, float("-inf"))')
    return lines or ["# every key counts"]


TEMPLATE = '''"""attention"""
import triton
import triton.language as tl

from lazytorch.lower.triton import arithmetic as lt

SIGNATURE = {signature}
DIVISIBILITY = {divisibility}
OPTIONS = {{"num_warps": 4, "enable_fp_fusion": True, "enable_reflect_ftz": False}}


@triton.jit(do_not_specialize={numbers})
def {name}({parameters}):
    blocks = (length + {rows} - 1) // {rows}
    first = (tl.program_id(0) % blocks) * {rows}
    rest = tl.program_id(0) // blocks
    head = rest % heads
    batch = rest // heads
    row = first + tl.arange(0, {rows})
    there = row < length
    d = tl.arange(0, {size})
    place = batch * q0 + head * q1 + row[:, None] * q2 + d[None, :]
    q = tl.load(p0 + place, there[:, None], other=0.0)
    largest = tl.full([{rows}], float("-inf"), tl.float32)
    total = tl.zeros([{rows}], tl.float32)
    result = tl.zeros([{rows}, {size}], tl.float32)
    for start in range(0, {end}, {block}):
        col = start + tl.arange(0, {block})
        inside = col < keys
        place = batch * k0 + (head // {group}) * k1 + col[None, :] * k2 + d[:, None]
        k = tl.load(p1 + place, inside[None, :], other=0.0)
        x = lt.product(q, k) * {scale!r}
        {mask}
        x = tl.where(inside[None, :], x, float("-inf"))
        now = tl.maximum(largest, tl.max(x, 1))
        base = tl.where(now == float("-inf"), 0.0, now)
        p = tl.exp2(x - base[:, None])
        kept = tl.exp2(largest - base)
        total = total * kept + tl.sum(p, 1)
        place = batch * v0 + (head // {group}) * v1 + col[:, None] * v2 + d[None, :]
        v = tl.load(p2 + place, inside[:, None], other=0.0)
        result = result * kept[:, None] + lt.product(lt.like(p, v), v)
        largest = now
    result = result / tl.where(total == 0.0, 1.0, total)[:, None]
    place = batch * o0 + head * o1 + row[:, None] * o2 + d[None, :]
    tl.store({out} + place, lt.like(result, q), there[:, None])
'''
