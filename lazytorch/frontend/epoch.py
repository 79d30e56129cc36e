"""A counter that moves when any module's attribute is set, so that guards are one comparison.

Setting an attribute (`model.eval()`, `model.fc = ...`, `m.scale = 2`) goes through methods of
`nn.Module`, which are wrapped once, when the first function is compiled. Only a moved
counter makes a compiled function compare the attributes themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn


class Epoch:
    """The counter. Process-wide, because modules are."""

    now: ClassVar[int] = 0
    installed: ClassVar[bool] = False

    @classmethod
    def install(cls) -> None:
        """Wrap the methods of `nn.Module` that set attributes; once."""
        if cls.installed:
            return
        cls.installed = True
        for name in ("__setattr__", "__delattr__", "register_buffer", "register_parameter"):
            setattr(nn.Module, name, cls.counted(getattr(nn.Module, name)))

    @classmethod
    def counted(cls, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method that moves the counter."""

        @functools.wraps(method)
        def counting(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            cls.now += 1
            method(self, *args, **kwargs)

        return counting

    @classmethod
    def hidden(cls, kind: type[nn.Module]) -> bool:
        """Whether a class sets attributes in a way of its own, which the counter may not see."""
        return kind.__setattr__ is not nn.Module.__setattr__
