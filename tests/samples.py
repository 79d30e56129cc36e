"""The op database: for every operation, operands and what torch itself makes of them.

A family adds `tests/samples_<family>.py` with a list `SAMPLES`; nothing else has to know.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lazytorch.ir import Op


@dataclass(frozen=True)
class Sample:
    """`op` of `operands` (tensors, numbers, tuples of tensors) is `reference(*operands)`.

    `exact`: equal in every bit, because `run` is torch's own kernel. `imported`: `reference`
    recorded by the importers gives `op` again; False where another operation is right.
    """

    op: Op
    operands: tuple[Any, ...]
    reference: Callable[..., Any]
    exact: bool = True
    imported: bool = True
    label: str = ""


TOLERANCE = {  # relative; absolute is the same number, for values of about one
    torch.float64: 1e-12,
    torch.float32: 5e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
    torch.complex64: 1e-5,
    torch.complex128: 1e-12,
}


def by_op() -> dict[str, list[Sample]]:
    """The samples of every `samples_*.py`, by the operation's name.

    A family may list them by class instead, as (operation, reference, makers of operands); its
    own tests then hold the imports.
    """
    found: dict[str, list[Sample]] = {}
    for file in sorted(Path(__file__).parent.glob("samples_*.py")):
        given = getattr(importlib.import_module(file.stem), "SAMPLES", ())
        if isinstance(given, dict):
            given = [
                Sample(op, tuple(make() for make in makers), reference, imported=False)
                for samples in given.values()
                for op, reference, makers in samples
            ]
        for sample in given:
            found.setdefault(sample.op.name(), []).append(sample)
    return found


def assert_same_bits(got: Any, expected: Any) -> None:
    """Equal type, dtype, strides and bits; NaN counts as NaN, -0.0 is not 0.0."""
    if isinstance(expected, tuple | list):
        for one, other in zip(got, expected, strict=True):
            assert_same_bits(one, other)
        return
    if not isinstance(expected, torch.Tensor):
        assert type(got) is type(expected)
        assert got == expected or (got != got and expected != expected)
        return
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True, check_stride=True)
    if expected.is_floating_point():
        number = ~expected.isnan()
        assert torch.equal(torch.signbit(got)[number], torch.signbit(expected)[number])


def assert_close(got: Any, expected: Any) -> None:
    """Equal type, dtype and strides; values within the dtype's tolerance."""
    if isinstance(expected, tuple | list):
        for one, other in zip(got, expected, strict=True):
            assert_close(one, other)
        return
    near = TOLERANCE.get(expected.dtype, 0.0)
    torch.testing.assert_close(
        got, expected, rtol=near, atol=near, equal_nan=True, check_stride=True
    )
