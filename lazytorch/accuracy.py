"""The one rule that says whether a result is right: its error beside eager's, against float64.

Eager is no truth: two right computations differ by their rounding. So both are compared with a
float64 run of the same code, and ours may be a little further off than eager, not more:

- its root mean square error is at most twice eager's, three times in 16-bit types;
- with TF32 off, a float32 result is nowhere further off than 1e-4 of the largest magnitude;
- what is not finite, and what has no rounding (integers, booleans), is as in eager or in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch

TIMES = 2.0
TIMES_16_BIT = 3.0
FLOAT32_LIMIT = 1e-4
"""Of the largest magnitude, where TF32 is off."""


@dataclass(frozen=True)
class Accuracy:
    """How far a result is from float64, and how far eager's is, relative to the size of the result.

    `fault` says in words what breaks the rule; it is empty for a right result.
    """

    error: float
    eager: float
    largest: float
    fault: str = ""

    @property
    def right(self) -> bool:
        """Whether the rule holds."""
        return not self.fault


def accuracy(
    results: Sequence[torch.Tensor],
    eager: Sequence[torch.Tensor],
    exact: Sequence[torch.Tensor],
    tf32: bool = False,
) -> Accuracy:
    """Judge each result by the rule; of several, the worst one is returned.

    The three sequences hold the same tensors in the same order: the results to judge, eager's on
    the same inputs, and those of a float64 run. Counts, shapes or dtypes that differ are a fault.
    """
    counts = (len(results), len(eager), len(exact))
    if len(set(counts)) > 1:
        text = "{} results, eager has {}, the float64 run {}"
        return Accuracy(inf, 0.0, inf, text.format(*counts))
    judged = [judge(*three, tf32) for three in zip(results, eager, exact, strict=True)]
    wrong = [one for one in judged if not one.right]
    return max(wrong or judged, key=lambda one: one.error, default=Accuracy(0.0, 0.0, 0.0))


def judge(result: torch.Tensor, eager: torch.Tensor, exact: torch.Tensor, tf32: bool) -> Accuracy:
    """The rule for one tensor."""
    if result.dtype is not eager.dtype or not result.shape == eager.shape == exact.shape:
        return Accuracy(inf, 0.0, inf, f"{described(result)}, eager's is {described(eager)}")
    rounded = eager.dtype.is_floating_point or eager.dtype.is_complex
    if not rounded or eager.numel() == 0:
        return discrete(result, eager, exact.to(eager.dtype))
    ours, theirs, exact = wide(result), wide(eager), wide(exact)
    finite = exact.isfinite() & theirs.isfinite()
    if not finite.all():
        odd = discrete(ours[~finite], theirs[~finite], wide(exact.to(eager.dtype))[~finite])
        if not odd.right:
            return odd
        ours, theirs, exact = ours[finite], theirs[finite], exact[finite]
    return rounding(ours, theirs, exact, eager.dtype, tf32) if ours.numel() else odd_only()


def rounding(
    ours: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype, tf32: bool
) -> Accuracy:
    """The rule for values that float64 knows, all of them wide and finite but perhaps ours."""
    size = rms(exact) or 1.0
    error, eager = rms(ours - exact) / size, rms(theirs - exact) / size
    largest = float((ours - exact).abs().max()) / (float(exact.abs().max()) or 1.0)
    # Eager may be exact by luck. Nobody can be asked for less than the rounding of the result.
    half_unit = torch.finfo(dtype).eps / 2
    times = TIMES_16_BIT if dtype.itemsize == 2 else TIMES
    fault = ""
    if not error <= times * max(eager, half_unit):
        fault = f"error {error:.2e} is more than {times:g} times eager's {eager:.2e}"
    elif dtype in (torch.float32, torch.complex64) and not tf32 and not largest <= FLOAT32_LIMIT:
        fault = f"off by {largest:.2e} of the largest magnitude, over {FLOAT32_LIMIT:g}"
    return Accuracy(error, eager, largest, fault)


def discrete(result: torch.Tensor, eager: torch.Tensor, exact: torch.Tensor) -> Accuracy:
    """The rule for what has no rounding: each element as in eager or as in float64."""
    same = (result == eager) | (result == exact)
    if result.dtype.is_floating_point or result.dtype.is_complex:
        same |= result.isnan() & (eager.isnan() | exact.isnan())
    wrong = int((~same).sum())
    if not wrong:
        return odd_only()
    return Accuracy(inf, 0.0, inf, f"{wrong} of {same.numel()} elements differ from eager's")


def odd_only() -> Accuracy:
    """A result without rounding that is right."""
    return Accuracy(0.0, 0.0, 0.0)


def rms(x: torch.Tensor) -> float:
    """Root mean square."""
    return float(x.abs().square().mean().sqrt())


def wide(x: torch.Tensor) -> torch.Tensor:
    """The same values in double precision, without a gradient."""
    return x.detach().to(torch.complex128 if x.dtype.is_complex else torch.float64)


def described(x: torch.Tensor) -> str:
    """Dtype and shape."""
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"


def tf32_on(device: torch.device) -> bool:
    """Whether float32 convolutions or matrix products may run in TF32 there now."""
    conv: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]  # unannotated
    return device.type == "cuda" and "tf32" in (torch.backends.cuda.matmul.fp32_precision, conv)
