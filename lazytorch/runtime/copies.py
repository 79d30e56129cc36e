"""Copies of many tensors in few launches: what one launch can take is copied together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lazytorch.ops.aten import value_type
from lazytorch.types import TensorType

LARGE = 16 * 2**20
"""Bytes from which a tensor is copied alone: torch's launch for many copies with 320 blocks, at
two thirds of the speed (2.8 of 4.1 TB/s on an H200)."""


class Copies:
    """Tensors of known geometry, to be copied one for one.

    Torch copies a list in one launch if all its tensors have one type and no gaps; a list that
    holds another one is copied tensor by tensor. Large ones are faster alone, by the driver. What
    repeats (stride 0) is copied once.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.repeats = [repeats(x) for x in tensors]
        self.whole = not any(self.repeats)
        groups: dict[object, list[int]] = {}
        for i, x in enumerate(tensors):
            # numbers may be conjugated when read
            together = dense(x) and not x.is_complex() and x.nbytes < LARGE
            groups.setdefault(x.dtype if together else i, []).append(i)
        self.single = [group[0] for group in groups.values() if len(group) == 1]
        self.groups = [group for group in groups.values() if len(group) > 1]

    def copy(self, to: Sequence[torch.Tensor], of: Sequence[torch.Tensor]) -> None:
        """Copy each tensor of `of` into the one of `to`."""
        if not self.whole:
            to, of = self.once(to), self.once(of)
        for i in self.single:
            to[i].copy_(of[i])
        for group in self.groups:
            torch._foreach_copy_([to[i] for i in group], [of[i] for i in group])

    def once(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors without their repeats."""
        found: list[torch.Tensor] = []
        for x, repeated in zip(tensors, self.repeats, strict=True):
            for i in repeated:
                x = x.narrow(i, 0, 1)
            found.append(x)
        return found


def repeats(x: torch.Tensor) -> list[int]:
    """The dimensions along which one element is seen many times."""
    return [i for i, s in enumerate(x.stride()) if s == 0 and x.shape[i] > 1]


def dense(x: torch.Tensor) -> bool:
    """Whether the elements fill their memory without gaps or repeats."""
    typed = value_type(x)
    return isinstance(typed, TensorType) and typed.is_dense
