"""Tensors whose content was known when the graph was recorded, compared by content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, cast
from weakref import WeakValueDictionary

import torch

from lazytorch.types import TensorType

INLINE = 16  # a constant tensor of at most so many elements is printed in full


class Data:
    """A constant tensor as a static attribute: equal when dtype, shape and bytes are equal.

    One on a `device` that is not here has its content on the CPU: it is planned with, never run.

    A graph's text names a large one by its digest; `known` finds it again while it is alive,
    which is what lets `parse(str(graph))` give the graph back within one process.
    """

    known: ClassVar[WeakValueDictionary[str, Data]] = WeakValueDictionary()

    def __init__(self, tensor: torch.Tensor, device: torch.device | None = None) -> None:
        self.tensor = tensor.detach()
        self.type = TensorType(
            tuple(tensor.shape), tensor.dtype, device or tensor.device, tuple(tensor.stride())
        )

    @property
    def readable(self) -> bool:
        """Whether its content is there: that of a stand-in for a tensor on a device is not."""
        kind = self.tensor.device.type
        return kind == "cpu" or (kind == "cuda" and torch.cuda.is_available())

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of type and bytes, shortened to 16 digits."""
        raw = self.tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        content = hashlib.sha256(str(self.type).encode())
        content.update(raw.numpy().tobytes())
        digest = content.hexdigest()[:16]
        # The one that others find lives as long as any that equals it.
        found = Data.known.setdefault(digest, self)
        self.first = None if found is self else found
        return digest

    @property
    def items(self) -> tuple[Any, ...] | None:
        """The elements, if they are few and make the same bytes again."""
        elsewhere = self.tensor.device != self.type.device
        if self.tensor.numel() > INLINE or not self.type.is_dense or elsewhere:
            return None
        listed = cast(list[Any], self.tensor.reshape(-1).tolist())
        items = tuple(listed)
        if any(item != item for item in items):
            return None  # a NaN has more bits than its text
        return items if Data.of(self.type, items) == self else None

    @staticmethod
    def of(typed: TensorType, items: Sequence[Any]) -> Data:
        """The tensor of that type with these elements in row-major order."""
        values = torch.tensor(items, dtype=typed.dtype, device=typed.device)
        tensor = torch.empty_strided(
            typed.shape, typed.strides, dtype=typed.dtype, device=typed.device
        )
        return Data(tensor.copy_(values.reshape(typed.shape)))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Data) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Data({self.type})"
