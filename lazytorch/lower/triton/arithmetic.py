"""Arithmetic with torch's rules in Triton's language; generated kernels call it as `lt`.

The only module here, besides generated ones, that imports triton: it is imported by those alone.
"""
# What looks like Python below is Triton's language, whose types are no Python types.
# pyright: basic, reportOptionalOperand=false, reportGeneralTypeIssues=false
# pyright: reportAssignmentType=false

import triton
import triton.language as tl
from triton import knobs

if knobs.runtime.interpret:
    # The interpreter has no CUDA library, and its bfloat16 conversions do not round.
    from lazytorch.lower.triton import interpreted as libdevice
    from lazytorch.lower.triton.interpreted import (
        from_bfloat16,
        like,
        power_of_two,
        product,
        reciprocal,
        row_max,
        row_min,
        to_bfloat16,
    )
else:
    from triton.language.extra import libdevice

    @triton.jit
    def from_bfloat16(x):
        """Widened to float32."""
        return x.to(tl.float32)

    @triton.jit
    def to_bfloat16(x):
        """Rounded to nearest even."""
        return x.to(tl.bfloat16)

    @triton.jit
    def like(x, y):
        """A float32 rounded to the 16-bit dtype of y."""
        return x.to(y.dtype)

    @triton.jit
    def product(x, y):
        """The product of two matrices of 16-bit numbers, summed in float32."""
        return tl.dot(x, y)

    @triton.jit
    def reciprocal(x):
        """1 / x of a float32 to one unit in the last place; subnormal numbers are 0."""
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )

    @triton.jit
    def power_of_two(x):
        """2 to the power of a float32, to two units in the last place; subnormal numbers are 0."""
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )

    @triton.jit
    def row_max(x):
        """The largest of each row; NaN wins."""
        return tl.reduce(x, 1, larger, keep_dims=True)

    @triton.jit
    def row_min(x):
        """The smallest of each row; NaN wins."""
        return tl.reduce(x, 1, smaller, keep_dims=True)


@triton.jit
def larger(x, y):
    """The larger of two; NaN wins."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def smaller(x, y):
    """The smaller of two; NaN wins."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def row_sum(x):
    """The sum of each row."""
    return tl.sum(x, 1, keep_dims=True)


@triton.jit
def add_moments(total, squares, off, mask):
    """Sums of what numbers are off the lane's base, and of its square, with one number more."""
    off = tl.where(mask, off, 0.0)
    return total + off, squares + off * off


@triton.jit
def join_moments(base, total, squares, count, n):
    """Mean and variance of `n` numbers from the lanes, which have seen `count` of them each.

    A lane's base is the first number that it saw, so what is lost to cancellation in its sum of
    squared deviations is at most `count` times what the numbers are rounded by. The lanes' moments
    are joined as in Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for
    computing sample variances, 1979.
    """
    seen = count.to(total.dtype)
    apart = total / tl.maximum(seen, 1.0)
    whole = row_sum(base * seen + total) / n
    off = base + apart - whole
    return whole, row_sum(squares - apart * total + off * off * seen) / n


@triton.jit
def erf_short(x):
    """erf(x) to 2e-7, for results of 16 bits.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 7.1.26.
    """
    a = tl.abs(x)
    t = reciprocal(1.0 + 0.3275911 * a)
    p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t) + 0.254829592
    y = 1.0 - p * t * power_of_two(a * a * -1.4426950408889634)
    return libdevice.copysign(y, x)


@triton.jit
def alone(x):
    """The one element of a block as a scalar."""
    return tl.max(tl.max(x, 1), 0)


@triton.jit
def first_base(x, mask):
    """The largest number of a row's first block; 0 where all are -inf."""
    return finite(row_max(tl.where(mask, x, float("-inf"))))


@triton.jit
def add_exp(largest, total, base, x, mask):
    """The maximum of each lane and the sum of exp(x - base), with one number more."""
    x = tl.where(mask, x, float("-inf"))
    return larger(largest, x), total + exp_near(x - base)


@triton.jit
def exp_near(x):
    """exp(x) for a sum whose largest numbers have an x near 0, where this is most exact."""
    if x.dtype == tl.float64:
        return libdevice.exp(x)
    else:
        return power_of_two(x * 1.4426950408889634)


@triton.jit
def drawn_below(
    seed,
    offset,
    place,
    VECTOR: tl.constexpr,
    THREADS: tl.constexpr,
    BOUND: tl.constexpr,
    RUN: tl.constexpr,
):
    """Whether the numbers of 32 bits that torch's kernel draws for elements (`ops/philox.py`) are
    less than a bound. Each RUN elements of a block are those of one draw, or of two."""
    first = place
    if RUN > 1:
        first = every_second(every_second(first))
    if RUN == 8:
        first = every_second(first)
    turn = first // (THREADS * VECTOR)
    inside = first - turn * (THREADS * VECTOR)
    thread = inside // VECTOR
    counter = (offset >> 2) + turn.to(tl.int64) * (VECTOR // 4)
    if RUN < VECTOR:
        counter += ((inside - thread * VECTOR) // 4).to(tl.int64)
    a, b, c, d = four_below(seed, counter, thread, BOUND)
    if RUN == 1:
        lane = place & 3
        return tl.where(lane < 2, tl.where(lane == 0, a, b), tl.where(lane == 2, c, d))
    elif RUN == 4:
        return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), place.shape)
    else:
        e, f, g, h = four_below(seed, counter + 1, thread, BOUND)
        even, odd = tl.join(tl.join(a, e), tl.join(c, g)), tl.join(tl.join(b, f), tl.join(d, h))
        return tl.reshape(tl.join(even, odd), place.shape)


@triton.jit
def every_second(x):
    """The first of each two elements of a block."""
    first, _ = tl.split(tl.reshape(x, [x.numel // 2, 2]))
    return first


@triton.jit
def four_below(seed, counter, thread, BOUND: tl.constexpr):
    """Which of the four numbers of a draw are less than a bound."""
    low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    thread = thread.to(tl.uint32)
    a, b, c, d = tl.philox(seed, low, high, thread, thread * 0)
    return a < BOUND, b < BOUND, c < BOUND, d < BOUND


@triton.jit
def any_far(largest, total, base):
    """Whether a row's sum overflowed, or may have lost what is next to nothing beside its base.

    A base lies above the maximum of its row only where it is none of the row's numbers, but 0.
    """
    far = (total == float("inf")) | (base > finite(largest) + 8.0)
    return alone(far.to(tl.int32)) > 0


@triton.jit
def exp_from(largest, x, mask):
    """exp(x - largest) where there is an x."""
    return tl.where(mask, exp_near(x - finite(largest)), 0.0)


@triton.jit
def finite(largest):
    """A maximum, or 0 where all are -inf and none can be subtracted."""
    return tl.where(largest == float("-inf"), 0.0, largest)


@triton.jit
def remainder(x, y):
    """X modulo y with the sign of y; exact, as fmod is."""
    r = libdevice.fmod(x, y)
    return tl.where((r != 0) & ((r < 0) ^ (y < 0)), r + y, r)


@triton.jit
def floor_divide(x, y):
    """X / y rounded down as c10's `div_floor_floating` does."""
    r = libdevice.fmod(x, y)
    exact = x / y
    q = (x - r) / y
    q = tl.where((r != 0) & ((r < 0) ^ (y < 0)), q - 1, q)
    down = tl.floor(q)
    down = tl.where(q - down > 0.5, down + 1, down)
    down = tl.where(q != 0, down, libdevice.copysign(q * 0, exact))
    return tl.where(y == 0, exact, down)


@triton.jit
def floor_divide_integers(x, y, SIGNED: tl.constexpr):
    """X / y rounded down; the smallest integer by -1 wraps. By 0 it is undefined."""
    if SIGNED:
        d = tl.where(y == -1, 1, y)
        q = x // d
        q = tl.where((x % d != 0) & ((x < 0) ^ (d < 0)), q - 1, q)
        return tl.where(y == -1, -x, q)
    else:
        return x // y


@triton.jit
def fmod_integers(x, y, SIGNED: tl.constexpr):
    """X modulo y with the sign of x. By 0 it is undefined."""
    if SIGNED:
        return x % tl.where(y == -1, 1, y)
    else:
        return x % y


@triton.jit
def remainder_integers(x, y, SIGNED: tl.constexpr):
    """X modulo y with the sign of y. By 0 it is undefined."""
    if SIGNED:
        r = x % tl.where(y == -1, 1, y)
        return tl.where((r != 0) & ((r < 0) ^ (y < 0)), r + y, r)
    else:
        return x % y


@triton.jit
def power(x, y, PLACES: tl.constexpr, SIGNED: tl.constexpr):
    """X to the power y, which has PLACES binary digits; below 0 only 1 and -1 have powers."""
    result = x * 0 + 1
    base = x
    digits = x * 0 + y
    for _ in tl.static_range(PLACES):
        result = tl.where((digits & 1) != 0, result * base, result)
        base = base * base
        digits = digits >> 1
    if SIGNED:
        alternating = tl.where((y & 1) != 0, x, x * x)
        negative = tl.where((x == 1) | (x == -1), alternating, 0)
        return tl.where(y < 0, negative, result)
    else:
        return result


@triton.jit
def shift_left(x, y, BITS: tl.constexpr):
    """X * 2**y; 0 where y is no place of x."""
    return tl.where((y < 0) | (y >= BITS), 0, x << y)


@triton.jit
def shift_right(x, y, BITS: tl.constexpr, SIGNED: tl.constexpr):
    """X / 2**y rounded down; only the sign is left where y is no place of x."""
    outside = (y < 0) | (y >= BITS)
    if SIGNED:
        return x >> tl.where(outside, BITS - 1, y)
    else:
        return tl.where(outside, 0, x >> y)
