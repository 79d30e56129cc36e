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
from lazytorch.errors import UnsupportedError
from lazytorch.runtime.checksum import checksum, weighed

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


# State that the forward itself keeps in Python.


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ready = False
        self.shape: tuple[int, ...] | None = None
        self.place = Place()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.ready:
            self.ready = True
            x = x * 10
        self.shape = tuple(x.shape)
        self.place.scale = 7.0
        return x + 1


def test_state_that_settles_is_set_again_by_a_replay() -> None:
    ours, theirs = Remembering(), Remembering()
    fast = lt.compile(ours)
    for step, size in enumerate((2, 2, 3, 2, 3, 2)):
        x = torch.randn(size)
        same(fast(x), theirs(x))
        assert (ours.ready, ours.shape, ours.place.scale) == (True, theirs.shape, 7.0)
        if step == 3:
            ours.ready = theirs.ready = False
    assert len([plan for plans in fast.plans.values() for plan in plans]) <= 6


class Counting(nn.Module):
    def __init__(self, place: Any) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.place.count += 1
        return x + self.place.count


class Caching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[int, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) not in self.cache:
            self.cache[len(x)] = torch.arange(len(x))
        return x + self.cache[len(x)]


class Logging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return x + 1


@pytest.mark.parametrize(
    ("make", "name", "line"),
    [
        (lambda: Counting(types.SimpleNamespace(count=0)), "place.count", "self.place.count += 1"),
        (Caching, "cache", "self.cache[len(x)]"),
        (Logging, "seen", "self.seen.append(x)"),
    ],
)
def test_state_that_never_settles_is_refused_by_name_and_line_and_undone(
    make: Callable[[], nn.Module], name: str, line: str
) -> None:
    model = make()
    fast = lt.compile(model)
    x = torch.ones(2)
    for _ in range(2):
        with pytest.raises(UnsupportedError, match=name) as error:
            fast(x)
        assert line in str(error.value)
    if isinstance(model, Counting):
        assert model.place.count == 0
    if isinstance(model, Caching):
        assert model.cache == {}
        model(x)  # filled by eager, there is nothing left to change
        same(fast(x), model(x))
    if isinstance(model, Logging):
        assert model.seen == []


def test_a_hook_that_keeps_results_is_refused() -> None:
    kept: list[Any] = []
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_hook(lambda m, a, y: kept.append(y))
    with pytest.raises(UnsupportedError, match="kept"):
        lt.compile(model)(torch.ones(1, 2))
    assert kept == []


@pytest.mark.parametrize("gradients", [False, True])
def test_containers_among_the_arguments_are_filled_as_eager_fills_them(gradients: bool) -> None:
    def f(x: torch.Tensor, found: list[Any], named: Any, pair: Any) -> torch.Tensor:
        found.append(x + 1)
        found[0] = x * 2
        named["deep"]["y"] = x - 1
        named["n"] += 1
        pair.scale = x.relu()
        return x * 3

    def run(g: Callable[..., Any]) -> Any:
        torch.manual_seed(0)
        kept = torch.zeros(2)
        x = torch.randn(2, requires_grad=gradients)
        found: list[Any] = [kept, kept]
        named: dict[str, Any] = {"deep": {"x": kept}, "n": 0}
        deep, pair = named["deep"], Chosen()
        results = [g(x, found, named, pair) for _ in range(3)]
        assert named["deep"] is deep and found[1] is kept and deep["x"] is kept
        grads: Any = ()
        if gradients:
            total = sum(y.sum() for y in [*results, *found, deep["y"], pair.scale])
            grads = torch.autograd.grad(total, x)  # type: ignore[arg-type]
        return results, found, named, pair.scale, grads

    fast = lt.compile(f)
    for _ in range(2):
        ours, theirs = run(fast), run(f)
        same(ours, theirs)
        assert ours[2]["n"] == theirs[2]["n"] == 3


def test_what_is_kept_eager_may_change_anything_and_that_stays_bounded() -> None:
    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = {"n": 0}

        @lt.disable
        def count(self, x: torch.Tensor) -> torch.Tensor:
            self.calls["n"] += 1
            return x + self.calls["n"]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.count(x * 2) * 3

    lt.reset()
    ours, theirs = Watching(), Watching()
    fast = lt.compile(ours, max_plans=4)
    x = torch.randn(3)
    for _ in range(12):
        same(fast(x), theirs(x))
    assert ours.calls == theirs.calls
    assert len([plan for plans in fast.plans.values() for plan in plans]) <= 4
    assert "calls.n: 1 -> 2" in lt.report()
    assert lt.report().count("recompile") < 8, "it goes on eagerly"
    assert "eager" in lt.report()


def test_gradients_are_those_of_the_state_that_the_forward_saw() -> None:
    model = Model()
    fast = lt.compile(model)
    x = torch.randn(2, 3, requires_grad=True)
    y = fast(x)
    z = model(x)
    model.place.scale = 50.0
    model.factors[0] = 9.0
    model.eval()
    (a,) = torch.autograd.grad(y.sum(), x)
    assert model.place.scale == 50.0 and model.factors[0] == 9.0 and not model.training
    (b,) = torch.autograd.grad(z.sum(), x)
    torch.testing.assert_close(a, b)


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


# Writes that torch does not count.


def folded() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.data.mul_(2),
        lambda w: w.detach().numpy().__setitem__(0, 5.0),
        lambda w: w.data.copy_(w.data.flip(0)),
    ],
)
def test_check_sees_writes_that_torch_does_not_count(write: Callable[[Any], object]) -> None:
    model = folded()
    fast = lt.compile(model, check=True, wait=True)
    x = torch.randn(1, 3, 4, 4)
    lt.reset()
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(fast(x), model(x))
        assert "refresh" not in lt.report()
        write(model[0].weight)
        torch.testing.assert_close(fast(x), model(x))
        assert "refresh" in lt.report() and "0.weight" in lt.report()
        count = lt.report().count("refresh")
        torch.testing.assert_close(fast(x), model(x))
        assert lt.report().count("refresh") == count


@pytest.mark.parametrize("size", [1, 7, 8, 1000])
def test_checksums_differ_for_any_byte_and_any_order(size: int) -> None:
    data = torch.randint(256, (size + 3,), dtype=torch.uint8)[3:]  # not aligned
    for sums in (weighed, checksum):
        before = sums(data)
        assert sums(data.clone()) == before
        for i in (0, size // 2, size - 1):
            data[i] ^= 1
            assert sums(data) != before
            data[i] ^= 1
        turned = data.flip(0)
        assert torch.equal(turned, data) or sums(turned) != before


def test_a_forward_that_writes_through_data_is_seen_while_recording() -> None:
    class Decaying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.weight.data.mul_(0.5)
            return x * self.weight

    ours, theirs = Decaying(), Decaying()
    fast = lt.compile(ours)
    x = torch.randn(3)
    with torch.no_grad():
        for _ in range(3):
            same(fast(x), theirs(x))
            same(ours.weight.data, theirs.weight.data)


def test_a_launch_ahead_of_the_check_is_repeated_when_weights_changed() -> None:
    model = folded()
    fast = lt.compile(model, wait=True)
    x = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        fast(x)
        (stage,) = fast.programs()
        assert stage.prologue_inputs and not stage.ahead
        stage.ahead = True  # as on a GPU
        torch.testing.assert_close(fast(x), model(x))
        model[0].weight.mul_(3)
        torch.testing.assert_close(fast(x), model(x))


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
