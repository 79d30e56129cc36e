"""Compares what a generated kernel gives with eager's result and with a computation in float64."""

from __future__ import annotations

from typing import Any

import torch
from kernel_cases import HALVES, Case, Tensors, type_of

from lazytorch.ops.fused import Fused
from lazytorch.ops.pointwise import Fmod, Remainder

FLOOR = {torch.float64: 1.0}
"""Below this size (else 2**-10) errors count absolutely: near a zero of a sum none is exact.

Of float64 the truth is only eager's result, which has the same rights.
"""


def check(case: Case, tensors: Tensors, op: Fused, got: Any) -> None:
    """Equal types everywhere; integers equal to eager's; floats within the accuracy rule.

    The rule: NaN and infinities where eager or float64 has them, and a root mean square error
    against float64 of at most twice eager's (three times in 16 bits), or one unit in the last
    place where eager's is smaller than half of that.
    """
    eager = op.run(*tensors)
    # On the CPU: some of torch's CUDA kernels use float32 constants in float64.
    wide = tuple((x.double() if x.is_floating_point() else x).cpu() for x in tensors)
    exact = case.op(wide).run(*wide)
    if len(op.body.outputs) == 1:
        got, eager, exact = (got,), (eager,), (exact,)
    assert len(got) == len(eager)
    for i, (node, ours, theirs, truth) in enumerate(
        zip(op.body.outputs, got, eager, exact, strict=True)
    ):
        where = f"{case.label}, output {i}: {node.op}"
        truth = truth.to(ours.device)
        assert type_of(ours) == node.type, where
        assert theirs.dtype == ours.dtype and theirs.shape == ours.shape, where
        if ours.dtype.is_floating_point:
            if isinstance(node.op, Fmod | Remainder):
                known = ~beyond(theirs, *tensors)
                ours, theirs, truth = ours[known], theirs[known], truth[known]
            check_floats(ours, theirs, truth, where)
        else:
            assert torch.equal(ours, theirs), where


def beyond(result: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Where eager's vector code answers NaN although the numbers have a remainder."""
    return result.isnan() & x.isfinite() & y.isfinite() & (y != 0)


def check_floats(ours: torch.Tensor, theirs: torch.Tensor, truth: torch.Tensor, where: str) -> None:
    """`truth` is of any dtype."""
    rounded = truth.to(ours.dtype)
    either = same(ours, theirs) | same(ours, rounded)
    finite = ours.isfinite() & theirs.isfinite() & rounded.isfinite()
    wrong = ~(either | finite)
    assert not wrong.any(), f"{where}: {ours[wrong][:5]}, not {theirs[wrong][:5]}"
    mine, other = (errors(x[finite], truth[finite]) for x in (ours, theirs))
    allowed = 3.0 if ours.dtype in HALVES else 2.0
    assert rms(mine) <= max(allowed * rms(other), 1.0), f"{where}: {rms(mine)}, {rms(other)}"
    if mine.numel():
        assert mine.max() <= max(allowed * other.max(), 4.0), f"{where}: {mine.max()}"


def same(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Equal with the same sign of zero, or both NaN."""
    return ((x == y) & (x.signbit() == y.signbit())) | (x.isnan() & y.isnan())


def errors(x: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """In units in the last place, at least of `FLOOR`."""
    unit = torch.finfo(x.dtype).eps * (truth.double().abs() + FLOOR.get(x.dtype, 2.0**-10))
    return (x.double() - truth.double()).abs() / unit


def rms(x: torch.Tensor) -> float:
    return x.pow(2).mean().sqrt().item() if x.numel() else 0.0
