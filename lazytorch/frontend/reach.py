"""Everything that a function can read besides its arguments' tensors: modules, closures, globals,
containers and objects behind them, found by walking from the function without running it.

Torch's and Python's own code is taken as constant. Of other installed packages, plain globals that
a forward itself names are seen; the user's own code is followed into the functions that it names.
"""

from __future__ import annotations

import functools
import os
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from lazytorch.frontend import classes, code
from lazytorch.frontend.inside import NUMBERS, goes_on, inside, of_threads
from lazytorch.frontend.places import CellStore, ContextStore, FieldStore, ListStore, Slot, Store
from lazytorch.frontend.unmoved import GENERATORS, moves

ATOMS = frozenset(
    {bool, int, float, complex, str, bytes, type(None), type(...), range, slice,
     torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)  # fmt: skip
LARGE = 4096  # entries of one container that are compared one by one
_OPAQUE = (torch.Tensor, types.ModuleType, types.BuiltinFunctionType, type, Enum, np.generic)
_WITH_MORE = (dict, list, set, deque, tuple, frozenset, np.ndarray, Enum, GENERATORS, LRScheduler)
_OF_TORCH = frozenset(vars(nn.Module()))  # attributes that every module has
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = frozenset(f"_global{name}" for name in _HOOKS)
_ALL = frozenset({"getattr", "hasattr", "vars", "__dict__", "__getattribute__", "attrgetter"})
_ENVIRON: dict[Any, Any] = vars(os.environ)["_data"]
_OF_FUNCTIONS = ("__code__", "__defaults__", "__kwdefaults__")


@dataclass(frozen=True, slots=True)
class Holder:
    """A mutable container, or the `__dict__` of an object, called `label` in messages."""

    container: Any
    label: str


class Reach:
    """What can be read from `fn` and from the objects among its arguments."""

    def __init__(self, fn: Callable[..., Any], arguments: Iterable[object] = ()) -> None:
        self.modules: list[tuple[str, nn.Module]] = []
        self.functions: list[types.FunctionType] = []
        self.slots: list[Slot] = []
        self.holders: list[Holder] = []
        self.mostly_empty: list[Holder] = []  # hooks, and what functions hold themselves
        self.arrays: list[Holder] = []
        self.large: list[Holder] = []
        self.names: set[str] = set()
        self.moving: list[tuple[str, object]] = []
        self.iterators: list[tuple[str, object]] = []
        self.stored: set[str] = set()
        self.kinds: list[type] = []
        self.placed: list[tuple[str, nn.Module]] = []
        self.optimizers: list[tuple[str, torch.optim.Optimizer]] = []
        self.met: dict[int, object] = {}
        self.entered: set[tuple[int, bool | str]] = set()
        self.taken: set[tuple[int, str]] = set()
        self.objects: list[tuple[str, object]] = []
        self.queue: deque[tuple[str, object]] = deque([("", fn)])
        self.queue.extend(("argument", x) for x in arguments)
        for name, hooks in vars(nn.modules.module).items():
            if name in _GLOBAL_HOOKS:
                self.mostly_empty.append(Holder(hooks, name))
                self.queue.extend((name, hook) for hook in hooks.values())
        self.walk()

    def walk(self) -> None:
        """Breadth first; fields of the user's own objects once some code names them."""
        named = -1
        while self.queue or named != len(self.names):
            while self.queue:
                label, value = self.queue.popleft()
                if value.__class__ not in ATOMS and id(value) not in self.met:
                    self.met[id(value)] = value
                    self.visit(label, value)
            named = len(self.names)
            for label, value in self.objects:
                self.fields(label, value)
            for label, value in self.placed:
                self.places(label, value)
            if not self.names.isdisjoint(("environ", "getenv")) and id(_ENVIRON) not in self.met:
                self.queue.append(("os.environ", _ENVIRON))
        for label, value in self.objects:
            self.lacking(label, value)
        for kind in self.kinds:
            for base, name in classes.lacking(kind, self.names, self.stored):
                self.slot(FieldStore(base), name, dotted(base.__name__, name), lacking=True)

    def visit(self, label: str, value: Any) -> None:
        """One value that is not an atom."""
        if isinstance(value, _WITH_MORE) and code.users_class(type(value)):
            self.object(label, value)  # beside what any such value holds
        if isinstance(value, nn.Module):
            self.module(label, value)
        elif isinstance(value, dict | list | set | deque):
            self.container(label, value)
        elif isinstance(value, tuple | frozenset):
            self.queue.extend((label, x) for x in value)
        elif isinstance(value, NUMBERS):
            (self.arrays if size(value) <= LARGE else self.large).append(Holder(value, label))
        elif isinstance(value, ContextVar):
            self.slot(ContextStore(value), value.name, value.name)
        elif goes_on(value):
            self.iterators.append((label, value))
        elif moves(value):
            self.moving.append((label, value))
            if not isinstance(value, GENERATORS):
                self.container(label, vars(value))  # its optimizer, its rates
        elif isinstance(value, torch.optim.Optimizer):
            self.optimizer(label, value)
        elif isinstance(value, types.MethodType):
            self.queue.extend([(label, value.__self__), (label, value.__func__)])
        elif isinstance(value, types.BuiltinMethodType | types.MethodWrapperType):
            self.queue.append((label, value.__self__))  # of an object, or a module
        elif isinstance(value, type):
            if code.users_class(value):
                self.kind(value, made=True)
        elif isinstance(wrapped := getattr(value, "__dict__", {}).get("__wrapped__"), nn.Module):
            self.queue.append((label, wrapped))  # a module that was compiled by itself
        elif callable(value) and (
            (found := list(code.python(value))) or isinstance(value, functools.partial)
        ):
            for function in found:
                self.function(function)
            for part in (getattr(value, "args", ()), getattr(value, "keywords", None)):
                self.queue.append((label, part))
        elif not isinstance(value, _OPAQUE):
            self.object(label, value)

    def container(self, label: str, value: Any) -> None:
        """A list, dict or set: its entries are compared one by one if they are not too many."""
        if len(value) > LARGE:
            self.large.append(Holder(value, label))
            return
        self.holders.append(Holder(value, label))
        items = value.items() if isinstance(value, dict) else enumerate(value)
        self.queue.extend((dotted(label, key), x) for key, x in items)

    def module(self, label: str, root: nn.Module) -> None:
        """A module and everything under it."""
        for path, module in root.named_modules():
            if module is not root and id(module) in self.met:
                continue
            self.met[id(module)] = module
            name = dotted(label, path)
            self.modules.append((name, module))
            self.kind(type(module))
            if any(vars(kind).get("__slots__") for kind in type(module).__mro__):
                self.placed.append((name, module))
            for key, value in vars(module).items():
                if key not in _OF_TORCH and value.__class__ not in ATOMS:
                    self.queue.append((dotted(name, key), value))
            for key in _HOOKS:
                hooks: dict[int, Any] = vars(module)[key]
                self.mostly_empty.append(Holder(hooks, dotted(name, key)))
                self.queue.extend((dotted(name, key), hook) for hook in hooks.values())

    def optimizer(self, label: str, value: torch.optim.Optimizer) -> None:
        """An optimizer: its settings, and for each parameter what it remembers."""
        self.optimizers.append((label, value))
        self.kind(type(value))
        for name in ("param_groups", "state"):  # a loaded state brings others
            self.slots.append(Slot(vars(value), name, dotted(label, name)))
        groups: list[dict[str, Any]] = value.param_groups
        self.holders.append(Holder(groups, dotted(label, "param_groups")))
        for i, group in enumerate(groups):
            self.container(dotted(label, "param_groups", i), group)
        self.holders.append(Holder(value.state, dotted(label, "state")))
        for i, state in enumerate(value.state.values()):
            self.container(dotted(label, "state", i), state)

    def object(self, label: str, value: object) -> None:
        """An instance of some class: all its fields, or of the user's own those that are named."""
        kind = type(value)
        self.queue.extend((label, x) for x in inside(value))
        if of_threads(value):
            self.objects.append((label, value))
        if code.library(kind.__module__) and kind.__name__ not in ("SimpleNamespace", "Namespace"):
            return
        self.kind(kind)
        if code.users_class(kind):
            self.objects.append((label, value))
        elif hasattr(value, "__dict__"):
            self.container(label, vars(value))

    def fields(self, label: str, value: object) -> None:
        """Fields of an object of the user's whose names occur in the code that is reached."""
        own: dict[str, Any] = vars(value) if hasattr(value, "__dict__") else {}
        everything = not self.names.isdisjoint(_ALL)
        if of_threads(value):
            store = FieldStore(value)
            for name in own.keys() if everything else own.keys() & self.names:
                self.slot(store, name, dotted(label, name))
        elif everything and hasattr(value, "__dict__"):
            if id(own) not in self.met:
                self.met[id(own)] = own
                self.container(label, own)
        else:
            for name in [name for name in own if name in self.names]:
                self.slot(own, name, dotted(label, name))
        self.places(label, value)

    def places(self, label: str, value: object) -> None:
        """Named fields that the classes of an object have places for."""
        for name in classes.slotted(value, self.names):
            self.slot(FieldStore(value), name, dotted(label, name))

    def lacking(self, label: str, value: object) -> None:
        """Fields that an object of the user's does not have yet, and that would be seen: those that
        code sets, and those that would hide what its class has under that name."""
        for name in classes.slotted(value, self.names):
            self.slot(FieldStore(value), name, dotted(label, name), lacking=True)
        if not hasattr(value, "__dict__") or id(own := vars(value)) in self.met:
            return
        store = FieldStore(value) if of_threads(value) else own
        for name in sorted((classes.names(type(value)) & self.names) | self.stored):
            self.slot(store, name, dotted(label, name), lacking=True)

    def kind(self, kind: type, made: bool = False) -> None:
        """The class of an object, or one that code makes objects of: methods are code; attributes
        of the user's own classes are read too."""
        if (id(kind), made) in self.entered:
            return
        self.entered.add((id(kind), made))
        self.met[id(kind)] = kind
        if code.users_class(kind):
            self.kinds.append(kind)
        if code.users_class(type(kind)):
            self.kind(type(kind))
        for base, name, functions in classes.members(kind, made):
            if name is not None:
                self.slot(FieldStore(base), name, dotted(base.__name__, name))
            for function in functions:
                self.function(function)

    def function(self, function: types.FunctionType) -> None:
        """The closure cells and globals that a function's code names, and its defaults."""
        own = function.__code__
        if (id(function), False) in self.entered or code.ours(own.co_filename):
            return
        self.entered.add((id(function), False))
        self.functions.append(function)
        theirs = not code.installed(own.co_filename)
        names = set(code.words(own))
        if theirs:
            self.names |= names.union(own.co_freevars)
            self.stored |= code.stored_names(own)
            self.mostly_empty.append(Holder(vars(function), function.__name__))
            for store, held in ((FieldStore(function), _OF_FUNCTIONS), (vars(function),) * 2):
                for name in held:
                    self.slot(store, name, dotted(function.__name__, name))
        for name, cell in zip(own.co_freevars, function.__closure__ or (), strict=True):
            store = CellStore(cell)
            if theirs or plain(store.get(name)) or isinstance(store.get(name), nn.Module):
                self.slot(store, name, name)
        for name in sorted(code.imported(own) if theirs else ()):
            if (module := sys.modules.get(name)) is not None:
                self.python_module(module, name, names)
        space = function.__globals__
        wanted = code.global_names(own)
        for name in sorted(wanted - space.keys() if theirs else ()):
            self.slot(space, name, name, lacking=True)
        for name in sorted(wanted & space.keys()):
            if theirs or plain(space[name]):
                self.slot(space, name, name)
            if isinstance(space[name], types.ModuleType):
                self.python_module(space[name], name, names)

    def python_module(self, module: types.ModuleType, label: str, names: set[str]) -> None:
        """Values of a module of the user's that code reads by `module.name`."""
        file = getattr(module, "__file__", None) or ""
        if code.library(module.__name__) or code.installed(file):
            return
        for name in sorted(names & vars(module).keys()):
            value = vars(module)[name]
            if value is not module and (id(module), name) not in self.entered:
                self.entered.add((id(module), name))
                self.slot(vars(module), name, dotted(label, name))
                if isinstance(value, types.ModuleType):
                    self.python_module(value, dotted(label, name), names)

    def slot(self, store: Store, name: str, label: str, lacking: bool = False) -> None:
        """A place, or one that is `lacking` now; Python modules are no values."""
        owner: object = store
        if isinstance(store, CellStore):
            owner = store.cell
        elif isinstance(store, FieldStore):
            owner = store.owner
        elif isinstance(store, ContextStore):
            owner = store.variable
        if (id(owner), name) in self.taken:
            return
        value = store.get(name, self)
        if (value is self) is not lacking or isinstance(value, types.ModuleType):
            return
        self.taken.add((id(owner), name))
        self.slots.append(Slot(store, name, label))
        if not lacking:
            self.queue.append((label, value))

    @cached_property
    def going_on(self) -> tuple[tuple[str, object], ...]:
        """Iterators in places that the code names, or among the arguments."""
        return tuple(
            (label, x)
            for label, x in self.iterators
            if label == "argument" or not self.names.isdisjoint(label.split("."))
        )

    @cached_property
    def state(self) -> tuple[Slot, ...]:
        """Places of parameters and buffers, and of tensors kept as plain attributes, globals or in
        closures, as they were when this was first asked."""
        return tuple(self.tensors())

    def tensors(self) -> Iterator[Slot]:
        """What `state` lists."""
        for path, module in self.modules:
            for store in (module._parameters, module._buffers):
                for name, tensor in store.items():
                    if tensor is not None:
                        yield Slot(store, name, dotted(path, name), registered=True)
            for name, value in vars(module).items():
                if value.__class__ in ATOMS:
                    continue
                if isinstance(value, torch.Tensor):
                    yield Slot(vars(module), name, dotted(path, name))
                elif isinstance(value, dict) and not name.startswith("_"):
                    for key, item in value.items():
                        if isinstance(item, torch.Tensor):
                            yield Slot(value, key, dotted(path, name, key))
        for slot in self.slots:
            if isinstance(slot.store.get(slot.name), torch.Tensor):
                yield slot
        for label, optimizer in self.optimizers:
            for i, state in enumerate(optimizer.state.values()):
                for name, value in state.items():
                    if isinstance(value, torch.Tensor):
                        yield Slot(state, name, dotted(label, name, i))
            for group in optimizer.param_groups:
                store = ListStore(group["params"])
                for i in range(len(group["params"])):
                    yield Slot(store, i, dotted(label, "params", i))
                for name, value in group.items():
                    if isinstance(value, torch.Tensor):
                        yield Slot(group, name, dotted(label, name))


def size(numbers: Any) -> int:
    """How many numbers there are."""
    return numbers.size if isinstance(numbers, np.ndarray) else len(numbers)


def plain(value: object) -> bool:
    """Values that a recording bakes in, and containers of nothing else."""
    if value.__class__ in (tuple, list, set, frozenset):
        return all(x.__class__ in ATOMS for x in value)  # type: ignore[attr-defined]
    if value.__class__ is dict:
        return all(x.__class__ in ATOMS for x in value.values())  # type: ignore[attr-defined]
    return value.__class__ in ATOMS


def dotted(*parts: object) -> str:
    """`layer1.0.weight`: the parts that are not empty."""
    return ".".join([text for text in map(str, parts) if text])
