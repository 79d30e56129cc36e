"""Nested arguments and results: lists, dicts, dataclasses, ModelOutputs, caches, by optree.

Classes that optree does not know are registered in a namespace of ours when they are first seen,
so that nothing outside lazytorch changes its behaviour.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque
from operator import is_
from typing import Any, cast

import optree
import torch

from lazytorch.errors import UnsupportedError

NAMESPACE = "lazytorch"
# For good: code that iterates over a dict sees the order of its keys, which optree would sort.
_IN_ORDER = optree.dict_insertion_ordered(True, namespace=NAMESPACE)
_IN_ORDER.__enter__()
Spec = optree.PyTreeSpec
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device,
          torch.memory_format, torch.layout, torch.Size)  # fmt: skip


def flatten(tree: Any) -> tuple[list[Any], Spec]:
    """Leaves and structure; None is a leaf, so that it is part of the values."""
    leaves, spec = optree.tree_flatten(tree, none_is_leaf=True, namespace=NAMESPACE)
    if any(register(type(leaf), leaf) for leaf in leaves if not isinstance(leaf, torch.Tensor)):
        return flatten(tree)
    return leaves, spec


def unflatten(spec: Spec, leaves: list[Any]) -> Any:
    """Inverse of `flatten`."""
    return optree.tree_unflatten(spec, leaves)


def graft(old: Any, new: Any) -> Any:
    """Give the containers in `old` the content of those in `new`; what stands in their place."""
    if old is new or old.__class__ is not new.__class__ or isinstance(old, torch.Tensor):
        return new
    if isinstance(old, list | deque):
        first = [graft(a, b) for a, b in zip(old, new, strict=False)]
        rest = list(new)[len(first) :]
        old.clear()
        old.extend(first + rest)
    elif isinstance(old, dict):
        merged = {k: graft(old[k], x) if k in old else x for k, x in new.items()}
        old.clear()
        old.update(merged)
    elif isinstance(old, tuple):
        inside = [graft(a, b) for a, b in zip(old, new, strict=False)]
        return old if len(old) == len(new) and all(map(is_, inside, old)) else new
    elif hasattr(old, "__dict__") and not optree.tree_is_leaf(old, namespace=NAMESPACE):
        for name, x in vars(new).items():
            object.__setattr__(old, name, graft(vars(old).get(name), x))
    else:
        return new
    return old


def paths(spec: Spec) -> list[str]:
    """A readable path for each leaf: `x.0.key`."""
    return [".".join(str(part) for part in path) for path in spec.paths()]


def register(kind: type, value: Any) -> bool:
    """Teach optree a class of containers; False when it is a leaf (or known already)."""
    if issubclass(kind, _PLAIN) or isinstance(value, type):
        return False
    if isinstance(value, OrderedDict) and dataclasses.is_dataclass(kind):  # transformers' outputs
        flat = _ordered
        back = _ordered_back(kind)
    elif dataclasses.is_dataclass(kind):
        flat = _fields
        back = _fields_back(kind)
    elif any(x.__module__.startswith("transformers.cache_utils") for x in kind.__mro__):
        flat = _attributes
        back = _attributes_back(kind)
    else:
        return False
    optree.register_pytree_node(kind, flat, back, namespace=NAMESPACE)
    return True


def holds_tensors(value: object) -> bool:
    """Whether an object that is a leaf hides tensors in its attributes."""
    attributes = getattr(value, "__dict__", None)
    if attributes is None or isinstance(value, type | torch.nn.Module):
        return isinstance(value, torch.nn.Module)
    held = cast(Any, list(attributes.values()))  # optree does not take Any for a tree
    leaves = optree.tree_leaves(held, none_is_leaf=True, namespace=NAMESPACE)
    return any(isinstance(leaf, torch.Tensor) for leaf in leaves)


def plain(value: object) -> bool:
    """Whether a leaf compares by value: numbers, strings, dtypes."""
    return isinstance(value, _PLAIN)


def refuse_object(value: object, role: str) -> None:
    """Refuse, by name, an object with tensors inside that nobody registered."""
    if holds_tensors(value):
        raise UnsupportedError(
            f"{role} holds a {type(value).__qualname__}, whose tensors lazytorch cannot see",
            hint="return its tensors, or make it a dataclass",
        )


def _ordered(value: Any) -> tuple[list[Any], tuple[str, ...]]:
    return list(value.values()), tuple(value.keys())


def _ordered_back(kind: type) -> Any:
    """The constructor; that of a transformers' output, which takes longer than the guards of a
    whole model, is left out where all it did for such items was to store them."""
    checks = getattr(kind, "__post_init__", None)
    library = getattr(checks, "__module__", "").startswith("transformers.")
    names = [f.name for f in dataclasses.fields(kind)]
    stored: set[object] = set()

    def back(keys: tuple[str, ...], items: Any) -> Any:
        given = dict(zip(keys, items, strict=True))
        fields = dict.fromkeys(names) | given
        form = (keys, *map(type, given.values()))
        if form in stored:
            made = OrderedDict.__new__(kind)
            vars(made).update(fields)
            for name, item in given.items():
                OrderedDict.__setitem__(made, name, item)
            return made
        made = kind(**given)
        same = _identical(vars(made), fields)
        # A first field that is no tensor may be taken for pairs of names and values.
        if library and same and isinstance(fields[names[0]], torch.Tensor):
            stored.add(form)
        return made

    return back


def _identical(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return list(a) == list(b) and all(map(is_, a.values(), b.values()))


def _fields(value: Any) -> tuple[list[Any], tuple[str, ...]]:
    names = tuple(f.name for f in dataclasses.fields(value))
    return [getattr(value, name) for name in names], names


def _fields_back(kind: type) -> Any:
    return lambda names, items: _with_attributes(kind, names, items)


def _attributes(value: Any) -> tuple[list[Any], tuple[str, ...]]:
    names = tuple(sorted(vars(value)))
    return [vars(value)[name] for name in names], names


def _attributes_back(kind: type) -> Any:
    return lambda names, items: _with_attributes(kind, names, items)


def _with_attributes(kind: type, names: tuple[str, ...], items: Any) -> Any:
    made = object.__new__(kind)
    for name, item in zip(names, items, strict=True):
        object.__setattr__(made, name, item)
    return made
