"""Writes that torch does not count, and weights that change while a launch is on its way."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparison import same
from torch import nn

import lazytorch as lt
from lazytorch.runtime.checksum import checksum, weighed


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
