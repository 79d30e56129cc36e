"""What a function reads besides its arguments: modules found through it, their parameters,
buffers and attributes, closure cells and globals."""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lazytorch.errors import UnsupportedError
from lazytorch.frontend import trees

Store = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place that holds a tensor or a value: `store[name]`, called `label` in graphs."""

    store: Store
    name: str
    label: str


class CellStore(dict[str, Any]):
    """A closure cell seen as a dictionary with one entry, so that slots need one form."""

    def __init__(self, cell: types.CellType) -> None:
        super().__init__()
        self.cell = cell

    def __getitem__(self, name: str) -> Any:
        return self.cell.cell_contents

    def __setitem__(self, name: str, value: Any) -> None:
        self.cell.cell_contents = value

    def get(self, name: str, default: Any = None) -> Any:
        """The cell's present content."""
        try:
            return self.cell.cell_contents
        except ValueError:
            return default


def unwrapped(fn: Any) -> tuple[Any, list[Any]]:
    """The Python function behind partials and methods, and the objects bound on the way."""
    bound: list[Any] = []
    while True:
        if isinstance(fn, functools.partial):
            bound += [*fn.args, *fn.keywords.values()]
            fn = fn.func
        elif isinstance(fn, types.MethodType):
            bound.append(fn.__self__)
            fn = fn.__func__
        elif isinstance(fn, nn.Module):
            bound.append(fn)
            return type(fn).forward, bound
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        else:
            return fn, bound


def outside(fn: Any) -> Iterator[Slot]:
    """Closure cells and globals that the function's code names."""
    function, _ = unwrapped(fn)
    code = getattr(function, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        yield Slot(CellStore(cell), name, name)
    for name in code.co_names:
        if name in function.__globals__:
            yield Slot(function.__globals__, name, name)


def roots(fn: Any) -> dict[str, nn.Module]:
    """Modules that the function is, is bound to, or reaches by closure or global name."""
    found: dict[str, nn.Module] = {}
    _, bound = unwrapped(fn)
    named = [("", x) for x in bound] + [(s.name, s.store.get(s.name)) for s in outside(fn)]
    for name, value in named:
        for leaf in value if isinstance(value, tuple | list) else (value,):
            if isinstance(leaf, nn.Module) and not any(leaf is m for m in found.values()):
                found[name if name not in found else f"{name}{len(found)}"] = leaf
    return found


def submodules(fn: Any) -> Iterator[tuple[str, nn.Module]]:
    """Every module under the roots with its path."""
    for prefix, root in roots(fn).items():
        for path, module in root.named_modules():
            yield ".".join(p for p in (prefix, path) if p), module


def state_slots(fn: Any) -> Iterator[Slot]:
    """Places of parameters and buffers, and of tensors kept as plain attributes, globals or in
    closures."""
    for path, module in submodules(fn):
        dot = f"{path}." if path else ""
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None:
                    yield Slot(store, name, dot + name)
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield Slot(vars(module), name, dot + name)
            elif isinstance(value, dict) and not name.startswith("_"):
                for key, item in value.items():
                    if isinstance(item, torch.Tensor):
                        yield Slot(value, key, f"{dot}{name}.{key}")
    for slot in outside(fn):
        if isinstance(slot.store.get(slot.name), torch.Tensor):
            yield slot


class Attributes:
    """The attributes of all modules, closures and globals that a recording may have read.

    They are guarded as a whole. Setting a module's attribute moves the epoch, so those are
    compared only then; closures, globals and configuration objects (`model.config`) can change
    without anybody noticing, so those are compared at every call.
    """

    def __init__(self, fn: Any) -> None:
        self.modules = [module for _, module in submodules(fn)]
        self.outside = [s for s in outside(fn) if guardable(s.store.get(s.name))]
        self.objects = list(configurations(self.modules))
        self.module_values = self.read_modules()
        self.outside_values = self.read_outside()

    def read_modules(self) -> list[Any]:
        """Present values of the modules' attributes, and which submodules they have."""
        taken: list[Any] = []
        for module in self.modules:
            attributes = vars(module)
            children = attributes["_modules"]
            taken.append(tuple(map(id, children.values())) if children else ())
            taken.append([(k, seen(v)) for k, v in attributes.items() if k not in _TENSOR_STORES])
        return taken

    def read_outside(self) -> list[Any]:
        """Present values of closure cells, globals and configuration objects."""
        taken = [seen(s.store.get(s.name)) for s in self.outside]
        taken += [[(k, seen(v)) for k, v in vars(x).items()] for x in self.objects]
        return taken

    def same_modules(self) -> bool:
        """Whether every attribute of a module is as it was."""
        return self.read_modules() == self.module_values

    def same_outside(self) -> bool:
        """Whether closures, globals and configuration objects are as they were."""
        return self.read_outside() == self.outside_values


_GUARDED = frozenset({bool, int, float, str, type(None), torch.dtype, torch.device})
_TENSOR_STORES = frozenset({"_parameters", "_buffers", "_modules"})


def guardable(value: object) -> bool:
    """Values that a recording bakes in and a guard can compare."""
    return value.__class__ in _GUARDED or (
        value.__class__ in (tuple, list) and all(guardable(v) for v in value)  # type: ignore[union-attr]
    )


def seen(value: object) -> object:
    """What a guard compares of a value: its type and content if plain, else which object it is."""
    kind = value.__class__
    if kind in _GUARDED:
        return (kind, value)
    if kind is tuple or kind is list:
        return (kind, [seen(v) for v in value])  # type: ignore[attr-defined]  # it is a sequence
    return id(value)


def configurations(modules: list[nn.Module]) -> Iterator[Any]:
    """Plain objects that modules keep as attributes, each once: their fields steer the forward."""
    met: set[int] = set()
    for module in modules:
        for name, value in vars(module).items():
            if (
                id(value) not in met
                and not name.startswith("_")
                and hasattr(value, "__dict__")
                and not isinstance(value, nn.Module | torch.Tensor | type)
                and not callable(value)
            ):
                met.add(id(value))
                yield value


class Unchanged:
    """Makes sure that a recording leaves modules as they were: changed attributes are put back."""

    def __init__(self, fn: Any) -> None:
        self.before: list[tuple[str, nn.Module, Store, Store, Store]] = [
            (path, m, dict(vars(m)), dict(m._parameters), dict(m._buffers))
            for path, m in submodules(fn)
        ]

    def restore(self) -> str:
        """Put everything back; the name of the first attribute that the forward changed."""
        changed = ""
        for path, module, attributes, parameters, buffers in self.before:
            for before, now in (
                (attributes, vars(module)),
                (parameters, module._parameters),
                (buffers, module._buffers),
            ):
                if before.keys() == now.keys() and all(now[k] is v for k, v in before.items()):
                    continue
                for name in {**before, **now}:
                    old, new = before.get(name), now.get(name)
                    if old is new and name in before and name in now:
                        continue
                    if not (trees.plain(old) and trees.plain(new) and old == new):
                        changed = changed or ".".join(p for p in (path, name) if p)
                now.clear()
                now.update(before)
        return changed


def refuse_changed(name: str) -> None:
    """Refuse a forward that keeps state in Python attributes."""
    if name:
        raise UnsupportedError(
            f"the forward changed the attribute {name}, which a replay would not do again",
            hint="keep state in a buffer (register_buffer), or mark the method lt.disable",
        )


class ModulePath:
    """Tells which module is running, through torch's global forward hooks, while it is entered."""

    def __init__(self, fn: Any, enter: Callable[[str], None]) -> None:
        self.names: dict[int, str] = {}
        for path, module in submodules(fn):
            self.names.setdefault(id(module), path)
        self.enter = enter
        self.stack: list[str] = []

    def __enter__(self) -> ModulePath:
        self.ident = threading.get_ident()
        current = threading.get_ident

        def before(module: nn.Module, args: Any) -> None:
            if current() == self.ident:
                self.stack.append(self.names.get(id(module), self.stack[-1] if self.stack else ""))
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
