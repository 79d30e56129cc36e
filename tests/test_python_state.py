"""State that a forward keeps in Python: what settles is set again at replays, the rest refused."""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparison import same
from test_watch import Chosen, Model, Place
from torch import nn

import lazytorch as lt
from lazytorch.errors import UnsupportedError


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


class Attributes(nn.Module):
    position: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.position is None:
            self.position = torch.arange(len(x))
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.arange(2.0, 2.0 + len(x)))
        self.last = x * 2
        return x * self.scale + self.position + self.last


class Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place = types.SimpleNamespace()
        self.cache: dict[int, torch.Tensor] = {}
        self.found: dict[str, torch.Tensor] = {}
        self.linear = nn.Linear(3, 3)
        self.linear.register_forward_hook(lambda m, x, y: self.found.update(y=y.detach()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) not in self.cache:
            self.cache[len(x)] = torch.arange(len(x))
        if not hasattr(self.place, "pair"):
            self.place.pair = (torch.ones(3), torch.zeros(3))
        return self.linear(x * self.place.pair[0]) + self.cache[len(x)] + self.place.pair[1]


@pytest.mark.parametrize("kind", [Attributes, Tables])
def test_what_is_filled_at_first_is_filled_by_eager_once(kind: type[nn.Module]) -> None:
    ours, theirs = kind(), kind()
    theirs.load_state_dict(ours.state_dict())
    lt.reset()
    fast = lt.compile(ours)
    for _ in range(4):
        x = torch.randn(3)
        same(fast(x), theirs(x))
        assert tensors_in(ours) and all(map(torch.equal, tensors_in(ours), tensors_in(theirs)))
    assert len(fast.programs()) == 1
    assert "eager this once" in lt.report()


def tensors_in(model: nn.Module) -> list[torch.Tensor]:
    """What a model keeps in fields and tables, and no placeholder of it."""
    held = [vars(model), getattr(model, "cache", {}), getattr(model, "found", {})]
    found = [x for some in held for x in some.values() if isinstance(x, torch.Tensor)]
    assert all(type(x) is torch.Tensor for x in found)
    return [*found, *model.buffers()]


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
