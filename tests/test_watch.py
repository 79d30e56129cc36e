"""Python values that a recording baked in: no change of one goes unseen, none is lost."""

import types
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparison import same
from torch import nn

import lazytorch as lt

FACTORS = [1.0, 2.0]
SETTINGS = {"scale": 2.0, "deep": {"shift": [1.0]}}


class Place:
    """An object of the user's with fields, one of them a container."""

    limit = 4.0

    def __init__(self) -> None:
        self.scale = 2.0
        self.parts = {"shift": [1.0]}


class Slotted:
    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = 2.0


class Kind(Enum):
    SUM = 1
    PRODUCT = 2


class Model(nn.Module):
    power = 2

    def __init__(self) -> None:
        super().__init__()
        self.factors = [1.0, 2.0]
        self.table = {"scale": 2.0, "deep": {"shift": [1.0]}}
        self.chosen = {"relu"}
        self.line = deque([3.0])
        self.place = Place()
        self.slotted = Slotted()
        self._hidden = Place()
        self.numbers = np.array([1.0, 2.0])
        self.pair = (1.0, [2.0])
        self.kind = Kind.SUM
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.ELU())
        self.plain = [nn.Linear(3, 3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        x = self.plain[0](self.inner(x)) ** self.power
        for factor in self.factors:
            x = x * factor
        x = x * self.table["scale"] + self.table["deep"]["shift"][0]
        x = x.relu() if "relu" in self.chosen else -x
        x = x * self.line[0] * self.place.scale + self.place.parts["shift"][0] - self.place.limit
        x = x * self.slotted.scale * self._hidden.scale + float(self.numbers[1])
        x = x + 1 if self.kind is Kind.SUM else x * 2
        return x * self.pair[1][0] * FACTORS[0] + SETTINGS["deep"]["shift"][0] * helper()


def helper() -> float:
    """What a forward calls reads globals too."""
    return FACTORS[1]


def edit_class(model: Model) -> None:
    model.place.__class__.limit += 1


CHANGES: dict[str, Callable[[Model], object]] = {
    "list item": lambda m: m.factors.__setitem__(0, 5.0),
    "list longer": lambda m: m.factors.append(5.0),
    "list shorter": lambda m: m.factors.pop(),
    "int for float": lambda m: m.factors.__setitem__(0, 1),
    "dict item": lambda m: m.table.update(scale=5.0),
    "nested container": lambda m: m.table["deep"]["shift"].__setitem__(0, 5.0),
    "set": lambda m: m.chosen.clear(),
    "deque": lambda m: m.line.appendleft(7.0),
    "object": lambda m: setattr(m.place, "scale", 5.0),
    "object by its dictionary": lambda m: vars(m.place).update(scale=5.0),
    "container of an object": lambda m: m.place.parts["shift"].__setitem__(0, 5.0),
    "class of an object": edit_class,
    "class of a module": lambda m: setattr(type(m), "power", type(m).power + 1),
    "slots": lambda m: setattr(m.slotted, "scale", 5.0),
    "private object": lambda m: setattr(m._hidden, "scale", 5.0),
    "object replaced": lambda m: setattr(m, "place", types.SimpleNamespace(
        scale=3.0, parts={"shift": [2.0]}, limit=0.0)),
    "array": lambda m: m.numbers.__setitem__(1, 5.0),
    "list in a tuple": lambda m: m.pair[1].__setitem__(0, 5.0),
    "enum": lambda m: setattr(m, "kind", Kind.PRODUCT),
    "global list": lambda m: FACTORS.__setitem__(0, FACTORS[0] + 1),
    "global of a helper": lambda m: FACTORS.__setitem__(1, FACTORS[1] + 1),
    "global dict": lambda m: SETTINGS["deep"]["shift"].append(SETTINGS["deep"]["shift"].pop() + 1),
    "global replaced": lambda m: globals().update(FACTORS=[9.0, 8.0]),
    "helper replaced": lambda m: globals().update(helper=lambda: 11.0),
    "module list": lambda m: m.layers.append(nn.Linear(3, 3)),
    "module list insert": lambda m: m.layers.insert(0, nn.Linear(3, 3)),
    "module list item": lambda m: m.layers.__setitem__(1, nn.Linear(3, 3)),
    "module list order": lambda m: m.layers._modules.update({"0": m.layers._modules.pop("0")}),
    "sequential item": lambda m: m.inner._modules.update({"1": nn.Tanh()}),
    "sequential longer": lambda m: m.inner.add_module("2", nn.Tanh()),
    "modules, directly": lambda m: m._modules.update(inner=nn.Linear(3, 3)),
    "child of a leaf": lambda m: setattr(m.inner[1], "forward", torch.tanh),
    "forward replaced": lambda m: setattr(m.layers[0], "forward", lambda x: x * 2),
    "forward hook": lambda m: m.inner[1].register_forward_hook(lambda m, a, y: y * 3),
    "forward pre-hook": lambda m: m.inner[0].register_forward_pre_hook(lambda m, a: (a[0] * 3,)),
    "hook with keywords": lambda m: m.register_forward_pre_hook(
        lambda m, a, k: ((a[0] + 1,), k), with_kwargs=True),
    "module in a list": lambda m: m.plain.__setitem__(0, nn.Linear(3, 3)),
    "weight in a list": lambda m: setattr(m.plain[0], "weight", nn.Parameter(torch.randn(3, 3))),
    "bias to None": lambda m: setattr(m.layers[0], "bias", None),
    "bias to None, directly": lambda m: m.layers[0]._parameters.update(bias=None),
}  # fmt: skip


@pytest.fixture
def restored() -> Iterator[None]:
    """Globals and classes as they were."""
    before = (list(FACTORS), SETTINGS["deep"]["shift"][0], helper, Place.limit, Model.power)  # type: ignore[index]
    yield
    globals().update(FACTORS=before[0], helper=before[2])
    SETTINGS["deep"]["shift"][:] = [before[1]]  # type: ignore[index]
    Place.limit, Model.power = before[3], before[4]


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_by_the_very_next_call(name: str) -> None:
    torch.manual_seed(0)
    model = Model()
    fast = lt.compile(model)
    x = torch.randn(2, 3)
    with torch.no_grad():
        before = model(x)
        same(fast(x), before)
        same(fast(x), before)
        CHANGES[name](model)
        after = model(x)
        assert name == "int for float" or not torch.equal(before, after), "nothing to see"
        same(fast(x), after)
        count = len(lt.report().splitlines())
        same(fast(x), after)
        assert len(lt.report().splitlines()) == count


def test_replacing_by_an_equal_value_does_not_record_again() -> None:
    torch.manual_seed(0)
    model = Model()
    fast = lt.compile(model)
    x = torch.randn(2, 3)
    with torch.no_grad():
        fast(x)
        lt.reset()
        fast(x)
        model.factors = [1.0, 2.0]
        model.place.scale = float("2.0")
        model.table = {"scale": 2.0, "deep": {"shift": [1.0]}}
        same(fast(x), model(x))
        assert lt.report() == "no flushes, no recompiles"
        model.factors[1] = 7.0  # the new list is looked into as well
        same(fast(x), model(x))
        model.factors[1] = True
        same(fast(x), model(x))
        assert "factors" in lt.report()


def test_hooks_come_and_go() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    fast = lt.compile(model)
    x = torch.randn(3, 2)
    with torch.no_grad():
        same(fast(x), model(x))
        handle = model[0].register_forward_hook(lambda m, a, y: y * 3)
        same(fast(x), model(x))
        handle.remove()
        same(fast(x), model(x))
        handle = nn.modules.module.register_module_forward_hook(lambda m, a, y: y + 1)
        try:
            same(fast(x), model(x))
        finally:
            handle.remove()
        same(fast(x), model(x))


def test_closures_hold_containers_and_objects() -> None:
    factors = {"scale": [2.0]}
    place = Place()

    def f(x: torch.Tensor) -> torch.Tensor:
        return x * factors["scale"][0] + place.scale

    fast = lt.compile(f)
    x = torch.randn(3)
    same(fast(x), f(x))
    factors["scale"][0] = 3.0
    same(fast(x), f(x))
    place.scale = 5.0
    same(fast(x), f(x))


class Configuration:
    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale
        self.parts = [1.0]


@dataclass
class Chosen:
    scale: float = 2.0


@pytest.mark.parametrize("make", [Configuration, Chosen, lambda: types.SimpleNamespace(scale=2.0)])
def test_an_object_among_the_arguments_may_change(make: Callable[[], Any]) -> None:
    def f(x: torch.Tensor, c: Any) -> torch.Tensor:
        return x * c.scale + (c.parts[0] if hasattr(c, "parts") else 0)

    fast = lt.compile(f)
    x = torch.randn(3)
    c = make()
    same(fast(x, c), f(x, c))
    c.scale = 3.0
    same(fast(x, c), f(x, c))
    c.scale = 3
    same(fast(x, c), f(x, c))
    if hasattr(c, "parts"):
        c.parts.insert(0, 4.0)
        same(fast(x, c), f(x, c))


def test_another_object_that_says_the_same_needs_no_recording_and_one_that_differs_does() -> None:
    def f(x: torch.Tensor, c: Configuration) -> torch.Tensor:
        return x * c.scale + c.parts[0]

    fast = lt.compile(f)
    x = torch.randn(3)
    fast(x, Configuration())
    lt.reset()
    for scale in (2.0, 2.0, 3.0, 2.0, 3.0):
        same(fast(x, Configuration(scale)), x * scale + 1.0)
    assert lt.report().count("recompile") == 1


def test_an_object_that_is_returned_is_the_callers_own() -> None:
    def f(x: torch.Tensor, c: Configuration) -> Any:
        return x * c.scale, c

    fast = lt.compile(f)
    first, second = Configuration(), Configuration()
    assert fast(torch.ones(1), first)[1] is first
    assert fast(torch.ones(1), second)[1] is second


def test_functions_among_the_arguments() -> None:
    factor = [2.0]
    fast = lt.compile(lambda x, g: g(x))
    x = torch.randn(3)
    for g in (lambda x: x + 1, lambda x: x * 3, lambda x: x * factor[0]):
        same(fast(x, g), g(x))
    factor[0] = 5.0
    same(fast(x, lambda x: x * factor[0]), x * 5.0)
    same(fast(x, g), x * 5.0)


def test_types_of_weights_are_guarded() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4))
    fast = lt.compile(model, wait=True)
    x = torch.randn(2, 4)
    with torch.no_grad():
        same(fast(x), model(x))
        model[0].weight.data = model[0].weight.data.t()
        same(fast(x), model(x))
        model[0].weight.data = torch.randn(4, 4)
        same(fast(x), model(x))
        model.double()
        same(fast(x.double()), model(x.double()))
        model.float()
        same(fast(x), model(x))


def test_freezing_and_unfreezing_weights_is_seen() -> None:
    model = nn.Linear(3, 3).requires_grad_(False)
    fast = lt.compile(model)
    x = torch.randn(2, 3)
    assert not fast(x).requires_grad
    model.weight.requires_grad = True
    y = fast(x)
    assert y.requires_grad
    y.sum().backward()
    assert model.weight.grad is not None
    model.weight.requires_grad = False
    assert not fast(x).requires_grad


def test_weights_of_one_element_are_told_apart() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    model = One()
    fast = lt.compile(model)
    x = torch.randn(3)
    with torch.no_grad():
        same(fast(x), model(x))
        model._parameters["scale"] = nn.Parameter(torch.ones(1))  # equal, but another
        same(fast(x), model(x))
        model.scale.mul_(5)
        same(fast(x), model(x))


def test_very_large_containers_are_named() -> None:
    class Vocabulary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = {str(i): i for i in range(10000)}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.words["3"]

    model = Vocabulary()
    fast = lt.compile(model)
    x = torch.randn(2)
    same(fast(x), model(x))
    assert "words: 10,000 entries" in fast.explain()
    model.words["x"] = 1
    same(fast(x), model(x))


def test_a_module_of_the_users_that_holds_constants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = types.ModuleType("constants")
    constants.__file__ = str(tmp_path / "constants.py")
    constants.SCALE = 2.0  # type: ignore[attr-defined]
    monkeypatch.setitem(globals(), "constants", constants)
    space = globals()
    exec("def scaled(x):\n    return x * constants.SCALE", space)
    fast = lt.compile(space["scaled"])
    x = torch.randn(3)
    same(fast(x), x * 2)
    constants.SCALE = 5.0  # type: ignore[attr-defined]
    same(fast(x), x * 5)
    del space["scaled"]
