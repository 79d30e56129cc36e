"""A counter that moves when any module's attribute is set, so that guards are one comparison.

Setting an attribute (`model.eval()`, `model.fc = ...`, `m.scale = 2`) goes through
`nn.Module.__setattr__`, which is wrapped once, when the first function is compiled. Only a moved
counter makes a compiled function compare the attributes themselves.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn


class Epoch:
    """The counter. Process-wide, because modules are."""

    now: ClassVar[int] = 0
    installed: ClassVar[bool] = False

    @classmethod
    def install(cls) -> None:
        """Wrap `nn.Module.__setattr__` and `__delattr__`; once."""
        if cls.installed:
            return
        cls.installed = True
        set_attribute = nn.Module.__setattr__
        delete_attribute = nn.Module.__delattr__

        def __setattr__(self: nn.Module, name: str, value: Any) -> None:
            cls.now += 1
            set_attribute(self, name, value)

        def __delattr__(self: nn.Module, name: str) -> None:
            cls.now += 1
            delete_attribute(self, name)

        nn.Module.__setattr__ = __setattr__  # type: ignore[method-assign]
        nn.Module.__delattr__ = __delattr__  # type: ignore[method-assign]

    @classmethod
    def hidden(cls, kind: type[nn.Module]) -> bool:
        """Whether a class sets attributes in a way of its own, which the counter may not see."""
        return kind.__setattr__ is not nn.Module.__setattr__
