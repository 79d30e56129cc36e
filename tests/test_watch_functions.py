"""Functions that a recording watches: globals, closures, defaults, keywords; and in threads."""

import functools
import threading
from collections.abc import Callable

import pytest
import torch
from comparison import same

import lazytorch as lt
from lazytorch.errors import UnsupportedError

GLOBALS: dict[str, str] = {
    "read": "return x * SCALE",
    "read in a part": "return sum([x * SCALE for _ in range(2)])",
    "read far down": "y = x\n    " + "y = y.abs().exp()\n    " * 200 + "return x * SCALE",
    "read by its name": "return x * globals()['SCALE']",
    "an attribute": "return x.SCALE if hasattr(x, 'shape') and x.dim() > 9 else x * 2.0",
    "read of the function's own": "return x * scaled.__globals__['SCALE']",
    "read of what it imports": "import test_watch_functions as own\n    return x * own.SCALE",
    "imported": "from test_watch_functions import SCALE\n    return x * SCALE",
    "read of all modules": "import sys\n    return x * sys.modules['test_watch_functions'].SCALE",
    "read by a text": "return eval('x * SCALE')",
    "a word": "return {'SCALE': x * 2.0}['SCALE']",
}


@pytest.mark.parametrize("name", GLOBALS)
def test_a_module_holds_names_that_are_none_of_the_functions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    space = globals()
    monkeypatch.setitem(space, "scaled", None)
    exec(f"def scaled(x):\n    {GLOBALS[name]}", space)
    fast = lt.compile(space["scaled"])
    x = torch.randn(3)
    for scale in (2.0, 5.0, 3.0):
        space["SCALE"] = scale
        same(fast(x), space["scaled"](x))
    assert (len(fast.programs()) == 1) == (name in ("an attribute", "a word"))


def test_functions_of_one_factory_are_watched_each() -> None:
    def made(settings: dict[str, float]) -> Callable[[torch.Tensor], torch.Tensor]:
        def scaled(x: torch.Tensor) -> torch.Tensor:
            return x * settings["scale"]

        return scaled

    first, second = {"scale": 1.0}, {"scale": 2.0}
    parts = [made(first), made(second)]
    x = torch.randn(3)

    def both(x: torch.Tensor) -> torch.Tensor:
        return parts[0](x) + parts[1](x)

    fast = lt.compile(both)
    for scale in (2.0, 10.0):
        second["scale"] = scale
        same(fast(x), both(x))
    first["scale"] = 7.0
    same(fast(x), both(x))


def test_defaults_of_keywords_are_watched() -> None:
    table = {"scale": 1.0}

    def scaled(x: torch.Tensor, *, by: dict[str, float] = table) -> torch.Tensor:
        return x * by["scale"]

    fast, x = lt.compile(scaled), torch.randn(3)
    for scale in (1.0, 5.0):
        table["scale"] = scale
        same(fast(x), scaled(x))


OFFSET = torch.ones(2)


def with_offset(x: torch.Tensor, bias: None = None) -> torch.Tensor:
    return x + OFFSET


def calling(x: torch.Tensor, bias: None = None) -> torch.Tensor:
    return with_offset(x) * 2


def test_functions_with_equal_defaults_are_watched_each(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, x = lt.compile(calling), torch.randn(2)
    for value in (1.0, 2.0):
        monkeypatch.setitem(globals(), "OFFSET", torch.full((2,), value))
        same(fast(x), calling(x))


def test_a_wrapper_sees_the_order_of_keywords() -> None:
    def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - b

    @functools.wraps(inner)
    def wrapper(**given: torch.Tensor) -> torch.Tensor:
        first, second = given.values()
        return first - second

    fast, a, b = lt.compile(wrapper), torch.randn(3), torch.randn(3)
    for _ in range(2):
        same(fast(a=a, b=b), a - b)
        same(fast(b=b, a=a), b - a)


def test_the_order_of_keys_and_keywords_is_seen() -> None:
    def joined(given: dict[str, torch.Tensor], **more: torch.Tensor) -> dict[str, torch.Tensor]:
        whole = torch.cat([*given.values(), *more.values()])
        return {name: x + whole.sum() for name, x in given.items()} | {"whole": whole}

    fast = lt.compile(joined)
    a, b = torch.ones(2), torch.zeros(2)
    for _ in range(2):
        for given in ({"a": a, "b": b}, {"b": b, "a": a}):
            for more in ({"c": a, "d": b}, {"d": b, "c": a}):
                got, want = fast(given, **more), joined(given, **more)
                assert list(got) == list(want)
                assert all(torch.equal(got[name], want[name]) for name in want)
    assert len(fast.programs()) == 4
    lone = lt.compile(lambda **more: torch.cat(list(more.values())))
    for _ in range(3):
        same(lone(a=a, b=b), torch.cat([a, b]))
        same(lone(b=b, a=a), torch.cat([b, a]))


def test_threads_that_make_one_call_at_first_record_it_once() -> None:
    fast = lt.compile(lambda x: x * 2 + 1)
    together, found = threading.Barrier(6), list[torch.Tensor]()

    def call() -> None:
        together.wait()
        found.append(fast(torch.ones(3)))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fast.programs()) == 1
    assert len(found) == 6
    assert all(torch.equal(x, torch.full((3,), 3.0)) for x in found)


def test_what_python_computes_element_by_element_is_refused() -> None:
    for name, f in (
        ("apply_", lambda x: x.apply_(lambda a: a + 1)),
        ("map_", lambda x: x.map_(x, lambda a, b: a + b)),
        ("map2_", lambda x: x.map2_(x, x, lambda a, b, c: a + b + c)),
    ):
        with pytest.raises(UnsupportedError, match=f"{name}: Python computes"):
            lt.compile(f)(torch.ones(3))
