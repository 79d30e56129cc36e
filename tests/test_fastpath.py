"""The fast path: taken for calls like the last one, left for every difference that a key sees."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from comparison import same
from torch import nn

import lazytorch as lt
from lazytorch.compiled import Compiled
from lazytorch.fastpath import FastPath


def scaled(x: torch.Tensor, y: torch.Tensor, by: float = 2.0, *, up: Any = 1) -> torch.Tensor:
    return (x @ y) * by + up


def settled(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Compiled, FastPath | None]:
    """A compiled function after some calls without gradients, and its fast path."""
    fast = lt.compile(fn, wait=True)
    with torch.no_grad():
        for _ in range(3):
            fast(*args, **kwargs)
    return fast, fast.fast


X, Y = torch.randn(3, 3), torch.randn(3, 3)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((X, Y), {}), ((X, Y, 2.0), {"up": 3}), ((X,), {"y": Y, "up": -0.0}), ((), {"y": Y, "x": X})],
)
def test_a_call_like_the_last_one_takes_it(
    monkeypatch: pytest.MonkeyPatch, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    fast, path = settled(scaled, *args, **kwargs)
    assert path is not None
    monkeypatch.setattr(fast, "call", None)
    with torch.no_grad():
        same(fast(*args, **kwargs), scaled(*args, **kwargs))
        others = [torch.randn(3, 3) if isinstance(x, torch.Tensor) else x for x in args]
        same(fast(*others, **kwargs), scaled(*others, **kwargs))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((torch.randn(2, 3), Y, 2.0), {"up": 1}),
        ((X.t(), Y, 2.0), {"up": 1}),
        ((torch.randn(3, 6)[:, ::2], Y, 2.0), {"up": 1}),
        ((X.double(), Y.double(), 2.0), {"up": 1}),
        ((nn.Parameter(X, False), Y, 2.0), {"up": 1}),
        ((torch.randn(3, 3, requires_grad=True), Y, 2.0), {"up": 1}),
        ((X, X, 2.0), {"up": 1}),
        ((X, Y, 2.5), {"up": 1}),
        ((X, Y, 2), {"up": 1}),
        ((X, Y, X), {"up": 1}),
        ((X, Y, [2.0]), {"up": 1}),
        ((X, Y, 2.0), {"up": 1.0}),
        ((X, Y, 2.0), {"up": True}),
        ((X, Y, 2.0), {"up": X}),
        ((X, Y, 2.0), {"down": 1}),
        ((X, Y, 2.0, 1), {}),
        ((X, Y, 2.0), {}),
        ((X, Y), {"up": 1, "by": 2.0}),
        ((X, [Y], 2.0), {"up": 1}),
        ((lt.lazy(X), Y, 2.0), {"up": 1}),
        ((X.to_sparse(), Y, 2.0), {"up": 1}),
    ],
)
def test_other_arguments_miss_it(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    _, path = settled(scaled, X, Y, 2.0, up=1)
    assert path is not None
    with torch.no_grad():
        assert path.match((X, Y, 2.0), {"up": 1}) is not None
        assert path.match(args, kwargs) is None


def long_ways(fast: Compiled, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The calls from now on that take the long way."""
    taken: list[object] = []
    long_way = fast.call
    monkeypatch.setattr(fast, "call", lambda *given: (taken.append(given), long_way(*given))[1])
    return taken


@torch.no_grad()
def test_what_only_reads_does_not_see_whose_memory_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = settled(lambda x, y: x * 2 if x is y else x + y, X, Y)
    taken = long_ways(fast, monkeypatch)
    same(fast(X, X.view(9).view(3, 3)), X + X)
    assert not taken
    same(fast(X, X), X * 2)  # which Python sees
    assert taken


def test_what_writes_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        return x + y

    fast, path = settled(write, X.clone(), Y.clone())
    assert path is not None
    taken = long_ways(fast, monkeypatch)
    (x, y), (a, b) = [(z, z.view(9).view(3, 3)) for z in (X.clone(), X.clone())]
    with torch.no_grad():
        same(fast(x, y), write(a, b))
    assert taken


def test_calls_with_gradients_take_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.ReLU())
    fast = lt.compile(net, wait=True)
    for x in (X, X, torch.randn(3, 3), torch.randn(3, 3)):
        found: list[list[torch.Tensor]] = []
        for call in (fast, net):
            torch.manual_seed(0)
            y = call(x)
            assert y.requires_grad
            found.append([y, *torch.autograd.grad(y.sum(), [*net.parameters()])])
        same(*found)
        if fast.fast is not None:
            monkeypatch.setattr(fast, "call", None)
    assert fast.fast is not None
    net[0].requires_grad_(False)
    monkeypatch.undo()
    for _ in range(3):
        assert not fast(X).requires_grad


def test_zeros_of_both_signs_are_told_apart() -> None:
    _, path = settled(scaled, X, Y, 0.0)
    assert path is not None
    with torch.no_grad():
        assert path.match((X, Y, 0.0), {}) is not None
        assert path.match((X, Y, -0.0), {}) is None


class Set(AbstractContextManager[None]):
    """A global setting, changed for a while."""

    def __init__(self, write: Callable[[Any], object], old: Any, new: Any) -> None:
        self.write, self.old, self.new = write, old, new

    def __enter__(self) -> None:
        self.write(self.new)

    def __exit__(self, *_: object) -> None:
        self.write(self.old)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "gradients": torch.enable_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast, cuda": lambda: Set(lambda x: torch.set_autocast_enabled("cuda", x), False, True),
    "default dtype": lambda: Set(torch.set_default_dtype, torch.float32, torch.float64),
    "threads": lambda: Set(torch.set_num_threads, torch.get_num_threads(), 1),
    "determinism": lambda: Set(torch.use_deterministic_algorithms, False, True),
    "matmul in TF32": lambda: Set(torch._C._set_cublas_allow_tf32, False, True),
    "cuDNN in TF32": lambda: Set(torch._C._set_cudnn_allow_tf32, True, False),
    "flash": lambda: Set(torch._C._set_sdp_use_flash, True, False),
    "efficient": lambda: Set(torch._C._set_sdp_use_mem_efficient, True, False),
    "math": lambda: Set(torch._C._set_sdp_use_math, True, False),
}


@pytest.mark.parametrize("name", MODES)
def test_another_mode_misses_it(name: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    _, path = settled(scaled, X, Y)
    assert path is not None
    with torch.no_grad():
        assert path.match((X, Y), {}) is not None
        with MODES[name]():
            assert path.match((X, Y), {}) is None
        assert path.match((X, Y), {}) is not None
    torch.set_num_threads(before)


def test_autocast_of_another_dtype_misses_it() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        _, path = settled(scaled, X, Y)
        assert path is not None
        with torch.no_grad():
            assert path.match((X, Y), {}) is not None
            with torch.autocast("cpu", torch.float16):
                assert path.match((X, Y), {}) is None


class Flag:
    on = True


class Remembers(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shape = tuple(x.shape)
        return x + 1


DECLINED: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "containers": (lambda xs: xs[0] + 1, ([X],)),
    "no tensors": (lambda n: torch.ones(n), (3,)),
    "objects": (lambda x, flag: x + 1 if flag.on else x, (X, Flag())),
    "cuts": (lambda x: x + 1 if x.sum() > 0 else x - 1, (X,)),
    "filled": (lambda xs: xs.append(xs[0] + 1), ([X],)),
    "shared memory": (lambda x, y: x + y, (X, X[0])),
}


@pytest.mark.parametrize("name", DECLINED)
def test_what_is_not_simple_takes_the_long_way(name: str) -> None:
    fn, args = DECLINED[name]
    _, path = settled(fn, *args)
    assert path is None


def test_what_changes_python_values_takes_the_long_way() -> None:
    net = Remembers()
    fast, path = settled(net, X)
    assert path is not None  # nothing changes any more
    with torch.no_grad():
        for _ in range(2):
            del net.shape
            fast(X)
            assert net.shape == (3, 3) and fast.fast is None


def test_numbers_that_vary_take_the_long_way() -> None:
    fast, path = settled(scaled, X, Y, 2.0)
    assert path is not None
    with torch.no_grad():
        for by in (3.0, 4.0, 2.0, 5.0):
            same(fast(X, Y, by), scaled(X, Y, by))
            assert fast.fast is None


def test_results_in_containers() -> None:
    def function(x: torch.Tensor) -> dict[str, Any]:
        return {"sum": x.sum(), "all": [x + 1, (x, 3)], "none": None}

    fast, path = settled(function, X)
    assert path is not None
    x = torch.randn(3, 3)
    with torch.no_grad():
        same(fast(x), function(x))
    assert fast(x)["all"][1][0] is x


@pytest.mark.parametrize("call", [None, lambda fast: fast.release(), lambda _: lt.reset()])
def test_weights_and_python_values_are_guarded_as_anywhere(
    call: Callable[[Compiled], object] | None,
) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.norm = nn.BatchNorm1d(3)
            self.by = [2.0]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.linear(x)) * self.by[0]

    net = Scale().eval()
    fast, _ = settled(net, X)
    changes: list[Callable[[], object]] = [
        lambda: net.linear.weight.mul_(2),
        lambda: net.norm.weight.add_(1),
        lambda: setattr(net.linear, "weight", nn.Parameter(torch.randn(3, 3))),
        lambda: setattr(net.linear, "bias", None),
        lambda: net.by.__setitem__(0, 5.0),
        lambda: net.linear.register_forward_hook(lambda m, a, y: y + 1),
        lambda: setattr(net.norm.weight, "data", torch.randn(3)),
        lambda: setattr(net, "linear", nn.Linear(3, 3)),
        lambda: net.train(),
    ]
    with torch.no_grad():
        for change in changes:
            change()
            for _ in range(2):
                same(fast(X), net(X))
            if call is not None:
                call(fast)
                assert fast.fast is None
