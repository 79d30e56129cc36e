"""Random programs with views, writes and modes: values, histories and gradients are eager's."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_programs import program

import lazytorch as lt
from lazytorch.runtime.build import Builds

PROGRAMS = 400


def space(seed: int) -> dict[str, Any]:
    """What a program finds beside its arguments."""
    drawn = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(seed))
    return {"torch": torch, "buffer": drawn[0].clone(), "parameter": torch.nn.Parameter(drawn[1])}


Run = tuple[list[Any], list[torch.Tensor]]


def run(f: Callable[..., Any], held: dict[str, Any], seed: int, leaves: bool) -> Run | str:
    """A call and a backward pass: what results are, what everything holds, gradients; or that an
    error was raised."""
    drawn = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(seed + 1))
    given = [drawn[0].clone().requires_grad_(), drawn[1].clone().requires_grad_(seed % 3 == 0)]
    held["parameter"].grad = None
    asked = [one for one in (*given, held["parameter"]) if one.requires_grad]
    x, y = given if leaves else [one * 1 for one in given]
    try:
        results = f(x, y)
        kinds = [(r.shape, r.stride(), r.requires_grad) for r in results]
        loss = [(r.sin() * (k + 1)).sum() for k, r in enumerate(results) if r.requires_grad]
        if loss:
            torch.stack(loss).sum().backward()
    except Exception as error:
        return type(error).__name__
    tensors = [*results, x, y, held["buffer"], held["parameter"]]
    # Eager has zeros where a write hid all of a tensor, and where nothing reads one None.
    grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in asked]
    return kinds, [*[one.detach().clone() for one in tensors], *grads]


@pytest.fixture
def on_torchs_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Builds, "start", lambda *_: None)  # hundreds of kernels, each run once


@pytest.mark.parametrize("part", range(8))
@pytest.mark.usefixtures("on_torchs_kernels", "one_thread")
def test_random_programs(part: int) -> None:
    right = 0
    for seed in range(part, PROGRAMS, 8):
        text = program(random.Random(seed))
        ours, theirs = space(seed), space(seed)
        for held in (ours, theirs):
            exec(text, held)
        fast, leaves = lt.compile(ours["f"]), seed % 2 == 0
        for _ in range(2):
            want = run(theirs["f"], theirs, seed, leaves)
            got = run(fast, ours, seed, leaves)
            if isinstance(got, str) or isinstance(want, str):
                break  # both raise, ours refuses more, and eager forbids more writes to views
            assert got[0] == want[0], (seed, text)
            for a, b in zip(got[1], want[1], strict=True):
                torch.testing.assert_close(a, b, msg=lambda m: f"{seed}: {m}\n{text}")  # noqa: B023
            right += 1
    assert right > 5
