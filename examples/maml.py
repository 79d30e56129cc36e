"""MAML on sinusoids: the outer gradient goes through the inner gradient steps.

    python examples/maml.py

Each task is a sine of its own amplitude and phase. The network's parameters after a few gradient
steps on a task's support points are judged on its query points; what is learned is where to start.
"""

import copy

import torch
from beside import agree, beside, losses, ordinary
from torch import nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

import lazytorch as lt


class Maml(nn.Module):
    """The mean error over tasks of a network that was adapted to each."""

    def __init__(self, width: int = 40, inner_steps: int = 2, rate: float = 0.01) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )
        self.inner_steps = inner_steps
        self.rate = rate

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, query: torch.Tensor, answer: torch.Tensor
    ) -> torch.Tensor:
        found: list[torch.Tensor] = []
        for task in range(x.shape[0]):
            weights = dict(self.net.named_parameters())
            for _ in range(self.inner_steps):
                loss = mse_loss(functional_call(self.net, weights, (x[task],)), y[task])
                grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
                moved = zip(weights.items(), grads, strict=True)
                weights = {name: w - self.rate * g for (name, w), g in moved}
            adapted = functional_call(self.net, weights, (query[task],))
            found.append(mse_loss(adapted, answer[task]))
        return torch.stack(found).mean()


def tasks(count: int, shots: int) -> tuple[torch.Tensor, ...]:
    """Support points and query points of some sines."""
    amplitude, phase = torch.rand(count, 1, 1) * 4.9 + 0.1, torch.rand(count, 1, 1) * torch.pi
    x, query = (torch.rand(count, shots, 1) * 10 - 5 for _ in range(2))
    return x, amplitude * torch.sin(x - phase), query, amplitude * torch.sin(query - phase)


def main(
    count: int = 8, shots: int = 10, inner_steps: int = 2, steps: int = 100, rounds: int = 30
) -> float:
    """Train both ways from one start, compare, and time a step of each."""
    torch.manual_seed(0)
    nets = [Maml(inner_steps=inner_steps)]
    nets.append(copy.deepcopy(nets[0]))
    batches = [tasks(count, shots) for _ in range(steps)]
    ours, theirs = (torch.optim.Adam(net.parameters(), 3e-3) for net in nets)
    fast = lt.train_step(nets[0], None, ours, wait=True)
    eager = ordinary(nets[1], theirs)
    got, want = losses(fast, batches), losses(eager, batches)
    first, last = float(got[: steps // 4].mean()), float(got[-steps // 4 :].mean())
    print(f"error after adapting in {steps} steps, first and last quarter: {first:.3f}, {last:.3f}")
    agree("losses", got, want, 1e-3)
    agree("weights", list(nets[0].parameters()), list(nets[1].parameters()), 1e-2)
    return beside(lambda: eager(*batches[0]), lambda: fast(*batches[0]), rounds)


if __name__ == "__main__":
    main()
