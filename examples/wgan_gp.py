"""WGAN with a gradient penalty: the critic's loss holds the norm of its own gradient.

    python examples/wgan_gp.py

A generator learns eight Gaussians on a ring; one compiled step trains the critic, another the
generator. Gulrajani et al. (2017).
"""

import copy
from collections.abc import Callable

import torch
from beside import agree, beside, losses, ordinary
from torch import nn

import lazytorch as lt

PENALTY = 10.0
NOISE = 16


class Critic(nn.Module):
    """Scores of points, and the critic's loss on real and made ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = network(2, width, 1)

    def forward(self, real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        between = torch.lerp(made, real, torch.rand(real.shape[0], 1)).requires_grad_()
        (slope,) = torch.autograd.grad(self.score(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        return self.score(made).mean() - self.score(real).mean() + PENALTY * penalty


class Generator(nn.Module):
    """Points out of noise, and the generator's loss: what a critic says of them."""

    def __init__(self, width: int, critic: Critic) -> None:
        super().__init__()
        self.points = network(NOISE, width, 2)
        self.critic = critic

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        return -self.critic.score(self.points(noise)).mean()


def network(inside: int, width: int, outside: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(inside, width), nn.LeakyReLU(0.2)]
    for _ in range(2):
        layers += [nn.Linear(width, width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(width, outside))


def ring(count: int) -> torch.Tensor:
    """Points of eight Gaussians on a circle."""
    angle = torch.randint(0, 8, (count,)) * (torch.pi / 4)
    return torch.stack([angle.cos(), angle.sin()], 1) * 2 + 0.05 * torch.randn(count, 2)


class Training:
    """Both networks and how each is stepped: `lt.train_step`'s way or eager's."""

    def __init__(self, generator: Generator, compiled: bool) -> None:
        self.generator, critic = generator, generator.critic
        self.critic_step = step_of(critic, critic, compiled)
        self.generator_step = step_of(generator, generator.points, compiled)

    def __call__(self, real: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Both losses of one step of each."""
        with torch.no_grad():
            made = self.generator.points(noise)
        return torch.stack([self.critic_step(real, made), self.generator_step(noise)]).detach()


def step_of(loss: nn.Module, trained: nn.Module, compiled: bool) -> Callable[..., torch.Tensor]:
    """What trains one of the networks by a module that computes its loss."""
    optimizer = torch.optim.Adam(trained.parameters(), 1e-4, betas=(0.5, 0.9))
    if compiled:
        return lt.train_step(loss, None, optimizer, wait=True)
    return ordinary(loss, optimizer)


def main(count: int = 128, width: int = 128, steps: int = 30, rounds: int = 30) -> float:
    """Train both ways from one start, compare, and time a critic's step of each."""
    torch.manual_seed(0)
    nets = [Generator(width, Critic(width))]
    nets.append(copy.deepcopy(nets[0]))
    batches = [(ring(count), torch.randn(count, NOISE)) for _ in range(steps)]
    fast, eager = Training(nets[0], compiled=True), Training(nets[1], compiled=False)
    got, want = losses(fast, batches), losses(eager, batches)
    print(f"critic's loss: {float(got[0, 0]):.3f}, after {steps} steps {float(got[-1, 0]):.3f}")
    agree("losses", got, want, 1e-3)
    agree("weights", list(nets[0].parameters()), list(nets[1].parameters()), 1e-2)
    real, made = batches[0][0], ring(count) / 2
    return beside(
        lambda: eager.critic_step(real, made), lambda: fast.critic_step(real, made), rounds
    )


if __name__ == "__main__":
    main()
