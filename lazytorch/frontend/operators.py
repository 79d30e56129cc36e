"""Python's arithmetic on traced tensors, recorded without a trip through torch's dispatcher.

`x + y` is the most frequent line of a model, and the dispatcher's way back into Python costs more
than recording the operation. Whatever is out of the ordinary (other operands, modes of the user's
own) takes that way all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lazytorch.frontend.imports import PLAIN, spelled

if TYPE_CHECKING:
    from lazytorch.frontend.tensor import Traced

NUMBERS = frozenset({int, float, bool})
"""The classes of plain Python numbers."""

_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack


def operator(name: str, overload: str) -> Any:
    """The method `name` of traced tensors, for which torch calls `overload`.

    Only for overloads on none of autocast's lists: its casts are passed by.
    """
    ordinary = getattr(torch.Tensor, name)
    overload = spelled(overload)
    reflected = name.startswith("__r")
    known = PLAIN.named

    def method(self: Traced, other: Any) -> Any:
        kind = other.__class__
        if (
            (kind is self.__class__ or kind in NUMBERS)
            and _dispatch_modes() == 1
            and not _function_modes()
        ):
            operands = (other, self) if reflected else (self, other)
            result = self.recorder.operator(known[overload], operands)
            if result is not None:
                return result
        return ordinary(self, other)

    return method
