"""Changed weights are used by the very next call; training mode moves buffers as eager does."""

from typing import Any

import pytest
import torch
from comparison import same
from torch import nn

import lazytorch as lt
from lazytorch.interpret import interpret
from lazytorch.lower.prologue import split
from lazytorch.text import parse


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False),
        nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip
    net(torch.randn(2, 3, 6, 6))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.running_mean is not None and m.running_var is not None
            nn.init.uniform_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
    return net.eval()


def close(fast: Any, net: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("freeze", [False, True])
def test_changed_weights_are_used_by_the_very_next_call(freeze: bool) -> None:
    net = conv_net()
    fast = lt.compile(net, wait=True, freeze=freeze)
    x = torch.randn(2, 3, 6, 6)
    close(fast, net, x)
    net.load_state_dict({k: v + 0.1 if v.is_floating_point() else v
                         for k, v in net.state_dict().items()})  # fmt: skip
    close(fast, net, x)
    with torch.no_grad():
        net.get_parameter("0.weight").mul_(2)
    close(fast, net, x)
    net[3].weight = nn.Parameter(torch.randn(4, 8, 1, 1))
    close(fast, net, x)
    net[6] = nn.Linear(144, 5)
    close(fast, net, x)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(x).square().sum().backward()
    optimizer.step()
    net.eval()
    close(fast, net, x)


def test_writes_through_data_need_refresh() -> None:
    net = conv_net()
    fast = lt.compile(net)
    x = torch.randn(2, 3, 6, 6)
    close(fast, net, x)
    net.get_parameter("0.weight").data.mul_(2)
    fast.refresh()
    close(fast, net, x)


def test_batch_norm_and_dropout_in_training() -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ReLU())

    ours, theirs = build(), build()
    fast = lt.compile(ours, wait=True)
    for seed in range(3):
        x = torch.randn(7, 6)
        torch.manual_seed(seed)
        a = fast(x)
        torch.manual_seed(seed)
        same(a, theirs(x))
        same(dict(ours.named_buffers()), dict(theirs.named_buffers()))


@pytest.mark.parametrize("freeze", [False, True])
def test_changed_weights_of_large_linear_layers_are_used_too(freeze: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 400), nn.GELU(), nn.Linear(400, 300)).eval()
    fast = lt.compile(net, wait=True, freeze=freeze)
    x = torch.randn(3, 300)
    for _ in range(2):
        close(fast, net, x)
        with torch.no_grad():
            net.get_parameter("2.weight").add_(1)
    assert ("packed_linear" in fast.source()) == freeze


@pytest.mark.parametrize(
    "other",
    [lambda w: w.t(), lambda w: w[:, :1].expand(4, 4), lambda w: w[:1], lambda w: w.double()],
)
def test_a_weight_that_a_kernel_reads_as_it_is_may_get_another_layout(other: Any) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.weight + 1).relu()

    net = Scaled()
    fast = lt.compile(net, wait=True)
    x = torch.randn(4, 4)
    close(fast, net, x)
    net.weight.data = other(net.weight.data)
    close(fast, net, x)


def test_a_folded_weight_may_become_a_transposed_view_of_its_memory() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    fast = lt.compile(net, wait=True, freeze=True)
    x = torch.randn(2, 4, 3, 3)
    close(fast, net, x)
    weight = net.get_parameter("0.weight")
    weight.data = weight.data.transpose(0, 1)  # the same address and version
    close(fast, net, x)


def test_a_large_tensor_of_one_number_is_filled_at_every_call() -> None:
    for size, kept in ((1 << 18, False), (1 << 10, True)):
        graph = parse(
            f"graph(%x: f32[{size}]) {{ %0 = full{{shape=({size},), value=2.0}} "
            "%1 = div %x %0 return %1, %0 }"
        )
        prologue, main = split(graph)
        assert bool(prologue.outputs) is kept
        x = torch.randn(size)
        kept_values = interpret(prologue)
        for found, wanted in zip(
            interpret(main, x, *kept_values), interpret(graph, x), strict=True
        ):
            torch.testing.assert_close(found, wanted)
