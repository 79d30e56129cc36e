"""A physics-informed network for the heat equation u_t = 0.1 u_xx: second derivatives in the loss.

    python examples/heat.py

torch.compile cannot compile this loss; here it is one graph with its derivatives and the optimizer.
"""

import math
import time

import torch
from beside import ordinary
from torch import nn

import lazytorch as lt

DIFFUSION = 0.1


class Heat(nn.Module):
    """u(t, x) on [0, 1] x [-1, 1], and what is wrong with it: residual, start and border."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(2, width), nn.Tanh()]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.Tanh()]
        self.u = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(
        self, inside: torch.Tensor, start: torch.Tensor, border: torch.Tensor
    ) -> torch.Tensor:
        z = inside.detach().requires_grad_()
        (g,) = torch.autograd.grad(self.u(z).sum(), z, create_graph=True)
        (h,) = torch.autograd.grad(g[:, 1].sum(), z, create_graph=True)
        residual = g[:, 0] - DIFFUSION * h[:, 1]
        initial = self.u(start).squeeze(1) + torch.sin(math.pi * start[:, 1])
        return residual.square().mean() + initial.square().mean() + self.u(border).square().mean()


def points(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random places inside, at the start, and on the border."""
    inside, start, border = (torch.rand(count, 2) for _ in range(3))
    inside[:, 1] = inside[:, 1] * 2 - 1
    start[:, 0], start[:, 1] = 0, start[:, 1] * 2 - 1
    border[:, 1] = border[:, 1].round() * 2 - 1
    return inside, start, border


def train(steps: int, eager: bool) -> tuple[float, float, Heat]:
    """Loss after some steps, seconds for the steps after the first ten, and the network."""
    torch.manual_seed(0)
    net = Heat()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    step = ordinary(net, optimizer) if eager else lt.train_step(net, None, optimizer, wait=True)
    began, loss = 0.0, torch.zeros(())
    for i in range(steps):
        batch = points(512)
        if i == 10:
            began = time.perf_counter()
        loss = step(*batch)
    return float(loss.detach()), time.perf_counter() - began, net


def main(steps: int = 300) -> None:
    """Train both ways and compare with the exact solution -exp(-0.1 pi^2 t) sin(pi x)."""
    ours, fast, net = train(steps, eager=False)
    theirs, slow, _ = train(steps, eager=True)
    z = points(1000)[0]
    exact = -torch.exp(-DIFFUSION * math.pi**2 * z[:, 0]) * torch.sin(math.pi * z[:, 1])
    with torch.no_grad():
        error = (net.u(z).squeeze(1) - exact).abs().max()
    print(f"loss {ours:.5f}, eager's {theirs:.5f}; {slow / fast:.2f} times as fast")
    print(f"largest error of u after {steps} steps: {float(error):.3f}")


if __name__ == "__main__":
    main()
