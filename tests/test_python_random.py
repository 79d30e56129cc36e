"""Python's and NumPy's random numbers: a replay would repeat the recorded ones."""

import copy
import math
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.errors import UnsupportedError

Function = Callable[[torch.Tensor], torch.Tensor]


@pytest.mark.parametrize(
    "draws",
    [
        lambda x: x * random.random(),
        lambda x: x * (2 if np.random.uniform(0, 1) < 0.3 else 3),
        lambda x: x + random.randint(0, 5),
        lambda x: x[np.random.permutation(4)],
        lambda x: x * np.random.rand(),
        lambda x: x + torch.from_numpy(np.random.rand(4)),
        lambda x: x * (1 if random.uniform(a=2, b=3) < 2.5 else 0),
        lambda x: x * (1 if np.random.uniform(3) < 2.5 else 0),
        lambda x: x * (2 if 0.3 < random.random() < 0.7 else 3),
        lambda x: x * (2 if random.random() < 0.5 and random.random() > 0.5 else 3),
        lambda x: x * (2 if math.log(random.random()) < -1 else 3),
        lambda x: x * torch.full((4,), random.random(), dtype=x.dtype),
        lambda x: x * shuffled([1, 2, 3, 4])[0],
        lambda x: x * len(random.choice([[1], [1, 2]])),
        lambda x: x * int(f"{random.randrange(4)}"),
    ],
    ids=[
        "float",
        "branch",
        "integer",
        "order",
        "numpy",
        "array",
        "by name",
        "one end",
        "a band",
        "two",
        "in C",
        "by torch",
        "in place",
        "chosen",
        "text",
    ],
)
def test_what_matters_is_refused_at_its_line(draws: Function) -> None:
    x = torch.arange(4.0, dtype=torch.float64) + 1
    random.seed(0)
    np.random.seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    with pytest.raises(
        UnsupportedError, match="draws what every later call would use again"
    ) as raised:
        lt.compile(draws)(x)
    assert __file__.rsplit("/", 1)[-1] in str(raised.value)
    after = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert before == after
    found = [lt.compile(lt.disable(draws))(x) for _ in range(20)]
    assert len({tuple(y.tolist()) for y in found}) > 1


class Layers(nn.Module):
    """Draws whether to drop a layer before it looks whether it is in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            drawn, other = np.random.uniform(0, 1), random.random()
            if not (self.training and (drawn < 0.1 or other > 0.9)):
                x = x.sin()
            if x.sum() > 100:  # a cut
                x = x - 1
        return x


def shuffled(values: list[int]) -> list[int]:
    random.shuffle(values)
    return values


def test_what_is_returned_or_kept_is_refused() -> None:
    x = torch.ones(3)
    with pytest.raises(UnsupportedError, match="draws what every later call would use again"):
        lt.compile(lambda x: (x, random.random()))(x)
    with pytest.raises(UnsupportedError):
        lt.compile(Keeping())(x)


class Keeping(nn.Module):
    last: object = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = random.random()
        return x * 2


class Total(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.square().sum()


def test_what_is_drawn_in_vain_is_not() -> None:
    x = torch.linspace(0, 1, 5)
    fast = lt.compile(Layers().eval())
    for _ in range(2):
        torch.testing.assert_close(fast(x), x.sin().sin().sin())
    with pytest.raises(UnsupportedError, match=r"numpy.random.uniform\(\) draws"):
        lt.compile(Layers())(x)


def test_other_threads_draw_as_they_like() -> None:
    done, drawn = threading.Event(), list[float]()

    def draw() -> None:
        while not done.is_set():
            drawn.append(random.random())

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for n in range(3, 6):
            torch.testing.assert_close(lt.compile(torch.sin)(torch.ones(n)), torch.ones(n).sin())
    finally:
        done.set()
        thread.join()
    assert len(set(drawn)) > 1
    assert random.random.__module__ != "lazytorch.frontend.drawn"
    assert not hasattr(random.random, "__wrapped__")


def test_a_training_step_that_draws_is_eagers() -> None:
    models = []
    for compiled in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), Layers(), Total())
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        np.random.seed(0)
        random.seed(0)
        step = lt.train_step(model, None, optimizer)
        for _ in range(4):
            if compiled:
                step(torch.ones(2, 3))
                continue
            optimizer.zero_grad()
            model(torch.ones(2, 3)).backward()
            optimizer.step()
        if compiled:
            assert "draws what every later call" in step.explain()
        models.append(model)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


class Noisy(nn.Module):
    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(self.generator.random()) if self.training else x + 1


@pytest.mark.parametrize(
    "generator",
    [random.Random(0), np.random.default_rng(0), np.random.Generator(np.random.MT19937(3))],
)
def test_generators_of_their_own_are_refused_where_they_draw(generator: Any) -> None:
    net, x = Noisy(generator), torch.ones(2)
    fast, copied = lt.compile(net), copy.deepcopy(generator)
    with pytest.raises(UnsupportedError, match=r"generator \(.*\) draws what every later call"):
        fast(x)
    assert generator.random() == copied.random()  # as it was
    net.eval()
    assert torch.equal(fast(x), x + 1)
    old = np.random.RandomState(5)
    lone = lt.compile(lambda x: x * float(old.random_sample()))
    with pytest.raises(UnsupportedError, match=r"old \(RandomState\) draws what every later call"):
        lone(x)
    assert old.random_sample() == np.random.RandomState(5).random_sample()


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
def test_a_scheduler_that_steps_inside_is_refused_and_put_back() -> None:
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)

    def step(steps: bool) -> torch.Tensor:
        optimizer.zero_grad()
        (weight * 1.0).sum().backward()
        optimizer.step()
        if steps:
            scheduler.step()
        return weight.detach().clone()

    fast = lt.compile(step)
    with pytest.raises(UnsupportedError, match=r"scheduler \(StepLR\) steps once, not once a call"):
        fast(True)
    assert scheduler.last_epoch == 0 and weight.item() == 1.0
    for expected in (0.0, -1.0, -1.1):
        assert abs(fast(False).item() - expected) < 1e-6
        scheduler.step()


class Own(torch.optim.lr_scheduler.LRScheduler):
    """A scheduler of the user's, with a field that is not pickled and one that a forward reads."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.factor = lambda: 0.5
        self.scale = 2.0
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        return [group["lr"] * self.factor() for group in self.optimizer.param_groups]


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
@pytest.mark.parametrize("kind", [Own, lambda x: torch.optim.lr_scheduler.StepLR(x, 1)])
def test_a_scheduler_steps_nowhere_else_and_its_rate_is_read_anew(kind: Any) -> None:
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    scheduler = kind(optimizer)
    rate, x = optimizer.param_groups[0]["lr"], torch.ones(2)

    def stepping(x: torch.Tensor) -> torch.Tensor:
        scheduler.step()
        return x * scheduler.get_last_lr()[0]

    fast = lt.compile(stepping)
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="steps once, not once a call"):
            fast(x)
        assert (optimizer.param_groups[0]["lr"], scheduler.last_epoch) == (rate, 0)

    def reading(x: torch.Tensor) -> torch.Tensor:
        return x * scheduler.get_last_lr()[0] * getattr(scheduler, "scale", 1.0)

    fast = lt.compile(reading)
    for step in range(3):
        scheduler.scale = step + 1.0
        assert torch.equal(fast(x), reading(x))
        optimizer.step()
        scheduler.step()


class Shifted(random.Random):
    shift = 1.0


class DrawsBackward(torch.autograd.Function):
    generator = random.Random(0)

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return grad * DrawsBackward.generator.random()


def test_generators_that_hold_more_and_generators_of_a_backward_pass() -> None:
    generator, x = Shifted(0), torch.ones(2)
    fast = lt.compile(lambda x: x + generator.shift)
    for value in (1.0, 2.0):
        generator.shift = value
        assert torch.equal(fast(x), x + value)
    bound = random.Random(0).random
    with pytest.raises(UnsupportedError, match="draws what every later call would use again"):
        lt.compile(lambda x: x * bound())(x)
    fast, found = lt.compile(lambda x: DrawsBackward.apply(x).sum()), set[float]()
    for _ in range(3):
        x = torch.ones(2, requires_grad=True)
        fast(x).backward()
        found.add(float(x.grad[0]))  # type: ignore[index]
    assert len(found) == 3


@pytest.mark.parametrize("tensors", [True, False])
def test_what_is_kept_eager_draws_at_each_call_though_it_takes_no_tensor(tensors: bool) -> None:
    generator = random.Random(0)

    @lt.disable
    def drawn() -> Any:
        number = generator.random()
        return torch.full((2,), number) if tensors else number

    fast, copied = lt.compile(lambda x: x * drawn()), random.Random(0)
    for _ in range(4):
        torch.testing.assert_close(fast(torch.ones(2)), torch.full((2,), copied.random()))
