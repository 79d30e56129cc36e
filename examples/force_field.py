"""A small force field trained on forces: the loss is of the energy's gradient.

    python examples/force_field.py

Atoms send each other messages through a network of their distances; the energy is the sum over
atoms, forces are -dE/dx, and training them takes second derivatives through gathers and sums.
"""

import copy

import torch
from beside import agree, beside, losses, ordinary
from torch import nn

import lazytorch as lt

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class ForceField(nn.Module):
    """The energy of molecules of some atoms, and how wrong its forces are."""

    def __init__(self, atoms: int, width: int = 64, rounds: int = 2, centers: int = 16) -> None:
        super().__init__()
        pairs = torch.tensor([(i, j) for i in range(atoms) for j in range(atoms) if i != j])
        self.register_buffer("target", pairs[:, 0].contiguous())
        self.register_buffer("source", pairs[:, 1].contiguous())
        self.register_buffer("centers", torch.linspace(0.5, 4.0, centers))
        self.kind = nn.Embedding(2, width)
        self.filters = nn.ModuleList(mlp(centers, width, width) for _ in range(rounds))
        self.mixes = nn.ModuleList(mlp(width, width, width) for _ in range(rounds))
        self.out = mlp(width, width, 1)

    def energy(self, positions: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        distances = (positions[:, self.target] - positions[:, self.source]).norm(
            dim=-1, keepdim=True
        )
        basis = torch.exp(-4 * (distances - self.centers).square())
        h = self.kind(kinds)
        for seen, mix in zip(self.filters, self.mixes, strict=True):
            messages = h[:, self.source] * seen(basis)
            h = h + mix(torch.zeros_like(h).index_add(1, self.target, messages))
        return self.out(h).sum((1, 2))

    def forward(
        self, positions: torch.Tensor, kinds: torch.Tensor, forces: torch.Tensor
    ) -> torch.Tensor:
        x = positions.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.energy(x, kinds).sum(), x, create_graph=True)
        return (-slope - forces).square().mean()


def mlp(inside: int, width: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inside, width), nn.SiLU(), nn.Linear(width, outside))


def potential(x: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
    """What the network is to learn: a Morse potential between all pairs, deeper for one kind."""
    squares = (x[:, :, None] - x[:, None]).square().sum(-1)
    distances = (squares + torch.eye(x.shape[1])).sqrt()  # an atom has no distance from itself
    depths = 0.2 + 0.2 * (kinds[:, :, None] + kinds[:, None])
    return 0.5 * (depths * (1 - torch.exp(1 - distances)).square()).sum()


def molecules(count: int, atoms: int) -> Batch:
    """Places along a shaken line, kinds, and forces."""
    x = torch.randn(count, atoms, 3) * 0.3
    x[:, :, 0] += torch.arange(atoms) * 0.8
    kinds = torch.randint(0, 2, (count, atoms))
    return x, kinds, -lt.grad(potential)(x, kinds)


def main(
    count: int = 16, atoms: int = 9, width: int = 64, steps: int = 30, rounds: int = 30
) -> float:
    """Train both ways from one start, compare, and time a step of each."""
    torch.manual_seed(0)
    nets = [ForceField(atoms, width)]
    nets.append(copy.deepcopy(nets[0]))
    batches = [molecules(count, atoms) for _ in range(steps)]
    ours, theirs = (torch.optim.Adam(net.parameters(), 1e-3) for net in nets)
    fast = lt.train_step(nets[0], None, ours, wait=True)
    eager = ordinary(nets[1], theirs)
    got, want = losses(fast, batches), losses(eager, batches)
    print(f"error of the forces: {float(got[0]):.4f}, after {steps} steps {float(got[-1]):.4f}")
    agree("losses", got, want, 1e-3)
    agree("weights", list(nets[0].parameters()), list(nets[1].parameters()), 1e-2)
    return beside(lambda: eager(*batches[0]), lambda: fast(*batches[0]), rounds)


if __name__ == "__main__":
    main()
