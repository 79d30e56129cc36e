"""Running out of memory: an error with the plan, and state as it was, whichever line fails."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lazytorch as lt
from lazytorch.errors import OutOfMemoryError
from lazytorch.lower.program import Program
from lazytorch.lower.reserve import SHARE
from lazytorch.lower.timeline import timeline
from lazytorch.runtime.shortage import exhausted

CPU = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory: you tried to"
ERRORS = {
    "cpu": lambda: RuntimeError(f"{CPU} allocate 8 bytes"),
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "library": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
}


class Net(nn.Module):
    """Normed, with buffers that training writes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.out = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.norm(self.conv(x))).mean((2, 3)))


@pytest.fixture(autouse=True)
def nothing_is_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """These models are small: memory is asked for all the same."""
    monkeypatch.setattr("lazytorch.lower.reserve.LEAST", 1)


@contextmanager
def failing(program: Program, at: int, error: Exception) -> Generator[list[int]]:
    """Let the call in line `at` of a program raise; the list is filled when it does."""
    run: Any = getattr(program.run, "args", (program.run,))[0]
    space, met = run.__globals__, []
    name = program.lines[at].text.split(" = ", 1)[-1].split("(", 1)[0]

    def fail(*_: object) -> None:
        met.append(at)
        raise error

    holder, attribute = (space[name.split(".")[0]], "call") if "." in name else (space, name)
    if holder is space:
        before = space[name]
        uses = [i for i, x in enumerate(program.lines) if f"= {name}(" in f"= {x.text}"]
        left = uses.index(at)

        def call(*xs: object) -> object:
            nonlocal left
            left -= 1
            return fail() if left < 0 else before(*xs)

        space[name] = call
    else:
        before = holder.call
        holder.call = fail
    try:
        yield met
    finally:
        if holder is space:
            space[name] = before
        else:
            setattr(holder, attribute, before)


def allocating(program: Program) -> list[int]:
    """The lines that have to allocate something, up to the one that asks for the rest."""
    blocks = timeline(program).blocks
    found = {x.born for x in blocks if program.lines[x.born].does in ("call", "copy")}
    asks = [i for i, line in enumerate(program.lines) if line.text == "reserve()"]
    return sorted({*asks, *[i for i in found if i < min(asks, default=len(program.lines))]})


def assert_enough(program: Program, at: int) -> None:
    """What line `at` asks for is what the lines behind it take, some bytes of libraries' apart."""
    found = timeline(program)
    (asked,) = [x.nbytes for x in found.blocks if x.kind == "reserve"]
    there = sum(x.taken for x in found.blocks if x.kind != "reserve" and x.born < at <= x.died)
    assert asked == pytest.approx(SHARE * (max(found.values()[at:]) - there), rel=0.01)


def state_of(*things: Any) -> list[torch.Tensor]:
    """Copies of everything that modules and optimizers hold."""
    found: list[torch.Tensor] = []
    for x in things:
        if isinstance(x, nn.Module):
            found += [t.detach().clone() for t in x.state_dict().values()]
        else:
            states = x.state_dict()["state"].values()
            found += [t.clone() for s in states for t in s.values() if isinstance(t, torch.Tensor)]
    return found


def same(before: list[torch.Tensor], after: list[torch.Tensor]) -> None:
    assert len(before) == len(after)
    for x, y in zip(before, after, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ERRORS)
def test_the_error_has_the_plan_and_the_users_line(kind: str) -> None:
    model, x = Net().eval(), torch.randn(2, 3, 9, 9)
    fast = lt.compile(model, wait=True)
    with torch.no_grad():
        want = fast(x)
        planned = fast.memory(x)
        (stage,) = fast.programs()
        for at in allocating(stage.main):
            raised = ERRORS[kind]()
            with failing(stage.main, at, raised) as met, pytest.raises(type(raised)) as caught:
                fast(x)
            assert met
            error = caught.value
            assert isinstance(error, OutOfMemoryError) and isinstance(error, torch.OutOfMemoryError)
            assert error.__cause__ is raised
            text = str(error)
            assert all(line in text for line in planned.text())
            assert "alive at the peak" in text and "the largest" in text
            assert "smaller batch" in text and str(raised).splitlines()[0] in text
            node = stage.main.lines[at].node
            assert node is not None and error.where == node.where
            torch.testing.assert_close(fast(x), want)


@pytest.mark.parametrize("momentum", [False, True], ids=["adam", "sgd"])
def test_a_training_step_that_fails_at_any_line_changes_nothing(momentum: bool) -> None:
    torch.manual_seed(0)
    model, x, y = Net(), torch.randn(4, 3, 9, 9), torch.randn(4, 5)
    other = copy.deepcopy(model)

    def made(m: nn.Module) -> torch.optim.Optimizer:
        if momentum:
            return torch.optim.SGD(m.parameters(), 0.1, momentum=0.9)
        return torch.optim.AdamW(m.parameters(), 0.01)

    optimizer, others = made(model), made(other)
    step = lt.train_step(model, F.mse_loss, optimizer, wait=True)
    twin = lt.train_step(other, F.mse_loss, others, wait=True)
    for _ in range(2):
        step(x, y)
        twin(x, y)
    (stage,) = step.compiled.programs()
    lines = allocating(stage.main)
    asks = [i for i in lines if stage.main.lines[i].text == "reserve()"]
    if momentum:  # one launch of all updates, behind everything
        assert len(lines) > 10 and not asks
    else:  # counts of steps are written first of all
        assert asks == lines[-1:]
        assert_enough(stage.main, asks[0])
    for at in lines:
        before = state_of(model, optimizer)
        with failing(stage.main, at, ERRORS["cpu"]()) as met, pytest.raises(OutOfMemoryError):
            step(x, y)
        assert met
        same(before, state_of(model, optimizer))
    torch.testing.assert_close(step(x, y), twin(x, y), rtol=0, atol=0)
    same(state_of(other, others), state_of(model, optimizer))


def test_a_backward_pass_that_fails_leaves_gradients_and_can_be_repeated() -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(2, 3, 9, 9, requires_grad=True)
    fast = lt.compile(model, wait=True)
    fast(x).sum().backward()
    (stage,) = fast.programs()
    assert stage.backward is not None
    (program,) = stage.backward.programs.values()
    wanted = [p.grad.clone() for p in [x, *model.parameters()] if p.grad is not None]
    for at in allocating(program):
        for p in [x, *model.parameters()]:
            p.grad = None
        loss = fast(x).sum()
        with (
            failing(program, at, ERRORS["cuda"]()) as met,
            pytest.raises(torch.OutOfMemoryError, match="backward pass ran out of memory"),
        ):
            loss.backward()
        assert met and all(p.grad is None for p in [x, *model.parameters()])
        loss.backward()
        found = [p.grad for p in [x, *model.parameters()] if p.grad is not None]
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)


def test_a_forward_under_grad_that_fails_leaves_buffers() -> None:
    model, x = Net(), torch.randn(2, 3, 9, 9)
    fast = lt.compile(model, wait=True)
    fast(x)
    (stage,) = fast.programs()
    for at in allocating(stage.main):
        before = state_of(model)
        with failing(stage.main, at, ERRORS["cpu"]()), pytest.raises(OutOfMemoryError):
            fast(x)
        same(before, state_of(model))


class Average(nn.Module):
    """Reads a buffer that it has written."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.mul_(0.5).add_(x, alpha=0.5)
        return torch.softmax(x @ self.seen, -1) @ x


def test_before_a_buffer_is_written_that_later_lines_read_memory_is_asked_for() -> None:
    model, x = Average(), torch.randn(6, 6)
    fast = lt.compile(model, wait=True)
    with torch.no_grad():
        fast(x)
        (stage,) = fast.programs()
        lines = allocating(stage.main)
        assert stage.main.lines[lines[-1]].text == "reserve()", "nothing is allocated behind it"
        assert_enough(stage.main, lines[-1])
        for at in lines:
            before = state_of(model)
            with failing(stage.main, at, ERRORS["cpu"]()), pytest.raises(OutOfMemoryError):
                fast(x)
            same(before, state_of(model))
        other = copy.deepcopy(model)
        torch.testing.assert_close(fast(x), other(x))
        same(state_of(other), state_of(model))


def test_a_prologue_that_fails_runs_again() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval(), torch.randn(2, 3, 9, 9)
    fast = lt.compile(model, wait=True, freeze=True)
    with torch.no_grad():
        fast(x)
        (stage,) = fast.programs()
        (at, *_) = allocating(stage.prologue)
        model[0].weight.mul_(2)
        with failing(stage.prologue, at, ERRORS["cpu"]()), pytest.raises(OutOfMemoryError):
            fast(x)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_other_errors_stay_what_they_are() -> None:
    fast = lt.compile(Net().eval(), wait=True)
    with torch.no_grad():
        fast(torch.ones(2, 3, 9, 9))
        (stage,) = fast.programs()
        raised = RuntimeError("a kernel failed")
        with (
            failing(stage.main, allocating(stage.main)[0], raised),
            pytest.raises(RuntimeError) as caught,
        ):
            fast(torch.ones(2, 3, 9, 9))
    assert caught.value is raised


def test_an_error_lets_go_of_what_was_computed() -> None:
    seen: list[weakref.ref[torch.Tensor]] = []
    fast = lt.compile(Net().eval(), wait=True)
    x = torch.ones(2, 3, 9, 9)
    with torch.no_grad():
        fast(x)
        (stage,) = fast.programs()
        first, *_, last = allocating(stage.main)
        name = stage.main.lines[first].text.split(" = ")[1].split("(")[0]
        space = stage.main.run.__globals__
        before: Callable[..., Any] = space[name]

        def call(*xs: Any) -> Any:
            made = before(*xs)
            seen.append(weakref.ref(made))
            return made

        space[name] = call
        with failing(stage.main, last, ERRORS["cpu"]()), pytest.raises(OutOfMemoryError) as caught:
            fast(x)
        space[name] = before
    gc.collect()
    assert caught.value is not None and seen and seen[0]() is None


def test_torch_s_own_error_on_the_cpu_is_one() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert exhausted(caught.value)
    fast = lt.compile(lambda x: torch.tanh(x.expand(2**20, 2**20, 2**12)) * 2, wait=True)
    with torch.no_grad(), pytest.raises(OutOfMemoryError, match=r"takes .* at its highest"):
        fast(torch.ones(1))


def test_what_is_asked_for_is_none_of_the_largest() -> None:
    model, x = Average(), torch.randn(6, 6)
    fast = lt.compile(model, wait=True)
    with torch.no_grad():
        fast(x)
        (stage,) = fast.programs()
        assert "reserve()" in stage.main.source
        text = str(fast.memory(x))
    assert "(reserve)" not in text.split("the largest:")[1]
