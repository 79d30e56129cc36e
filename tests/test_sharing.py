"""Parameters, buffers and arguments that are one tensor, or that lie in one memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.errors import UnsupportedError

PIECES: dict[str, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] = {
    "apart": lambda flat: (flat[:10], flat[10:]),
    "overlapping": lambda flat: (flat[:10], flat[5:15]),
    "columns": lambda flat: (flat.view(10, 2)[:, 0], flat.view(10, 2)[:, 1]),
    "equal": lambda flat: (flat[:10], flat[:10]),
}


class Pieces(nn.Module):
    """Two parameters that are views of one buffer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        a, b = PIECES[kind](torch.linspace(-1, 1, 20))
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.a).sin() + self.b * self.b * x


def agrees(model: Any, fast: Any, *args: torch.Tensor) -> None:
    """Results and gradients are eager's."""
    with torch.no_grad():
        torch.testing.assert_close(fast(*args), model(*args))
    tensors = list({id(t): t for t in [*model.parameters(), *args] if t.requires_grad}.values())
    found: list[Any] = []
    for run in (fast, model):
        for t in tensors:
            t.grad = None
        y = run(*args)
        y.square().sum().backward()
        found.append([y.detach(), *[t.grad for t in tensors]])
        for t in tensors:
            t.grad = None
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", PIECES)
def test_pieces_of_one_buffer_have_gradients_of_their_own(kind: str) -> None:
    model = Pieces(kind)
    fast = lt.compile(model, wait=True, fullgraph=True)
    for _ in range(2):
        agrees(model, fast, torch.randn(10))
    assert all(plan.stage.backward for some in fast.plans.values() for plan in some if plan.grad)


def replace_parameter(model: Pieces, name: str) -> None:
    setattr(model, name, nn.Parameter(torch.randn(10)))


def replace_data(model: Pieces, name: str) -> None:
    getattr(model, name).data = torch.randn(10)


def overwrite(model: Pieces, name: str) -> None:
    with torch.no_grad():
        getattr(model, name).copy_(torch.randn(10))


@pytest.mark.parametrize("kind", PIECES)
@pytest.mark.parametrize("change", [replace_parameter, replace_data, overwrite])
@pytest.mark.parametrize("names", ["a", "b", "ba"])
def test_a_piece_is_replaced(kind: str, change: Callable[[Pieces, str], None], names: str) -> None:
    model = Pieces(kind)
    fast = lt.compile(model, wait=True)
    agrees(model, fast, torch.randn(10))
    for name in names:
        change(model, name)
        agrees(model, fast, torch.randn(10))
        agrees(model, fast, torch.randn(10))


@pytest.mark.parametrize("kind", PIECES)
def test_buffers_that_lie_in_one_memory_are_replaced(kind: str) -> None:
    class Buffers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            a, b = PIECES[kind](torch.linspace(-1, 1, 20))
            self.register_buffer("a", a)
            self.register_buffer("b", b)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.a + self.b

    model: Any = Buffers()
    fast = lt.compile(model, wait=True)
    x = torch.randn(10)
    agrees(model, fast, x.requires_grad_())
    for name in ("b", "a"):
        setattr(model, name, torch.randn(10))
        agrees(model, fast, x)
        getattr(model, name).data = torch.randn(10)
        agrees(model, fast, x)


def steps(
    kind: str,
    optimizer: Callable[[Any], torch.optim.Optimizer],
    change: Callable[[Pieces], None],
    **options: Any,
) -> None:
    """Steps leave what eager's leave, before and after a change of the model."""
    ours, theirs = Pieces(kind), Pieces(kind)
    mine, other = optimizer(ours.parameters()), optimizer(theirs.parameters())
    step = lt.train_step(ours, nn.functional.mse_loss, mine, **options)
    for i in range(8):
        x, y = torch.randn(10), torch.randn(10)
        loss = step(x, y)
        other.zero_grad()
        want = nn.functional.mse_loss(theirs(x), y)
        want.backward()
        other.step()
        torch.testing.assert_close(loss, want)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
        assert not step.refused
        if i == 3:
            change(ours)
            change(theirs)


CHANGES: dict[str, Callable[[Pieces], None]] = {
    "nothing": lambda model: None,
    "data": lambda model: setattr(model.b, "data", torch.linspace(0, 3, 10)),
    "joined": lambda model: setattr(model.b, "data", model.a.data[:]),
}


@pytest.mark.parametrize("kind", PIECES)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_pieces_are_trained_as_eager_trains_them(kind: str, change: str, momentum: float) -> None:
    steps(kind, lambda p: torch.optim.SGD(p, 0.1, momentum=momentum), CHANGES[change])


@pytest.mark.parametrize("kind", PIECES)
def test_a_whole_step_on_pieces_in_a_compiled_function(kind: str) -> None:
    def made() -> tuple[Pieces, Callable[[torch.Tensor], torch.Tensor]]:
        model = Pieces(kind)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)

        def step(x: torch.Tensor) -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(x).square().sum()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return model, step

    (ours, step), (theirs, eager) = made(), made()
    fast = lt.compile(step, wait=True)
    if kind != "apart":  # what the optimizer writes is seen through the other
        with pytest.raises(UnsupportedError, match="shares its memory with others") as info:
            fast(torch.randn(10))
        assert info.value.where is not None and "test_sharing" in str(info.value.where)
        return
    for _ in range(3):
        x = torch.randn(10)
        torch.testing.assert_close(fast(x), eager(x))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


@pytest.mark.parametrize("which", ["a", "b"])
def test_tied_weights_are_untied_and_tied_again(which: str) -> None:
    model = Tied()
    fast = lt.compile(model, wait=True)
    agrees(model, fast, torch.randn(2, 3))
    tied = model.a.weight
    getattr(model, which).weight = nn.Parameter(torch.randn(3, 3))
    agrees(model, fast, torch.randn(2, 3))
    getattr(model, which).weight = tied
    agrees(model, fast, torch.randn(2, 3))


@pytest.mark.parametrize("first", ["weight", "own"])
def test_an_argument_may_be_a_parameter(first: str) -> None:
    model = nn.Linear(3, 3)
    fast = lt.compile(model, wait=True)
    for which in (first, "own", "weight", "own", "weight"):
        x = torch.randn(3, 3, requires_grad=True)
        agrees(model, fast, model.weight if which == "weight" else x)


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_an_argument_may_lie_in_the_memory_of_a_buffer_that_is_written(first: int) -> None:
    class Counts(nn.Module):
        n: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.arange(6.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n.add_(1)
            return x * 2 + self.n.sum()

    ours, theirs = Counts(), Counts()
    fast = lt.compile(ours, wait=True)
    taken: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda n: n, lambda n: n[:], lambda n: n[2:], lambda n: torch.ones(6),
    ]  # fmt: skip
    with torch.no_grad():
        for i in (first, 0, 1, 2, 3, 3, 0):
            torch.testing.assert_close(fast(taken[i](ours.n)), theirs(taken[i](theirs.n)))
            torch.testing.assert_close(ours.n, theirs.n)
