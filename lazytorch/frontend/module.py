"""Which module is running while a function is recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn


class ModulePath:
    """Tells which module is running, through torch's global forward hooks, while it is entered."""

    def __init__(
        self, modules: Iterable[tuple[str, nn.Module]], enter: Callable[[str], None]
    ) -> None:
        self.names: dict[int, str] = {}
        for path, module in modules:
            self.names.setdefault(id(vars(module)), path)  # a compiled module shares its fields
        self.enter = enter
        self.stack: list[str] = []

    def __enter__(self) -> ModulePath:
        self.ident = threading.get_ident()
        current = threading.get_ident

        def before(module: nn.Module, args: Any) -> None:
            if current() == self.ident:
                above = self.stack[-1] if self.stack else ""
                self.stack.append(self.names.get(id(vars(module)), above))
                self.enter(self.stack[-1])

        def after(module: nn.Module, args: Any, result: Any) -> None:
            if current() == self.ident and self.stack:
                self.stack.pop()
                self.enter(self.stack[-1] if self.stack else "")

        self.handles = (
            nn.modules.module.register_module_forward_pre_hook(before),
            nn.modules.module.register_module_forward_hook(after, always_call=True),
        )
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
