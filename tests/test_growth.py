"""Memory that does not grow: calls of mixed signatures, compiling again, weights that move."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lazytorch as lt
from lazytorch.runtime.allocations import events

CPU = torch.device("cpu")


class Net(nn.Module):
    """Enough for a prologue, kernels and library calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.hidden, self.out = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.out(torch.tanh(self.hidden(x)) * 2).softmax(-1)


def alive() -> dict[str, int]:
    """What there is: tensors, threads as Python and as the system counts them, other objects."""
    gc.collect()
    objects = gc.get_objects()
    tasks = Path("/proc/self/task")
    return {
        "tensors": sum(issubclass(type(x), torch.Tensor) for x in objects),
        "threads": threading.active_count(),
        "thread objects": sum(issubclass(type(x), threading.Thread) for x in objects),
        "tasks": len(os.listdir(tasks)) if tasks.exists() else 0,
    }


def resident() -> int:
    """Bytes of the process that are in memory, 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def steady(act: Callable[[int], object], warm: int, more: int, tolerance: int = 4 * 2**20) -> None:
    """`act` again and again leaves nothing behind after the first few times."""
    for i in range(warm):
        act(i)
    before, bytes_before = alive(), resident()
    for i in range(warm, warm + more):
        act(i)
    assert alive() == before
    assert resident() - bytes_before <= tolerance


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_a_thousand_calls_of_mixed_signatures(grad: bool, wait: bool) -> None:
    model = Net().train(grad)
    fast = lt.compile(model, wait=wait)
    inputs = [torch.randn(2 + i % 3, 3, 8 + i % 4, 8) for i in range(6)]

    def call(i: int) -> None:
        with torch.set_grad_enabled(grad):
            result = fast(inputs[i % len(inputs)])
            if grad:
                result.square().sum().backward()
                model.zero_grad()

    for i in range(4 * len(inputs)):
        call(i)
        fast.wait()
    steady(call, 0, 1000)
    left = [events(lambda i=i: call(i), CPU)[1] for i in range(len(inputs))]
    assert left == [0] * len(inputs)


@pytest.mark.parametrize("wait", [True, False])
def test_signatures_without_end(wait: bool) -> None:
    fast = lt.compile(Net().eval(), wait=wait)

    def call(i: int) -> None:
        with torch.no_grad():
            fast(torch.ones(1 + i % 40, 3, 8, 8))
        fast.wait()

    steady(call, 60, 80)


@pytest.mark.parametrize("wait", [True, False])
def test_releasing_and_compiling_again(wait: bool) -> None:
    fast, x = lt.compile(Net().eval(), wait=wait), torch.randn(2, 3, 8, 8)

    def again(_: int) -> None:
        with torch.no_grad():
            fast(x)
        assert len(fast.builds.threads) < 8
        if not wait:
            for thread in fast.builds.threads:
                thread.join()  # as time would, without asking: nobody has to wait()
        fast.release()

    steady(again, 5, 50)


def test_compiling_another_function_of_the_same_model() -> None:
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    seen: list[weakref.ref[lt.Compiled]] = []

    def again(_: int) -> None:
        fast = lt.compile(model)
        seen.append(weakref.ref(fast))
        with torch.no_grad():
            fast(x)
        fast.wait()

    steady(again, 5, 30)
    assert all(one() is None for one in seen)


def test_training_steps_of_models_that_come_and_go() -> None:
    x, y = torch.randn(2, 3, 8, 8), torch.randn(2, 4)

    def again(_: int) -> None:
        model = Net()
        adam = torch.optim.AdamW(model.parameters())
        step = lt.train_step(model, F.mse_loss, adam, wait=True)
        for _ in range(3):
            step(x, y)
        step.release()

    steady(again, 4, 10)


def test_a_model_that_moves_again_and_again() -> None:
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    fast = lt.compile(model, wait=True)

    def move(i: int) -> None:
        dtype = (torch.float64, torch.float32)[i % 2]
        model.to(dtype)
        with torch.no_grad():
            fast(x.to(dtype))

    steady(move, 6, 40)


def test_weights_that_were_replaced_are_let_go_by_every_plan() -> None:
    model = Net().eval()
    fast = lt.compile(model, wait=True, freeze=True)
    inputs = [torch.randn(n, 3, 8, 8) for n in (1, 2, 3)]
    with torch.no_grad():
        for x in inputs:
            fast(x)
        before = [weakref.ref(p) for p in model.parameters()]
        kept = [weakref.ref(v) for s in fast.programs() for v in s.values if v is not None]
        model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}, assign=True)
        fast(inputs[0])
        gc.collect()
        assert [one() for one in before] == [None] * len(before)
        assert kept and [one() for one in kept] == [None] * len(kept)
        for x in inputs:
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
