"""A compiled module that still is the module: its class, its fields, its parameters.

It shares the fields of the original, one dictionary for both, so that parameters, buffers, hooks
and modes are the same ones whoever sets them, and names in a `state_dict` have no prefix. A module
that holds it registers it, and `isinstance` works. Methods of the module's class run on the
original, so that what calls it with other shapes each time (`generate`) compiles nothing.
"""

from __future__ import annotations

import copy
import types
from operator import attrgetter
from typing import Any

from torch import nn
from typing_extensions import override

from lazytorch.compiled import Compiled
from lazytorch.errors import UnsupportedError
from lazytorch.lower.memory_plan import MemoryPlan
from lazytorch.options import Options


class CompiledModule(nn.Module):
    """An `nn.Module` that records itself once per signature and replays afterwards.

    Called like the original, and with what `Compiled` has beside.
    """

    __slots__ = ("_compiled",)
    _compiled: Compiled

    @override
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the original returns; a call that no plan holds for is recorded first."""
        return self._compiled(*args, **kwargs)

    @override
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "_compiled":  # while it is being made
                raise
            return getattr(self._compiled, name)

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":
            raise UnsupportedError(
                "a compiled module cannot become one of another class, which its original is not",
                {"class": value.__qualname__},
                hint="change the module (parametrize it, for one) before it is compiled",
            )
        super().__setattr__(name, value)

    def explain(self) -> str:
        """Stages, operation counts, milliseconds, kernels, what was fused and why not."""
        return self._compiled.explain()

    def source(self) -> str:
        """The programs that run and their generated kernels."""
        return self._compiled.source()

    def memory(self, *args: Any, **kwargs: Any) -> MemoryPlan:
        """What a call under `no_grad` takes at its highest, with a name for every byte."""
        return self._compiled.memory(*args, **kwargs)

    def refresh(self) -> None:
        """Reread all weights: needed after a write that torch cannot see (`p.data`, NumPy)."""
        self._compiled.refresh()

    def release(self) -> None:
        """Drop every plan and what it holds."""
        self._compiled.release()

    def wait(self) -> None:
        """Return when every kernel is compiled and in use."""
        self._compiled.wait()

    @override
    def _get_name(self) -> str:
        return f"compiled {type(self).__name__}"

    def __copy__(self) -> CompiledModule:
        return self.of(copy.copy(self._compiled.fn), self._compiled.options)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModule:
        return self.of(copy.deepcopy(self._compiled.fn, memo), self._compiled.options)

    @override
    def __reduce_ex__(self, protocol: Any) -> Any:
        return CompiledModule.of, (self._compiled.fn, self._compiled.options)

    @staticmethod
    def of(module: Any, options: Options) -> CompiledModule:
        """A module compiled, as an object of its own class; of one that is, the original anew."""
        if isinstance(module, CompiledModule):
            module = module._compiled.fn
        kind: Any = type(module)
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__slots__": ()}
        names |= {name: OfOriginal(name) for name in methods(kind)}
        try:
            of_both: Any = type(kind)(kind.__name__, (CompiledModule, kind), names)
        except TypeError:  # a class with places of its own for fields
            of_both = type(kind.__name__, (CompiledModule,), names)
        made = object.__new__(of_both)
        object.__setattr__(made, "__dict__", vars(module))
        object.__setattr__(made, "_compiled", Compiled(module, options))
        return made


original = attrgetter("_compiled.fn")
"""What a compiled module was made of."""


class OfOriginal:
    """A method of the module's class, bound to the original."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, made: CompiledModule | None, kind: type) -> Any:
        return self if made is None else getattr(original(made), self.name)


def methods(kind: type) -> set[str]:
    """The names of the methods that a class has beside every module's, and of those of every
    module's that it has in its own way."""
    every = vars(nn.Module)
    found = {
        name
        for base in kind.__mro__
        for name in vars(base)
        if not name.startswith("__")
        and isinstance(value := getattr(kind, name, None), types.FunctionType)
        and value is not every.get(name)
    }
    return found - vars(CompiledModule).keys()
