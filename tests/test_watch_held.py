"""Values behind containers of Python's library, special methods, classes and functions' own
attributes: no change of one goes unseen; what goes on by itself is refused."""

import array
import collections
import contextvars
import itertools
import os
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from comparison import same
from torch import nn

import lazytorch as lt
from lazytorch.errors import UnsupportedError

Function = Callable[[torch.Tensor], torch.Tensor]
Case = tuple[Function, list[Callable[[], Any]]]


class Wrapper:
    """A class through whose special methods values are read."""

    def __init__(self, inner: dict[str, float]) -> None:
        self.inner = inner

    def __getitem__(self, name: str) -> float:
        return self.inner[name]

    def __len__(self) -> int:
        return len(self.inner)

    def __contains__(self, name: str) -> bool:
        return name in self.inner

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __float__(self) -> float:
        return self.inner["scale"]

    def __bool__(self) -> bool:
        return self.inner["scale"] > 2.5

    def __mul__(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.inner["scale"]

    def __enter__(self) -> float:
        return self.inner["scale"]

    def __exit__(self, *_: object) -> None:
        pass


def entered(wrapper: Wrapper) -> Function:
    def f(x: torch.Tensor) -> torch.Tensor:
        with wrapper as scale:
            return x * scale

    return f


SPECIAL: dict[str, Callable[[Wrapper], Function]] = {
    "getitem": lambda w: lambda x: x * w["scale"],
    "len": lambda w: lambda x: x * len(w),
    "contains": lambda w: lambda x: x * 2 if "more" in w else x,
    "iter": lambda w: lambda x: x * len([name for name in w]),
    "float": lambda w: lambda x: x * float(w),
    "bool": lambda w: lambda x: x * 2 if w else x,
    "mul": lambda w: lambda x: w * x,
    "enter": entered,
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_methods_read_what_is_watched(name: str) -> None:
    inner = {"scale": 2.0}
    follow(SPECIAL[name](Wrapper(inner)), [lambda: inner.update(scale=3.0, more=1.0)])


def follow(f: Function, changes: list[Callable[[], Any]]) -> None:
    """The compiled function sees each change."""
    fast, x = lt.compile(f), torch.randn(3)
    before = f(x)
    same(fast(x), before)
    for change in changes:
        change()
        assert not torch.equal(f(x), before)  # a change that matters
        same(fast(x), f(x))


def containers() -> Iterator[tuple[str, Case]]:
    user = collections.UserDict({"s": 2.0})
    yield "UserDict", (lambda x: x * user["s"], [lambda: user.update(s=3.0)])
    listed = collections.UserList([2.0])
    yield "UserList", (lambda x: x * listed[0], [lambda: listed.__setitem__(0, 3.0)])
    below = {"s": 2.0}
    chained = collections.ChainMap({}, below)
    changes = [lambda: below.update(s=3.0), lambda: chained.update(s=4.0)]
    yield "ChainMap", (lambda x: x * chained["s"], changes)
    shown = {"s": 2.0}
    proxy, values, items = types.MappingProxyType(shown), shown.values(), shown.items()
    yield "MappingProxyType", (lambda x: x * proxy["s"], [lambda: shown.update(s=3.0)])
    yield "values", (lambda x: x * sum(values), [lambda: shown.update(s=4.0)])
    yield "items", (lambda x: x * sum([v for _, v in items]), [lambda: shown.update(s=5.0)])
    kept = Wrapper({"s": 2.0})
    referred = weakref.ref(kept)
    yield "weakref", (lambda x: x * referred()["s"], [lambda: kept.inner.update(s=3.0)])
    context = contextvars.ContextVar("context", default=2.0)
    yield "ContextVar", (lambda x: x * context.get(), [lambda: context.set(3.0)])
    local = threading.local()
    local.s = 2.0
    yield "threading.local", (lambda x: x * local.s, [lambda: setattr(local, "s", 3.0)])
    numbers = array.array("d", [2.0])
    yield "array", (lambda x: x * numbers[0], [lambda: numbers.__setitem__(0, 3.0)])
    growing = [1.0]
    append, count = growing.append, growing.__len__
    yield "bound", (lambda x: x * count(), [lambda: append(2.0)])
    raw = bytearray(b"\2")
    window = memoryview(raw)
    yield "bytearray", (lambda x: x * raw[0], [lambda: raw.__setitem__(0, 3)])
    yield "memoryview", (lambda x: x * window[0], [lambda: raw.__setitem__(0, 4)])


CONTAINERS = dict(containers())


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_of_the_library(name: str) -> None:
    follow(*CONTAINERS[name])


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_FACTOR", "2")
    monkeypatch.delenv("ANOTHER", raising=False)
    change = [lambda: monkeypatch.setenv("A_FACTOR", "3")]
    follow(lambda x: x * float(os.environ["A_FACTOR"]), change)
    change = [lambda: monkeypatch.setenv("ANOTHER", "3")]
    follow(lambda x: x * float(os.getenv("ANOTHER", "1")), change)


def callee(x: torch.Tensor, s: float = 2.0, *, t: float = 1.0) -> torch.Tensor:
    return x * s + t * callee.scale


def other(x: torch.Tensor, s: float = 2.0, *, t: float = 1.0) -> torch.Tensor:
    return x - s - t


@pytest.mark.parametrize("called", [True, False])
def test_what_functions_hold_themselves(called: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    f: Any = (lambda x: callee(x)) if called else callee
    monkeypatch.setattr(callee, "scale", 1.0, raising=False)
    for name in ("__defaults__", "__kwdefaults__", "__code__"):
        monkeypatch.setattr(callee, name, getattr(callee, name))  # put back afterwards
    by_name: Any = callee.__kwdefaults__
    changes = [
        lambda: setattr(callee, "scale", 3.0),
        lambda: setattr(callee, "__defaults__", (5.0,)),
        lambda: by_name.update(t=7.0),
        lambda: setattr(callee, "__kwdefaults__", {"t": 9.0}),
        lambda: setattr(callee, "__code__", other.__code__),
    ]
    follow(f, changes)
    by_name.update(t=1.0)


class Base:
    def factor(self) -> float:
        return 2.0


class Middle(Base):
    pass


class Derived(Middle):
    pass


class Slotted:
    __slots__ = ("scale",)


def test_what_comes_later_and_hides_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Derived()
    changes = [
        lambda: monkeypatch.setattr(Middle, "factor", lambda self: 3.0, raising=False),
        lambda: monkeypatch.setattr(Derived, "factor", lambda self: 4.0, raising=False),
        lambda: monkeypatch.setattr(place, "factor", lambda: 5.0, raising=False),
    ]
    follow(lambda x: x * place.factor(), changes)
    slotted = Slotted()
    change = [lambda: setattr(slotted, "scale", 3.0)]
    follow(lambda x: x * getattr(slotted, "scale", 1.0), change)
    change = [lambda: monkeypatch.setitem(globals(), "max", lambda *numbers: 7.0)]
    follow(lambda x: x * max(1.0, 2.0), change)


FACTOR = 2.0


class Settings(dict[str, float]):
    def factor(self) -> float:
        return self["scale"] * FACTOR


class Pair(NamedTuple):
    scale: float

    def factor(self) -> float:
        return self.scale * FACTOR


class Choice(Enum):
    ONE = 1

    def factor(self) -> float:
        return self.value * FACTOR


@pytest.mark.parametrize("held", [Settings(scale=3.0), Pair(3.0), Choice.ONE], ids=str)
def test_methods_of_containers_and_constants(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(lambda x: x * held.factor(), [lambda: monkeypatch.setitem(globals(), "FACTOR", 5.0)])
    if isinstance(held, Settings):
        held.more = 2.0  # type: ignore[attr-defined]
        change = [lambda: setattr(held, "more", 3.0)]
        follow(lambda x: x * held.more, change)  # type: ignore[attr-defined]


class Made:
    def __init__(self) -> None:
        self.factor = FACTOR


class Registry(type):
    known: ClassVar[dict[str, float]] = {"factor": 2.0}

    def __getattr__(cls, name: str) -> float:
        return cls.known[name]


class Registered(metaclass=Registry):
    pass


def test_what_an_object_is_made_with_and_what_a_metaclass_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    follow(lambda x: x * Made().factor, [lambda: monkeypatch.setitem(globals(), "FACTOR", 3.0)])
    change = [lambda: monkeypatch.setitem(Registry.known, "factor", 3.0)]
    follow(lambda x: x * Registered.factor, change)


def endless() -> Iterator[int]:
    yield from itertools.count(1)


ITERATORS: dict[str, Callable[[], Iterator[Any]]] = {
    "counter": lambda: itertools.count(1),
    "list": lambda: iter([1, 2, 3]),
    "generator": endless,
    "map": lambda: map(int, range(1, 9)),
}


class Iterating(nn.Module):
    def __init__(self, steps: Iterator[Any]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * next(self.steps)


@pytest.mark.parametrize("name", ITERATORS)
def test_what_goes_on_by_itself_is_refused_and_does_not_go_on(name: str) -> None:
    x, steps = torch.ones(3), ITERATORS[name]()
    held = [steps]
    for f in (
        lambda x: x * next(steps),
        lambda x: x * next(held[0]),
        Iterating(steps),
    ):
        with pytest.raises(UnsupportedError, match="is an iterator, which goes on"):
            lt.compile(f)(x)
    with pytest.raises(UnsupportedError, match=r"an argument .* is an iterator"):
        lt.compile(lambda x, steps: x * next(steps))(x, steps)
    assert next(steps) == 1


def test_an_iterator_that_no_code_names_is_not_in_the_way() -> None:
    net = nn.Linear(3, 3)
    net.steps = itertools.count()  # type: ignore[assignment]
    x = torch.randn(2, 3)
    same(lt.compile(net)(x), net(x))


PLACE = Wrapper({})


def test_what_a_forward_leaves_in_an_object_is_no_placeholder() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        global KEPT
        PLACE.kept = KEPT = x * 2  # type: ignore[attr-defined]
        return x + 1

    fast = lt.compile(f)
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(3)
            same(fast(x), x + 1)
            same(PLACE.kept, x * 2)  # type: ignore[attr-defined]
            same(globals()["KEPT"], x * 2)
    del PLACE.kept, globals()["KEPT"]  # type: ignore[attr-defined]
