"""What tensors are at one time: types, addresses, versions; and whether they still are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._C._dynamo.guards import TensorGuards
from torch._subclasses.fake_tensor import FakeTensor

from lazytorch.ops.alignment import BOUNDARY
from lazytorch.runtime.asker import Answers, Asker

ADDRESS = torch.Tensor.data_ptr

FEW = 8
"""Tensors that Python asks as fast."""


class Marks:
    """What some tensors are, from when this is made: their types, addresses if they count, and
    versions if they count (a transposed view of the same memory has another of neither)."""

    def __init__(self, tensors: Sequence[torch.Tensor], addresses: bool, versions: bool) -> None:
        self.addresses = addresses
        self.counted = [x for x in tensors if versions and not x.is_inference()]
        others = [x for x in tensors if versions and x.is_inference()]
        self.tensors = [*self.counted, *others] if versions else list(tensors)
        self.guards = exact(self.tensors) if tensors else None
        self.answers: Answers | None = None
        self.known = self.present()

    def present(self) -> tuple[list[int], list[int]]:
        """Addresses and versions now, where they count."""
        places = list(map(ADDRESS, self.tensors)) if self.addresses else []
        return places, [x._version for x in self.counted]

    def same(self) -> bool:
        """Whether all are as they were."""
        if self.answers is not None:
            return self.answers.same()
        if not self.look():
            return False
        asker = Asker.ready
        if asker is not None and len(self.tensors) >= FEW:
            answers = Answers(asker, self.tensors, len(self.counted))
            if self.look():  # no other thread has written meanwhile
                self.answers = answers
        return True

    def look(self) -> bool:
        """Whether all are as they were, as Python finds out."""
        if self.guards is not None and not self.guards.check(*self.tensors):
            return False
        return not self.addresses or self.present() == self.known


def exact(tensors: Sequence[torch.Tensor]) -> Any:
    """What compares types, sizes and strides of all these tensors in one call of `check`.

    Sizes and strides are said in full: None in their place would let them vary.
    """
    sizes: Any = [list(x.shape) for x in tensors]
    strides: Any = [list(x.stride()) for x in tensors]
    return TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)


def shift(x: torch.Tensor) -> int:
    """Bytes by which a tensor on a GPU begins behind a boundary of `BOUNDARY`: how torch's kernels
    read it, and which number they draw for an element, depends on it."""
    if not x.is_cuda:
        return 0
    if isinstance(x, FakeTensor):  # it lies nowhere
        return int(x.storage_offset()) * x.dtype.itemsize % BOUNDARY
    return x.data_ptr() % BOUNDARY
