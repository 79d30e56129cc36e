"""A compiled module still is the module: its class, its fields, what holds it and copies it."""

import copy
import io
import pickle

import pytest
import torch
from comparison import same
from torch import nn

import lazytorch as lt
from lazytorch.errors import UnsupportedError


class Mixed:
    """What a class may have behind every module's class."""

    def thrice(self, x: torch.Tensor) -> torch.Tensor:
        return self(self(self(x)))  # type: ignore[operator]


class Net(nn.Module, Mixed):
    """A module with modes, methods and attributes of its own, some of compiled functions' names."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.stages, self.plans, self.fn = [1, 2], "mine", "mine too"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.dropout(self.linear(x))

    def train(self, mode: bool = True) -> "Net":
        super().train(mode)
        self.dropout.eval()
        return self

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return self(self(x))

    @property
    def width(self) -> int:
        return self.linear.in_features

    def __len__(self) -> int:
        return 7


X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


def test_it_is_the_module() -> None:
    net = Net()
    fast = lt.compile(net)
    assert isinstance(fast, Net) and type(fast).__name__ == "Net"
    assert list(fast.state_dict()) == ["calls", "linear.weight", "linear.bias"]
    assert all(a is b for a, b in zip(fast.parameters(), net.parameters(), strict=True))
    assert (fast.width, len(fast), fast.stages, fast.plans) == (3, 7, [1, 2], "mine")
    assert repr(fast).startswith("compiled Net(")
    assert not fast.train().dropout.training and net.training
    assert not fast.eval().training and not net.training
    with torch.no_grad():
        same(fast(X), net.linear(X))
        same(fast.twice(X), net.linear(net.linear(X)))
    assert fast.calls == 3 and len(fast.programs()) == 1
    assert fast.twice.__self__ is fast.forward.__self__ is fast.thrice.__self__ is net
    assert fast.parameters.__self__ is fast
    fast.twice = lambda x: x * 3  # type: ignore[assignment]
    same(fast.twice(X), X * 3)
    assert "1 plan" in fast.explain()


def test_what_is_set_on_one_is_set_on_the_other() -> None:
    net = Net().eval()
    fast = lt.compile(net)
    fast(X)
    fast.to(torch.float64)
    fast.linear = nn.Linear(3, 4, dtype=torch.float64)
    assert net.linear.out_features == 4
    same(fast(X.double()), net.linear(X.double()))
    net.register_forward_hook(lambda module, given, result: result * 2)
    same(fast(X.double()), net.linear(X.double()) * 2)
    fast.load_state_dict({name: x + 1 for name, x in net.state_dict().items()})
    same(fast(X.double()), net.linear(X.double()) * 2)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = lt.compile(Net())
        self.last = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(x))


def test_a_module_that_holds_it_has_its_parameters() -> None:
    outer = Outer()
    assert len(list(outer.parameters())) == 4
    assert "inner.linear.weight" in outer.state_dict()
    assert not outer.eval().inner.training
    same(lt.compile(outer)(X), outer(X))
    where = [node.where for node in lt.trace(outer, X).nodes if node.op.name() == "linear"]
    assert [x.module for x in where if x is not None] == ["inner.linear", "last"]
    optimizer = torch.optim.SGD(outer.parameters(), 0.1)
    before = outer.inner.linear.weight.clone()
    lt.train_step(outer, lambda y, t: (y - t).square().mean(), optimizer)(X, X)
    assert not torch.equal(before, outer.inner.linear.weight)


class Placed(nn.Module):
    __slots__ = ("scale",)

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def test_a_class_with_places_of_its_own_and_classes_that_change() -> None:
    placed = Placed()
    fast = lt.compile(placed)
    for scale in (2.0, 3.0):
        placed.scale = scale
        same(fast(X), X * scale)
    net = nn.Sequential(nn.ReLU())
    fast = lt.compile(net)
    same(fast(X), X.relu())
    net[0].__class__ = nn.Tanh
    same(fast(X), X.tanh())
    with pytest.raises(UnsupportedError, match="before it is compiled"):
        torch.nn.utils.parametrizations.weight_norm(lt.compile(nn.Linear(3, 3)))


class Method(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    @lt.compile
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.linear(x)
        return result + self.more if hasattr(self, "more") else result  # type: ignore[operator]


def test_a_method_and_what_is_registered_later() -> None:
    for model in (Method(), Method()):
        same(model(X), model.linear(X))
        model.register_buffer("more", torch.ones(3))
        same(model(X), model.linear(X) + 1)
        del model.more
        model.register_parameter("more", nn.Parameter(torch.full((3,), 2.0)))
        same(model(X), model.linear(X) + 2)
        model(X).sum().backward()
        assert model.linear.weight.grad is not None
    assert Method.forward.name == "Method.forward"


def test_copies_and_pickles_compile_for_themselves() -> None:
    net = Net().eval()
    fast = lt.compile(net, fullgraph=True)
    fast(X)
    stream = io.BytesIO()
    torch.save(fast, stream)
    stream.seek(0)
    others = [
        copy.deepcopy(fast),
        pickle.loads(pickle.dumps(fast)),
        torch.load(stream, weights_only=False),
    ]
    for other in others:
        assert isinstance(other, Net) and other.linear.weight is not net.linear.weight
        same(other(X), net.linear(X))
        other.linear.weight.data.zero_()
        assert other.options.fullgraph
    same(copy.copy(fast)(X), net.linear(X))
    assert copy.copy(fast).linear is net.linear
    assert all(isinstance(x.inner, Net) for x in (copy.deepcopy(Outer()),))


@lt.compile
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_compiled_functions_are_found_by_name_or_compiled_anew() -> None:
    assert pickle.loads(pickle.dumps(doubled)) is doubled
    same(copy.deepcopy(doubled)(X), X * 2)
    same(pickle.loads(pickle.dumps(lt.compile(torch.sin)))(X), X.sin())


def test_what_is_compiled_twice_is_compiled_once() -> None:
    net = Net().eval()
    again = lt.compile(lt.compile(net))
    same(again(X), net.linear(X))
    assert again.calls == 1
