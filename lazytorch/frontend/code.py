"""Python code that a function may run, found without running it: which names its code reads,
where they are, and on which line."""

from __future__ import annotations

import dis
import functools
import re
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from lazytorch.errors import Where

_HERE = str(Path(__file__).parent.parent)
_TORCH = str(Path(str(torch.__file__)).parent)
_INSTALLED = tuple({f"{sysconfig.get_path(kind)}/" for kind in ("stdlib", "purelib", "platlib")})
_KNOWN = frozenset({"torch", "lazytorch", "numpy", "optree", *sys.stdlib_module_names}) - {
    "__main__"
}

_CHANGING = frozenset(
    {"append", "appendleft", "add", "clear", "discard", "extend", "insert", "pop", "popleft",
     "remove", "setdefault", "update"}
)  # fmt: skip

_LOAD_GLOBAL = dis.opmap["LOAD_GLOBAL"]
_NAMED = frozenset(
    dis.opmap[name]
    for name in ("LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
    if name in dis.opmap
)
"""Instructions that tell one of the module's names."""
_STORING = frozenset({dis.opmap["STORE_ATTR"], dis.opmap["DELETE_ATTR"]})
_NAMING = frozenset(
    {"globals", "vars", "eval", "exec", "modules", "import_module", "__import__", "__globals__",
     "f_globals"}
)  # fmt: skip
"""Names by which code reads a module's names by their texts."""
_IMPORT = dis.opmap["IMPORT_NAME"]


def ours(file: str) -> bool:
    """Whether a file is torch's or lazytorch's, whose own globals are no business of a guard."""
    return file.startswith((f"{_TORCH}/", f"{_HERE}/")) or file.startswith("<frozen")


def installed(file: str) -> bool:
    """Whether a file belongs to an installed package or to Python, not to the user."""
    return file.startswith(_INSTALLED) or ours(file)


def library(name: str) -> bool:
    """Whether a module name is of torch, of Python or of ours: its objects are not looked into."""
    return name.partition(".")[0] in _KNOWN


def users_class(kind: type) -> bool:
    """Whether a class is written in the user's own code."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None) or ""
    return not library(kind.__module__) and not installed(file)


def python(fn: Any) -> Iterator[types.FunctionType]:
    """The Python functions in a callable, its wrappers and what a decorator or partial holds."""
    while fn is not None:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, types.MethodType | staticmethod | classmethod):
            fn = fn.__func__
        elif isinstance(fn, property):
            yield from python(fn.fset)
            fn = fn.fget
        else:
            if isinstance(fn, types.FunctionType):
                if fn.__code__.co_filename.startswith(_HERE):
                    return  # lt.disable: what is kept eager is not recorded
                yield fn
            fn = getattr(fn, "__wrapped__", None)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code and that of the functions, comprehensions and classes written in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def words(code: types.CodeType) -> Iterator[str]:
    """Every name that the code uses, and its short texts (`getattr(x, "name")`)."""
    for one in codes(code):
        yield from one.co_names
        yield from (x for x in one.co_consts if x.__class__ is str and len(x) < 40)


def steps(code: types.CodeType) -> Iterator[tuple[types.CodeType, int, int]]:
    """Each instruction and its number, with the code that it is in."""
    for one in codes(code):
        wide = 0
        for op, low in zip(one.co_code[::2], one.co_code[1::2], strict=True):
            number = wide | low
            wide = number << 8 if op == dis.EXTENDED_ARG else 0
            yield one, op, number


def global_names(code: types.CodeType) -> set[str]:
    """The names that the code looks up among its module's; an attribute or a text of that name is
    another thing, unless it asks for the module's names as such."""
    found: set[str] = set()
    for one, op, number in steps(code):
        if op == _LOAD_GLOBAL:
            found.add(one.co_names[number >> 1])  # the lowest bit prepares for a call
        elif op in _NAMED:
            found.add(one.co_names[number])
    if all(_NAMING.isdisjoint(one.co_names) for one in codes(code)):
        return found
    texts = [x for one in codes(code) for x in one.co_consts if isinstance(x, str)]
    return found.union(words(code), *[re.findall(r"\w+", text) for text in texts])


def imported(code: types.CodeType) -> set[str]:
    """The modules that the code itself imports."""
    return {one.co_names[number] for one, op, number in steps(code) if op == _IMPORT}


def stored_names(code: types.CodeType) -> set[str]:
    """The names of attributes that the code sets, which an object may lack until then."""
    found = {one.co_names[number] for one, op, number in steps(code) if op in _STORING}
    return found.union(words(code)) if "setattr" in code.co_names else found


def line_of(functions: Iterable[types.FunctionType], name: str) -> Where | None:
    """Where the functions store to `name` or into it, or else first use it."""
    used: Where | None = None
    for function in functions:
        for code in codes(function.__code__):
            lines: dict[int, list[dis.Instruction]] = {}
            for step in dis.get_instructions(code):
                line = step.positions.lineno if step.positions else None
                lines.setdefault(line or code.co_firstlineno, []).append(step)
            for line, steps in lines.items():
                if not any(step.argval == name for step in steps):
                    continue
                where = Where(code.co_filename, line, code.co_name)
                if any(stores(step, name) for step in steps):
                    return where
                used = used or where
    return used


def stores(step: dis.Instruction, name: str) -> bool:
    """Whether an instruction changes `name`, or some container."""
    if step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
        return True
    return step.argval == name if step.opname.startswith("STORE") else step.argval in _CHANGING
